"""Features of pictures, over which Frechet distances are measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..pretrained import load_model, load_part

_AT_ONCE = 64


class Features(Protocol):
    """`name` says which features a distance is over."""

    name: str

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(B, D), float64."""
        ...


class ClipFeatures:
    """CLIP's projected picture embeddings, and its agreement of a picture with a caption.

    Args:
        folder: a CLIP model in transformers' layout, such as openai/clip-vit-large-patch14.

    Raises:
        PSAError: where the folder holds no such model.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu") -> None:
        self.name = f"CLIP {Path(folder).name}"
        self._device = device
        folder = Path(folder)
        self._model = load_model(folder, "CLIPModel", "CLIP model", "float32").to(device)
        self._processor = load_part(folder, "CLIPImageProcessor", "CLIP model")
        self._tokenizer = load_part(folder, "CLIPTokenizer", "CLIP model")

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return torch.cat([self._images(part) for part in _parts(pictures)]).double().cpu().numpy()

    @torch.no_grad()
    def scores(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """CLIP score of each picture: 100 times the cosine of its embedding and its caption's."""
        scores: list[float] = []
        longest = self._model.config.text_config.max_position_embeddings
        for part, texts in zip(_parts(pictures), _parts(captions), strict=True):
            tokens = self._tokenizer(
                list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
            ).to(self._device)
            # Not get_text_features: what it returns is not the same in every version of transformers.
            embedded = self._model.text_projection(self._model.text_model(**tokens).pooler_output)
            scores += (100 * torch.nn.functional.cosine_similarity(self._images(part), embedded)).tolist()
        return scores

    def _images(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self._processor(list(pictures), return_tensors="pt")["pixel_values"].to(self._device)
        return self._model.visual_projection(self._model.vision_model(pixels).pooler_output)


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
