"""What identifies a model's weights: their values, and what changes them on their way to a computation."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...psa_core.errors import PSAError

_WHOLE = "whole-"  # how an id by all values begins
_SAMPLED_VALUES = 64  # of each tensor, in an id by samples


def weights_id(patcher: ModelPatcher, module: nn.Module, whole: bool = False) -> str:
    """A hash of what `module`, a part of `patcher`'s model, computes with.

    Weights count as they were loaded, and LoRAs by their content and strength: it makes no difference whether ComfyUI
    has merged them into the weights, applies them as it casts those, or has not come to it yet. LoRAs in bypass mode,
    which are code around the layers, do not count: see `refuse_bypassed`.

    Args:
        whole: every value counts, which takes about 2 seconds for 1 GB. Else 64 values of each tensor do, as in what
            earlier versions noted of runs and of data sets: a model that was changed elsewhere is not told apart.
    """
    digest, read = hashlib.blake2b(digest_size=16), _all_bytes if whole else _sampled_bytes
    names = {id(part): name for name, part in patcher.model.named_modules()}
    prefix = f"{names[id(module)]}." if names.get(id(module)) else ""
    for name, tensor in module.state_dict().items():
        original = patcher.backup.get(prefix + name)
        digest.update(name.encode())
        _add(digest, read, tensor if original is None else original.weight)
    changes = (patcher.patches, patcher.weight_wrapper_patches, list(patcher.hook_patches.values()))
    if any(changes):
        _add(digest, read, changes)
        _add(digest, read, [hook.strength for hook in patcher.forced_hooks.hooks] if patcher.forced_hooks else [])
    return f"{_WHOLE if whole else ''}{digest.hexdigest()}"


def is_whole(model_id: str) -> bool:
    """Whether an id that begins with `weights_id`'s was made of all values."""
    return model_id.startswith(_WHOLE)


def refuse_bypassed(*patchers: ModelPatcher) -> None:
    """Raise PSAError where a LoRA in bypass mode is there: its content is out of sight."""
    if any(patcher.injections for patcher in patchers):
        raise PSAError(
            "A LoRA is loaded in bypass mode, in which training cannot tell it from another. Load it without bypass."
        )


def _all_bytes(value: torch.Tensor) -> Any:
    is_plain = type(value) in (torch.Tensor, nn.Parameter)
    flat = value.detach().reshape(-1) if is_plain else value.detach().reshape(-1)[::1].float()  # quantised: unpacked
    return flat.contiguous().cpu().view(torch.uint8).numpy()


def _sampled_bytes(value: torch.Tensor) -> bytes:
    flat = value.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED_VALUES)].float().cpu().numpy().tobytes()


@torch.no_grad()
def _add(digest: Any, read: Callable[[torch.Tensor], Any], value: Any, within: tuple[int, ...] = ()) -> None:
    """Add the content of a tensor by `read`, of plain data, of containers, and of objects by their attributes."""
    if id(value) in within:
        return
    within = (*within, id(value))
    if isinstance(value, torch.Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        if not value.is_meta:
            digest.update(read(value))
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _add(digest, read, value[key], within)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for part in value:
            _add(digest, read, part, within)
    elif isinstance(value, set):
        _add(digest, read, sorted(map(str, value)), within)
    elif isinstance(value, str | int | float | bool | None):
        digest.update(repr(value).encode())
    else:
        digest.update((getattr(value, "__qualname__", None) or type(value).__qualname__).encode())
        _add(digest, read, getattr(value, "__dict__", {}), within)
        _add(digest, read, [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()], within)
