"""The adapter on a diffusers UNet, for scripts, training and tests outside ComfyUI."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .adapter.hooks import user_attention_added
from .adapter.model import PSAAdapter


def cross_attention_layers(unet: Any) -> list[Any]:
    """The UNet's cross-attention modules in checkpoint order: down blocks, up blocks, mid block."""
    parts = (unet.down_blocks, unet.up_blocks, unet.mid_block)
    return [
        module for part in parts if part is not None for name, module in part.named_modules() if name.endswith(".attn2")
    ]


@contextmanager
def psa_applied(unet: Any, adapter: PSAAdapter, tokens: torch.Tensor, strength: float = 1.0) -> Iterator[None]:
    """Within the block, `unet` (a diffusers UNet2DConditionModel) draws for the given user tokens.

    See `user_attention_added`, which this applies to the UNet's cross-attentions.

    Args:
        tokens: (B, N, cross_attention_dim) from `user_tokens` or `uncond_tokens`: a row for each row
            of the batch, or one row for all.
        strength: 0 leaves the UNet's predictions exactly as they are.

    Raises:
        PSAError: if the adapter was made for another UNet, or the tokens or strength are unusable.
    """
    with user_attention_added(cross_attention_layers(unet), adapter, tokens, strength):
        yield
