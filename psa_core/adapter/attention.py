"""The user's cross-attention term: the one place where its maths is written."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import PSAError


@dataclass(frozen=True, eq=False)
class UserKeyValue:
    """What the adapter contributes to one cross-attention layer for R rows (profiles).

    `key` and `value` are (R, N, width). `key` is `None` for N = 1, where a softmax over one token
    is 1 and the key has no effect.
    """

    key: torch.Tensor | None
    value: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> "UserKeyValue":
        return UserKeyValue(None if self.key is None else self.key[rows], self.value[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> "UserKeyValue":
        return UserKeyValue(None if self.key is None else self.key.to(device, dtype), self.value.to(device, dtype))

    def scaled(self, strength: float) -> "UserKeyValue":
        """The contribution times `strength`: attention is linear in its values."""
        return UserKeyValue(self.key, self.value * strength)


def user_attention(
    query: torch.Tensor | None, user: UserKeyValue, heads: int, share: torch.Tensor | float | None = None
) -> torch.Tensor:
    """`share * Attn(Q, K_user, V_user)` (arXiv 2508.01151 eq. 5), to be added before the output projection.

    Args:
        query: (B, L, width), the layer's query; not needed for N = 1.
        user: the layer's contribution for B rows, or for 1 row that all share.
        heads: the layer's number of attention heads.
        share: how much of it counts: one number, or (B, L, 1) for a region of the picture; `None`: all of it.

    Returns:
        (B, L, width); for N = 1 the closed form, the value itself, as (rows, 1, width) to broadcast.
    """
    term = _attention(query, user, heads)
    return term if share is None else term * share


def _attention(query: torch.Tensor | None, user: UserKeyValue, heads: int) -> torch.Tensor:
    if user.key is None:
        return user.value
    if query is None:
        raise PSAError("An adapter with several user tokens needs the layer's query.")
    q, k, v = (_split_heads(tensor, heads) for tensor in (query, user.key, user.value))
    batch = q.shape[0]
    out = F.scaled_dot_product_attention(q, k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1))
    return out.transpose(1, 2).flatten(2)


def _split_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)"""
    return tensor.unflatten(2, (heads, -1)).transpose(1, 2)
