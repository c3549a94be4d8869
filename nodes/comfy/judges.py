"""What nodes call the judges, and where each of them is found."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from comfy import model_management
from PIL import Image

from ...psa_core.errors import PSAError
from ...psa_core.judges.zero_shot import ZeroShotJudge
from .images import to_comfy

GENERAL_JUDGES = {
    "Q16 classifier": "q16",
    "vision-language model": "vlm",
    "NudeNet": "nudenet",
    "Q16 classifier or NudeNet": "q16+nudenet",
}
_WITHOUT_PLACE = ("mini", "nudenet")
_Q16_PROMPTS = ("prompts.p", "prompts.npy", "prompts.safetensors")


def judge_options(node: str, judge: str, kind: str, location: str, model: str) -> dict[str, Any]:
    """The options of `judges.judge_of` that a node's inputs `judge_location` and `judge_model` stand for.

    Raises:
        PSAError: for a judge without the location that it needs, or with one that it has no use for.
    """
    if kind in _WITHOUT_PLACE:
        if location:
            raise PSAError(f"The judge '{judge}' has no place of its own. Leave judge_location empty.")
        return {}
    if not location:
        raise PSAError(f"{node} needs to know where the {judge} is. Write its place into judge_location.")
    if kind == "vlm" and location.startswith(("http://", "https://")):
        if not model:
            raise PSAError("A server may have several models. Write the judging one's name there into judge_model.")
        return {"address": location, "model": model}
    folder, device = Path(os.path.expanduser(location)), str(model_management.get_torch_device())
    if kind == "vlm":
        return {"folder": folder, "device": device}
    prompts = next((folder / name for name in _Q16_PROMPTS if os.path.isfile(folder / name)), folder / _Q16_PROMPTS[0])
    return {"clip_folder": folder, "prompts_path": prompts, "device": device}


def zero_shot_judge(clip_vision: Any, clip: Any, sensitivity: float) -> ZeroShotJudge:
    """The zero-shot judge on ComfyUI's CLIP_VISION and CLIP.

    What CLIP compares are the embeddings behind both projections: `image_embeds` of the one, the pooled output of the
    other (of SDXL's two text encoders, that of the large one).

    Raises:
        PSAError: where one is missing, or the two are not halves of one CLIP.
    """
    if clip_vision is None or clip is None:
        raise PSAError(
            "The judge zero-shot CLIP needs both of its towers. Connect Load CLIP Vision to judge_clip_vision, and the "
            "text encoder that belongs to it to judge_clip."
        )

    def embed_pictures(pictures: Sequence[Image.Image]) -> torch.Tensor:
        # Squeezed to a square, not cut to one: what stands at an edge counts.
        each = [clip_vision.encode_image(to_comfy([picture]), crop=False) for picture in pictures]
        return torch.cat([encoded["image_embeds"] for encoded in each])

    def embed_texts(texts: Sequence[str]) -> torch.Tensor:
        pooled = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1] for text in texts]
        if any(row is None for row in pooled):
            raise PSAError(
                "This text encoder gives no embedding of a whole text (T5 and language models do not). Connect CLIP's "
                "to judge_clip."
            )
        return torch.cat(pooled)

    return ZeroShotJudge(embed_pictures, embed_texts, sensitivity)
