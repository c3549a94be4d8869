"""A base model's folder in diffusers' layout: its parts, read as the classes that are meant, and what stands for it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from .errors import PSAError
from .extras import require
from .files import printable, shown
from .json_text import parse_json
from .tensor_files import no_larger_than

KIND_KEY = "_psa_kind"
"""A model's own word for its kind, in `model_index.json`; diffusers passes over keys with an underscore."""
_MAX_JSON_BYTES = 1 << 20
_CLIP_TOKENS = 77
_MOST_TIMESTEPS = 100_000  # base models have 1,000
_ASKED_FOR = ("init_noise_sigma", "order", "scale_model_input", "set_timesteps", "step", "timesteps")  # of schedulers
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}


def fingerprint(folder: Path, parts: list[str]) -> str:
    """A hash of the parts' files, contents included, so that changed weights never meet what the old ones made."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file()):
        digest.update(json.dumps([str(path.relative_to(folder)), path.stat().st_size]).encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that describes a model.

    Raises:
        PSAError: where there is none.
    """
    try:
        if "\0" in str(path) or not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PSAError(
            f"There is no {path.name} in {printable(path.parent)}. Give a base model in diffusers layout, such "
            "as a local copy of stable-diffusion-v1-5."
        ) from None
    except (OSError, ValueError) as error:
        raise PSAError(f"{printable(path)} is damaged. Copy or download the model again.") from error
    if not isinstance(data, dict):
        raise PSAError(f"{printable(path)} is damaged. Copy or download the model again.")
    return data


def load_part(folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A part of the model, of the class that SD1.5 and SDXL have there, from this machine and .safetensors alone.

    What `model_index.json` calls its class is not asked: the name could lead to anybody's code.

    Args:
        part: one of "unet", "vae", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2".
        dtype: of its weights, where it has any.

    Raises:
        PSAError: where the part is missing or damaged.
    """
    require("train", "Reading a model in diffusers' layout", "diffusers", "transformers")
    try:
        if part == "scheduler":
            return _scheduler(folder)
        kind, where = _class(*_CLASSES[part]), {"subfolder": part, "local_files_only": True}
        if part in ("tokenizer", "tokenizer_2"):
            return _not_longer(
                kind.from_pretrained(folder, **where), folder / part.replace("tokenizer", "text_encoder")
            )
        with no_larger_than((folder / part).glob("*.safetensors")):
            model, report = kind.from_pretrained(
                folder, use_safetensors=True, torch_dtype=dtype, output_loading_info=True, **where
            )
        if report["missing_keys"]:  # they would be random
            raise ValueError(f"it lacks weights, such as {min(report['missing_keys'])}")
        return model
    except PSAError:
        raise
    except Exception as error:  # a folder of anyone's making
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PSAError(
            f"The model in {folder} cannot be loaded as .safetensors weights: its part '{part}' is missing or "
            f"damaged ({shown(reason)})."
        ) from error


def placed(model: Any, device: torch.device) -> Any:
    """The model on the device; on a CPU its convolutions lie channels last, which oneDNN computes faster."""
    return model.to(device, memory_format=torch.channels_last) if device.type == "cpu" else model.to(device)


def _not_longer(tokenizer: Any, encoder: Path) -> Any:
    """The tokenizer, whose texts are no longer than the encoder in that folder takes: not every folder says it."""
    longest = read_json(encoder / "config.json").get("max_position_embeddings", _CLIP_TOKENS)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return tokenizer


def _class(library: str, name: str) -> Any:
    import diffusers
    import transformers

    return getattr({"diffusers": diffusers, "transformers": transformers}[library], name)


def scheduler_config(folder: Path) -> dict[str, Any]:
    """What the folder's scheduler is configured with.

    Raises:
        PSAError: where it is missing or damaged, or of so many timesteps that their table alone would fill the memory.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    timesteps = config.get("num_train_timesteps", 1)  # where it says none, a class has its own number
    if type(timesteps) is not int or not 1 <= timesteps <= _MOST_TIMESTEPS:
        raise PSAError(
            f"The scheduler in {folder} is damaged: num_train_timesteps must be a whole number from 1 to "
            f"{_MOST_TIMESTEPS:,}. Copy the model again."
        )
    return config


def _scheduler(folder: Path) -> Any:
    config = scheduler_config(folder)
    try:
        kind = scheduler_class(config.get("_class_name"))
    except PSAError:
        raise PSAError(
            f"The scheduler in {folder} is of no class that diffusers has for Stable Diffusion. Copy the model again, "
            "or give a Stable Diffusion model."
        ) from None
    return kind.from_config(config)


def scheduler_class(name: Any) -> Any:
    """diffusers' scheduler of this name; raises PSAError where it has none, or one of other models than these."""
    import diffusers

    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin) and _fits(kind)):
        raise PSAError(
            "diffusers has no such scheduler for Stable Diffusion. Give one of its classes, such as DDIMScheduler."
        )
    return kind


def _fits(scheduler: Any) -> bool:
    """Whether it has what Stable Diffusion's pipelines ask it for."""
    try:
        instance = scheduler()
    except TypeError:  # it needs to be told of another kind of model
        return False
    return all(hasattr(instance, name) for name in _ASKED_FOR)
