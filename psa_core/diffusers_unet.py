"""The adapter on a diffusers UNet, for scripts, training and tests outside ComfyUI."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .adapter.hooks import user_attention_added
from .adapter.model import PSAAdapter, check_strength
from .adapter.region import Region, token_grid
from .errors import PSAError


def cross_attention_layers(unet: Any) -> list[Any]:
    """The UNet's cross-attention modules in checkpoint order: down blocks, up blocks, mid block."""
    parts = (unet.down_blocks, unet.up_blocks, unet.mid_block)
    return [
        module for part in parts if part is not None for name, module in part.named_modules() if name.endswith(".attn2")
    ]


@contextmanager
def psa_applied(
    unet: Any, adapter: PSAAdapter, tokens: torch.Tensor, strength: float = 1.0, mask: torch.Tensor | None = None
) -> Iterator[None]:
    """Within the block, `unet` (a diffusers UNet2DConditionModel) draws for the given user tokens.

    See `user_attention_added`, which this applies to the UNet's cross-attentions.

    Args:
        tokens: (B, N, cross_attention_dim) from `user_tokens` or `uncond_tokens`: a row for each row
            of the batch, or one row for all.
        strength: 0 leaves the UNet's predictions exactly as they are.
        mask: where in the picture it counts, see `Region`: one mask for all rows of the batch, or one for each.

    Raises:
        PSAError: if the adapter was made for another UNet, or the tokens, the strength or the mask are unusable.
    """
    region, layers = None if mask is None else Region(mask), cross_attention_layers(unet)
    if region is None or region.is_everywhere:
        with user_attention_added(layers, adapter, tokens, strength):
            yield
        return
    check_strength(strength)
    latents: list[tuple[int, int]] = []
    made: dict[tuple, torch.Tensor] = {}

    def keep_size(_unet: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        latents[:] = [tuple(sample.shape[-2:])]

    def share(hidden: torch.Tensor) -> torch.Tensor:
        rows, queries = hidden.shape[:2]
        if len(region) not in (1, rows):
            raise PSAError(f"There are {len(region)} masks for {rows} rows. Give one for all rows, or one for each.")
        key = (latents[0], rows, queries, hidden.device)
        if key not in made:
            numbers = [row % len(region) for row in range(rows)]
            made[key] = region.weights(numbers, token_grid(latents[0], queries)).to(hidden.device)
        return made[key]

    hook = unet.register_forward_pre_hook(keep_size, with_kwargs=True)
    try:
        with user_attention_added(layers, adapter, tokens, 0.0 if region.is_nowhere else strength, share):
            yield
    finally:
        hook.remove()
