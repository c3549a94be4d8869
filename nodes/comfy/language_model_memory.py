"""A language model under ComfyUI's memory manager: room is made for it, and it gives way to others."""

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import nn

_ACTIVATIONS = 1 << 30  # bytes, for a prompt of a few hundred tokens


class ManagedPlacement:
    """Called with the encoder's model before each use; returns the device the model is then on."""

    def __init__(self) -> None:
        self._patcher: ModelPatcher | None = None

    def __call__(self, model: nn.Module) -> torch.device:
        if self._patcher is None or self._patcher.model.model is not model:
            self._patcher = _patcher(model)
        # In full: only ComfyUI's own layers can run from another device.
        model_management.load_models_gpu([self._patcher], memory_required=_ACTIVATIONS, force_full_load=True)
        return self._patcher.load_device

    def release(self) -> None:
        """Take the model off the GPU and forget it; its memory is free once the encoder drops it too."""
        if self._patcher is not None:
            self._patcher.detach()
            self._patcher = None
            model_management.cleanup_models()
            model_management.soft_empty_cache()


class _Holder(nn.Module):
    """ComfyUI sets `device` on the module it manages; on a transformers model that is read-only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def _patcher(model: nn.Module) -> ModelPatcher:
    size = model_management.module_size(model)
    device, offload = model_management.text_encoder_device(), model_management.text_encoder_offload_device()
    if size + _ACTIVATIONS > model_management.get_total_memory(device):
        device = offload = torch.device("cpu")  # these modules can't be loaded in part: slow, but it runs
    return ModelPatcher(_Holder(model), load_device=device, offload_device=offload, size=size)
