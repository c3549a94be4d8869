"""What identifies a model's weights: their values, and what changes them on their way to a computation."""

import hashlib
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...psa_core.errors import PSAError

_SAMPLED_VALUES = 64  # of each tensor: cheap, and others for other weights


def weights_id(patcher: ModelPatcher, module: nn.Module) -> str:
    """A hash of what `module`, a part of `patcher`'s model, computes with.

    Weights count as they were loaded, and LoRAs by their content and strength: it makes no difference whether ComfyUI
    has merged them into the weights, applies them as it casts those, or has not come to it yet. LoRAs in bypass mode,
    which are code around the layers, do not count: see `refuse_bypassed`.
    """
    digest = hashlib.blake2b(digest_size=16)
    names = {id(part): name for name, part in patcher.model.named_modules()}
    prefix = f"{names[id(module)]}." if names.get(id(module)) else ""
    for name, tensor in module.state_dict().items():
        original = patcher.backup.get(prefix + name)
        digest.update(name.encode())
        _add(digest, tensor if original is None else original.weight)
    changes = (patcher.patches, patcher.weight_wrapper_patches, list(patcher.hook_patches.values()))
    if any(changes):
        _add(digest, changes)
        _add(digest, [hook.strength for hook in patcher.forced_hooks.hooks] if patcher.forced_hooks else [])
    return digest.hexdigest()


def refuse_bypassed(*patchers: ModelPatcher) -> None:
    """Raise PSAError where a LoRA in bypass mode is there: its content is out of sight."""
    if any(patcher.injections for patcher in patchers):
        raise PSAError(
            "A LoRA is loaded in bypass mode, in which training cannot tell it from another. Load it without bypass."
        )


@torch.no_grad()
def _add(digest: Any, value: Any, within: tuple[int, ...] = ()) -> None:
    """Add the content of a tensor, of plain data, of containers, and of objects by their attributes."""
    if id(value) in within:
        return
    within = (*within, id(value))
    if isinstance(value, torch.Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        if not value.is_meta:
            flat = value.detach().reshape(-1)
            sampled = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)]
            digest.update(sampled.float().cpu().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _add(digest, value[key], within)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for part in value:
            _add(digest, part, within)
    elif isinstance(value, set):
        _add(digest, sorted(map(str, value)), within)
    elif isinstance(value, str | int | float | bool | None):
        digest.update(repr(value).encode())
    else:
        digest.update((getattr(value, "__qualname__", None) or type(value).__qualname__).encode())
        _add(digest, getattr(value, "__dict__", {}), within)
        _add(digest, [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()], within)
