"""Features of pictures, over which Frechet distances are measured."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..errors import PSAError
from ..extras import require
from ..files import existing_file
from ..pretrained import load_model, load_part
from ..tensor_files import read_file
from ..torch_files import read_torch_file

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


class InceptionFeatures:
    """The 2048 numbers of the Inception network of 2015 that FID is defined over, by the package torch-fidelity.

    A distance over them is FID as the literature has it. Nothing is downloaded.

    Args:
        weights: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, or the same tensors as `.safetensors`.

    Raises:
        PSAError: where the package is missing, or the file does not hold that network's weights.
    """

    name = "Inception 2015 (FID)"

    def __init__(self, weights: Path | str, device: torch.device | str = "cpu") -> None:
        require("fid", "The features of FID", "torch_fidelity", "torchvision")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = existing_file(weights, "file of Inception's weights")
        tensors = read_file(path)[0] if path.suffix == ".safetensors" else read_torch_file(path)
        with TemporaryDirectory() as folder:
            # The package unpickles whatever file it is given, so it is given one of ours.
            ours = Path(folder) / "weights.pth"
            try:
                torch.save(tensors, ours)
            except (OSError, RuntimeError) as error:  # torch's writer has an error of its own for a full disk
                raise PSAError(
                    f"A copy of {path.name} cannot be written into {folder}: the disk is full, or it is read-only. "
                    "Make room there, or set TMPDIR to another folder."
                ) from error
            try:
                self._model: Any = FeatureExtractorInceptionV3("inception", ["2048"], str(ours))
            except (RuntimeError, TypeError, AttributeError) as error:
                raise PSAError(
                    f"{path.name} does not hold the weights of torch-fidelity's Inception network. Get its "
                    "weights-inception-2015-12-05-6726825d.pth."
                ) from error
        self._model.to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        rows = []
        for picture in pictures:  # one at a time: each is resized from its own size, inside the network
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None]
            rows.append(self._model(pixels.to(self._device))[0].double().cpu().numpy())
        return np.concatenate(rows)


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
