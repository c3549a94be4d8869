"""What the trainer knows of a diffusion model: one protocol, and diffusers' UNet behind it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from ..adapter.model import PSAAdapter
from ..diffusers_unet import cross_attention_layers, psa_applied


class User(NamedTuple):
    """For whom to draw: the adapter and a row of its tokens (R, N, cross_attention_dim) for each row."""

    adapter: PSAAdapter
    tokens: torch.Tensor


class Denoiser(Protocol):
    """One frozen base model in memory, as policy and as reference.

    Attributes:
        id: stands for the weights; part of the key of cached reference errors.
        device: where it computes.
        layer_widths, cross_attention_dim: its cross-attention layers, in checkpoint order.
        alphas_cumprod: (T,) its noise schedule.
        prediction_type: `epsilon` or `v_prediction`.
        weight_bytes: of its weights as they are stored.
    """

    id: str
    layer_widths: Sequence[int]
    cross_attention_dim: int
    alphas_cumprod: torch.Tensor
    prediction_type: str

    @property
    def device(self) -> torch.device: ...

    @property
    def weight_bytes(self) -> int: ...

    def __call__(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        user: User | None = None,
    ) -> torch.Tensor:
        """Predict (R, c, h, w) float32 from noisy latents (R, c, h, w) float32 at timesteps (R,) int64.

        `conditioning` has `text` (R, L, C), for SDXL `pooled` (R, P), and `sizes` (R, 6): original height
        and width, crop top and left, target height and width. `user=None` is the reference pass: the
        base model as it is. With a user, gradients reach the adapter, and whatever the model needs to
        run its forward again (gradient checkpointing) stays in place until the next call or `release`.
        """
        ...

    def release(self) -> None:
        """Leave the base model exactly as it was before the first call."""
        ...


def normal_tensors(module: nn.Module) -> None:
    """Give `module` ordinary tensors in place of ones made under `torch.inference_mode`.

    Autograd cannot save those for a backward pass; values, dtypes and devices stay. One tensor at a
    time is held twice.
    """
    with torch.inference_mode(False), torch.no_grad():
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and parameter.is_inference():
                    part._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.is_inference():
                    part._buffers[name] = buffer.clone()


class DiffusersDenoiser:
    """A diffusers UNet2DConditionModel. It is frozen; its own dtype is the compute dtype.

    Args:
        autocast: bfloat16 to compute under autocast; the adapter's own maths stays float32.
    """

    def __init__(
        self,
        unet: nn.Module,
        alphas_cumprod: torch.Tensor,
        prediction_type: str = "epsilon",
        autocast: torch.dtype | None = None,
        id: str = "",
    ) -> None:
        layers: list[Any] = cross_attention_layers(unet)
        normal_tensors(unet)
        self.id = id
        self.unet: Any = unet.requires_grad_(False)
        self.layer_widths: Sequence[int] = [layer.to_q.out_features for layer in layers]
        self.cross_attention_dim = layers[0].to_k.in_features if layers else 0
        self.alphas_cumprod = alphas_cumprod
        self.prediction_type = prediction_type
        self._autocast = autocast
        self._applied = ExitStack()

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def weight_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.unet.parameters())

    def __call__(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        user: User | None = None,
    ) -> torch.Tensor:
        self.release()
        if user is not None:
            self._applied.enter_context(psa_applied(self.unet, user.adapter, user.tokens))
        dtype = self.unet.dtype
        added = None
        if "pooled" in conditioning:
            added = {"text_embeds": conditioning["pooled"].to(dtype), "time_ids": conditioning["sizes"]}
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            output = self.unet(
                noisy.to(dtype), timesteps, conditioning["text"].to(dtype), added_cond_kwargs=added, return_dict=False
            )
        return output[0].float()

    def release(self) -> None:
        self._applied.close()
