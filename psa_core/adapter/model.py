"""The PSA adapter: profile embedding -> user tokens -> one key and value per layer and token."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from ..files import shown
from .attention import UserKeyValue

FAMILIES = {768: "SD1.5", 2048: "SDXL"}  # by cross_attention_dim; only words messages
MAX_STRENGTH = 10.0
"""Of what nodes ask for, on either side of 0: far beyond what any adapter was trained for."""


class Float32Linear(nn.Linear):
    """A Linear whose weights may be stored in any float dtype and whose maths is float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class UserProjection(nn.Module):
    """Linear, then LayerNorm: a profile embedding (B, D) becomes N tokens (B, N, C), in float32."""

    def __init__(self, embedding_dim: int, cross_attention_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.proj = Float32Linear(embedding_dim, num_tokens * cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        tokens = self.proj(embedding).unflatten(1, (-1, *norm.normalized_shape))
        return F.layer_norm(tokens, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


class LayerProjection(nn.Module):
    """One cross-attention layer's key and value projections; values are zero at first: a new adapter changes nothing.

    Keys are zero for one token, as published, where they have no effect. For several they are random:
    among equal keys the tokens would be averaged, and what a token does where could hardly be learned.

    The one-element lists give the published key names (`to_k_user.0.weight`).
    """

    def __init__(self, cross_attention_dim: int, width: int, num_tokens: int) -> None:
        super().__init__()
        key = _zero_linear(cross_attention_dim, width)
        if num_tokens > 1:
            nn.init.normal_(key.weight, std=cross_attention_dim**-0.5)
        self.to_k_user = nn.ModuleList([key])
        self.to_v_user = nn.ModuleList([_zero_linear(cross_attention_dim, width)])

    def forward(self, tokens: torch.Tensor) -> UserKeyValue:
        key = None if tokens.shape[1] == 1 else self.to_k_user[0](tokens)
        return UserKeyValue(key, self.to_v_user[0](tokens))


class PSAAdapter(nn.Module):
    """A PSA adapter for one UNet layout and one profile encoder (arXiv 2508.01151 sec. 4).

    Its `state_dict` is the published file layout: `user_proj.proj.weight`, ...,
    `psa_adapter.{i}.to_k_user.0.weight`, with `i` over the UNet's cross-attention layers in
    diffusers' `attn_processors` order: down blocks, up blocks, mid block.

    Parameters may be of any float dtype (a loaded file keeps its own, half the memory for half
    precision); the maths is float32, one layer at a time.

    Args:
        layer_widths: each layer's inner width (heads * head dim), in that order.
        cross_attention_dim: the UNet's context width (768 for SD1.5, 2048 for SDXL).
        embedding_dim: D, the profile encoder's width.
        num_tokens: N, user tokens a profile becomes.
        encoder_id: the profile encoder it was trained on; `None` where a file does not say.
        training: a JSON-compatible summary of how it was trained; travels in the file's metadata.
    """

    def __init__(
        self,
        layer_widths: Sequence[int],
        cross_attention_dim: int,
        embedding_dim: int,
        num_tokens: int = 1,
        encoder_id: str | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        sizes = (*layer_widths, cross_attention_dim, embedding_dim, num_tokens)
        if not layer_widths or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise PSAError("An adapter needs at least one layer, and whole numbers above 0 for all its sizes.")
        self.layer_widths = tuple(layer_widths)
        self.cross_attention_dim = cross_attention_dim
        self.embedding_dim = embedding_dim
        self.num_tokens = num_tokens
        self.encoder_id = encoder_id
        self.training_summary = dict(training or {})
        self.user_proj = UserProjection(embedding_dim, cross_attention_dim, num_tokens)
        self.psa_adapter = nn.ModuleList(
            LayerProjection(cross_attention_dim, width, num_tokens) for width in layer_widths
        )

    @property
    def device(self) -> torch.device:
        return self.user_proj.proj.weight.device

    @property
    def family(self) -> str:
        """The base model family in words, for messages and metadata."""
        return family_of(self.cross_attention_dim)

    def user_tokens(self, embedding: torch.Tensor | UserEmbedding) -> torch.Tensor:
        """Project profile embeddings to user tokens.

        Args:
            embedding: (B, D) or (B, 1, D), or a `UserEmbedding` of B profiles.

        Returns:
            (B, N, cross_attention_dim), float32, with gradients where they are on.

        Raises:
            PSAError: for another encoder's embedding, another size, or values that are not finite.
        """
        if isinstance(embedding, UserEmbedding):
            self._check_encoder(embedding)
            embedding = embedding.vectors
        if embedding.ndim == 3 and embedding.shape[1] == 1:
            embedding = embedding[:, 0]
        if embedding.ndim != 2 or embedding.shape[0] == 0 or embedding.shape[1] != self.embedding_dim:
            raise PSAError(
                f"This adapter takes profile embeddings of size {self.embedding_dim}, as (profiles, size); it got "
                f"{tuple(embedding.shape)}. Encode the profile with the encoder the adapter was trained on"
                f"{f' ({shown(self.encoder_id, 60)})' if self.encoder_id else ''}."
            )
        if not torch.isfinite(embedding).all():
            raise PSAError("The profile embedding holds NaN or infinite values. Encode the profile again.")
        return self.user_proj(embedding.to(self.device, torch.float32))

    def uncond_tokens(self, batch: int) -> torch.Tensor:
        """The unconditional rows' tokens, `user_proj(zeros)`: (batch, N, cross_attention_dim), float32."""
        if batch < 1:
            raise PSAError("uncond_tokens needs a batch of at least 1.")
        return self.user_proj(torch.zeros(1, self.embedding_dim, device=self.device)).expand(batch, -1, -1)

    def guidance_tokens(self, users: torch.Tensor | UserEmbedding) -> torch.Tensor:
        """The tokens of a batch under classifier-free guidance, in diffusers' order: unconditional rows, then users'.

        Args:
            users: B profiles' embeddings, as `user_tokens` takes them.

        Returns:
            (2B, N, cross_attention_dim), float32.
        """
        tokens = self.user_tokens(users)
        return torch.cat([self.uncond_tokens(len(tokens)), tokens])

    def key_values(self, tokens: torch.Tensor) -> list[UserKeyValue]:
        """Every layer's contribution for `tokens` (B, N, cross_attention_dim), float32, in checkpoint order."""
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (self.num_tokens, self.cross_attention_dim):
            raise PSAError(
                f"This adapter's tokens have the shape (rows, {self.num_tokens}, {self.cross_attention_dim}); "
                f"these have {tuple(tokens.shape)}."
            )
        return self._through_layers(tokens)

    def joined_key_values(self, tokens: torch.Tensor) -> list[UserKeyValue]:
        """As `key_values`, for rows of V viewers who share one attention: (B, V, N, cross_attention_dim)."""
        if (
            tokens.ndim != 4
            or not tokens.shape[1]
            or tuple(tokens.shape[2:])
            != (
                self.num_tokens,
                self.cross_attention_dim,
            )
        ):
            raise PSAError(
                f"This adapter's joined tokens have the shape (rows, viewers, {self.num_tokens}, "
                f"{self.cross_attention_dim}); these have {tuple(tokens.shape)}."
            )
        return self._through_layers(tokens.flatten(1, 2))

    def _through_layers(self, tokens: torch.Tensor) -> list[UserKeyValue]:
        tokens = tokens.to(self.device, torch.float32)
        return [layer(tokens) for layer in self.psa_adapter]

    def check_fits(self, layer_widths: Sequence[int], cross_attention_dim: int) -> None:
        """Raise PSAError unless a UNet with these cross-attention layers is one this adapter was made for."""
        check_layers("adapter", (self.layer_widths, self.cross_attention_dim), (layer_widths, cross_attention_dim))

    def _check_encoder(self, embedding: UserEmbedding) -> None:
        if self.encoder_id and embedding.encoder_id and self.encoder_id != embedding.encoder_id:
            mine, other = shown(self.encoder_id, 60), shown(embedding.encoder_id, 60)
            raise PSAError(
                f"This adapter was trained on profile embeddings of the encoder '{mine}', but this one was "
                f"made by '{other}'. Encode the profile with '{mine}'."
            )


def _zero_linear(in_features: int, out_features: int) -> Float32Linear:
    linear = Float32Linear(in_features, out_features, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


def family_of(cross_attention_dim: int) -> str:
    """The base model family in words, for messages and metadata."""
    return FAMILIES.get(cross_attention_dim, f"a UNet of context width {cross_attention_dim}")


def check_layers(what: str, made_for: tuple[Sequence[int], int], there: tuple[Sequence[int], int]) -> None:
    """Raise PSAError unless the cross-attention layers of a UNet are the ones that an adapter or effect was made for.

    Args:
        what: "adapter" or "effect".
        made_for, there: (widths, context width).
    """
    (widths, dim), (layer_widths, cross_attention_dim) = made_for, there
    if (tuple(layer_widths), cross_attention_dim) == (tuple(widths), dim):
        return
    model = FAMILIES.get(cross_attention_dim, "other")
    raise PSAError(
        f"This {what} is for {family_of(dim)} ({len(widths)} cross-attention layers of context width {dim}); the model "
        f"is {model} ({len(layer_widths)} layers of context width {cross_attention_dim})"
        f"{'' if model != family_of(dim) else ', with other layer widths or count'}. "
        f"Load an {what} made for this model, or the model this {what} was made for."
    )


def check_strength(strength: float) -> float:
    """Return `strength` if it is a finite number; raise PSAError otherwise."""
    if not isinstance(strength, int | float) or not math.isfinite(strength):
        raise PSAError("The adapter's strength must be a finite number; 1.0 is the published one, 0 turns it off.")
    return float(strength)
