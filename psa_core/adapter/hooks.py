"""The user's term on a UNet's own attention modules, by hooks: diffusers' and ComfyUI's alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..errors import PSAError
from .attention import UserKeyValue, user_attention
from .model import PSAAdapter, check_strength

Share = Callable[[torch.Tensor], torch.Tensor]
"""For a layer's (B, L, width) how much of the user's term counts at each query, (B, L, 1)."""


@contextmanager
def user_attention_added(
    layers: Sequence[Any],
    adapter: PSAAdapter,
    tokens: torch.Tensor,
    strength: float = 1.0,
    share: Share | None = None,
) -> Iterator[None]:
    """Within the block each layer adds `strength * Attn(Q, K_user, V_user)` before its output projection.

    Whatever computes the attention itself stays in charge, and the layers are as before on exit. With
    gradients on they reach the adapter; then call `backward()` inside the block too if the UNet uses
    gradient checkpointing, which runs the forward pass again.

    Args:
        layers: the UNet's cross-attention modules in checkpoint order, with `to_q`, `to_k`, `to_out[0]`, `heads`.
        tokens: (B, N, cross_attention_dim) from `user_tokens` or `uncond_tokens`: a row for each row
            of the batch, or one row for all.
        strength: 0 leaves the layers exactly as they are.
        share: how much of the term counts where; `None`: all of it.

    Raises:
        PSAError: if the adapter was made for other layers, or the tokens or the strength are unusable.
    """
    adapter.check_fits([layer.to_q.out_features for layer in layers], layers[0].to_k.in_features if layers else 0)
    if check_strength(strength) == 0:
        yield
        return
    with contributions_added(layers, [user.scaled(strength) for user in adapter.key_values(tokens)], share):
        yield


@contextmanager
def contributions_added(
    layers: Sequence[Any], contributions: Sequence[UserKeyValue], share: Share | None = None
) -> Iterator[None]:
    """As `user_attention_added`, for keys and values that are there: one a layer, of a row each or one row for all."""
    with ExitStack() as hooks:
        for layer, user in zip(layers, contributions, strict=True):
            for hook in _hook_layer(layer, user, share):
                hooks.callback(hook.remove)
        yield


def _hook_layer(layer: Any, user: UserKeyValue, share: Share | None) -> list:
    if user.key is not None and getattr(layer, "fused_projections", False):
        raise PSAError("An adapter with several tokens needs the query: call unet.unfuse_qkv_projections() first.")
    queries: list[torch.Tensor] = []

    def keep_query(_module, _inputs, output: torch.Tensor) -> None:
        queries[:] = [output]

    def add_user_term(_module, inputs: tuple) -> tuple:
        hidden = inputs[0]
        here = user.to(hidden.device, hidden.dtype)
        _check_rows(here, hidden)
        counts = None if share is None else share(hidden).to(hidden)
        # Taken, not kept: under gradient checkpointing all that a block computed again would hang on its query.
        query = queries.pop() if queries else None
        return (hidden + user_attention(query, here, layer.heads, counts), *inputs[1:])

    hooks = [layer.to_out[0].register_forward_pre_hook(add_user_term)]
    if user.key is not None:
        hooks.append(layer.to_q.register_forward_hook(keep_query))
    return hooks


def _check_rows(user: UserKeyValue, hidden: torch.Tensor) -> None:
    rows = user.value.shape[0]
    if rows not in (1, hidden.shape[0]):
        raise PSAError(
            f"There are user tokens for {rows} rows, but the UNet was given {hidden.shape[0]}. "
            "Give one row of tokens for each row of latents, or one row for all."
        )
