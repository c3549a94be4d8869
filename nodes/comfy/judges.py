"""What nodes call the judges, and where each of them is found."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ...psa_core.chat_server import RemoteAddressError
from ...psa_core.errors import PSAError
from ...psa_core.judges import JUDGES as KINDS
from ...psa_core.judges import judge_of
from ...psa_core.judges.judging import Judge
from ...psa_core.judges.zero_shot import ZeroShotJudge
from ...psa_core.mini.judge import MINI_JUDGE
from .fingerprints import always_new, fingerprint
from .folders import at_home, files_in
from .images import to_comfy
from .mini_model import is_mini
from .progress import NodeWords

GENERAL_JUDGES = {
    "Q16 classifier": "q16",
    "vision-language model": "vlm",
    "NudeNet": "nudenet",
    "Q16 classifier or NudeNet": "q16+nudenet",
}
JUDGES = {"mini detector": "mini", **GENERAL_JUDGES}
"""What nodes call the judges of `psa evaluate`."""
BY_MODEL = "the model's own"
LOCATION = (
    "mini detector, NudeNet: empty. Q16 classifier: a folder with a CLIP model and the classifier's prompts.p. "
    "vision-language model: a model's folder, or the address of a server on this machine."
)
"""The tooltip of a node's input `judge_location`."""
_WITHOUT_PLACE = ("mini", "nudenet")
_Q16_PROMPTS = ("prompts.p", "prompts.npy", "prompts.safetensors")


def judge_for(model: ModelPatcher, judge: str) -> str:
    """The judge's name, found by the model where that is asked for.

    Raises:
        PSAError: for a model that has no judge of its own.
    """
    if judge != BY_MODEL:
        return judge
    if not is_mini(model):
        others = ", ".join(name for name in JUDGES if JUDGES[name] != "mini")
        raise PSAError(f"Only PSA Mini has a judge of its own. Choose as judge, for this model: {others}.")
    return next(name for name in JUDGES if JUDGES[name] == "mini")


def make_judge(node: str, command: str, judge: str, location: str, model: str) -> Judge:
    """The judge, one of `JUDGES`, that a node's three inputs name; `command` is what does the same outside ComfyUI.

    Raises:
        PSAError: for a judge without the location that it needs, with one that it has no use for, or as it does.
    """
    options = judge_options(node, judge, JUDGES[judge], location.strip(), model.strip())
    try:
        return judge_of(JUDGES[judge], options, {"mini": MINI_JUDGE, **KINDS})
    except RemoteAddressError as error:
        raise error.allowed(f"judge with the command {command}, which can be told to allow it") from None


def judge_fingerprint(location: str | None) -> str:
    """Another value once the files of a node's input `judge_location` have changed; a server's own are not seen."""
    if location is None:  # linked: which it is shows when it runs
        return always_new()
    return fingerprint(location, files_in(_folder(location)) if location.strip() else None)


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
        return {"address": location, "model": model, "waiting": NodeWords()}
    folder, device = _folder(location), str(model_management.get_torch_device())
    if kind == "vlm":
        return {"folder": folder, "device": device}
    prompts = next((folder / name for name in _Q16_PROMPTS if os.path.isfile(folder / name)), folder / _Q16_PROMPTS[0])
    return {"clip_folder": folder, "prompts_path": prompts, "device": device}


def _folder(location: str) -> Path:
    return Path(at_home(location.strip()))


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
