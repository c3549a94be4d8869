"""The patch at ComfyUI's cross-attentions ("attn2"), and where they are in a UNet."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.model_patcher import ModelPatcher

from ...psa_core.adapter.attention import UserKeyValue, user_attention
from ...psa_core.errors import PSAError

_CONDITIONAL_ONLY = (0,)  # `cond_or_uncond` of a call from outside a sampler
_UNCONDITIONAL = 1  # in `cond_or_uncond`; 0 is the positive prompt, what lies above belongs to special guiders


@dataclass(frozen=True)
class Site:
    """One cross-attention, by ComfyUI's name for its block, and its module."""

    block: str
    number: int
    index: int  # among the block's transformers
    alone: bool  # it is the block's only transformer
    attention: Any

    @property
    def width(self) -> int:
        return self.attention.to_q.out_features

    @property
    def context_dim(self) -> int:
        return self.attention.to_k.in_features


def cross_attention_sites(unet: Any) -> list[Site]:
    """Every cross-attention of an SD-family UNet in checkpoint order: diffusers' down, up, mid blocks.

    ComfyUI's input blocks are diffusers' down blocks, its output blocks the up blocks.

    Raises:
        PSAError: if the model is not such a UNet.
    """
    try:
        parts = {"input": unet.input_blocks, "output": unet.output_blocks, "middle": [unet.middle_block]}
    except AttributeError:
        raise PSAError(
            "This model has no SD-family UNet, so a PSA adapter cannot be applied to it. Load an SD1.5 or SDXL model."
        ) from None
    return [
        site
        for name, blocks in parts.items()
        for number, block in enumerate(blocks)
        for site in _in(block, name, number)
    ]


def _in(block: Any, name: str, number: int) -> Iterator[Site]:
    transformers = [layer for layer in block or () if isinstance(layer, SpatialTransformer)]
    if len(transformers) > 1:
        raise PSAError("This UNet has several transformers in one block, which no SD-family model has.")
    for transformer in transformers:
        depth = len(transformer.transformer_blocks)
        for index, inner in enumerate(transformer.transformer_blocks):
            yield Site(name, number, index, depth == 1, inner.attn2)


class BatchRows:
    """Which profile each row of a batch is drawn for.

    ComfyUI batches whole copies of the latents, one for each entry of `cond_or_uncond`. In a
    conditional copy, row i takes profile i mod P; in an unconditional one, the row behind the last
    profile, which holds `user_proj(zeros)`. Tiled-diffusion packs batch several tiles, each with all
    its copies: more rows than latents and copies account for, in the same order over and over.
    """

    def __init__(self, profiles: int) -> None:
        self.profiles = profiles

    def __call__(self, cond_or_uncond: Sequence[int], batch: int, latents: int) -> list[int]:
        """`batch` rows for `latents` latents a copy, as ComfyUI counts them before any pack does."""
        copies = len(cond_or_uncond)
        # A pack may run a part of the batch in whole copies; and of a single latent's tiles in a
        # single copy there is nothing to tell apart.
        if batch % (copies * latents) or copies * latents == 1:
            latents = batch // copies
        rows = [
            self.profiles if kind == _UNCONDITIONAL else row % self.profiles
            for kind in cond_or_uncond
            for row in range(latents)
        ]
        return rows * (batch // len(rows))


class SigmaRange:
    """Whether a sampling step lies between two noise levels, both included (ComfyUI's own convention)."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self._step: torch.Tensor | None = None
        self._inside = False

    @classmethod
    def of(cls, model_sampling: Any, start_percent: float, end_percent: float) -> "SigmaRange | None":
        """`None` for the whole of sampling, so that no step is ever asked."""
        if (start_percent, end_percent) == (0.0, 1.0):
            return None
        return cls(model_sampling.percent_to_sigma(start_percent), model_sampling.percent_to_sigma(end_percent))

    def __contains__(self, sigmas: torch.Tensor | None) -> bool:
        if sigmas is None:  # a call from outside a sampler
            return True
        if sigmas is not self._step:  # reading a sigma waits for the GPU: once a step, not once a layer
            self._step = sigmas
            self._inside = self.end <= sigmas.max().item() <= self.start
        return self._inside


class UserAttention:
    """An attn2 replacement that adds the user's term to the attention that would have run without it.

    That is the replacement which was there before, or ComfyUI's own attention. Packs that come
    later find the protocol they know from IPAdapter_plus: `add(callback, **kwargs)`, where each
    callback's result is added while sigma lies in its `sigma_start`..`sigma_end`. The user's term
    is added last, so the picture does not depend on which pack came first.

    Args:
        table: (P + 1, N, width), a row for each profile, then the unconditional one.
    """

    def __init__(
        self,
        table: UserKeyValue,
        rows: BatchRows,
        active: SigmaRange | None,
        previous: Callable | None,
    ) -> None:
        self.table, self.rows, self.active, self.previous = table, rows, active, previous
        self.callbacks: list[tuple[Callable, dict[str, Any]]] = []
        self._gathered: dict[tuple, UserKeyValue] = {}

    def add(self, callback: Callable, **kwargs: Any) -> None:
        self.callbacks.append((callback, kwargs))

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
        out = self._attention(q, k, v, extra_options)
        if self.active is not None and extra_options.get("sigmas") not in self.active:
            return out
        return out + user_attention(q, self._contribution(q, extra_options), extra_options["n_heads"])

    def _attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
        if self.previous is not None:
            out = self.previous(q, k, v, extra_options)
        else:
            out = optimized_attention(
                q,
                k,
                v,
                extra_options["n_heads"],
                attn_precision=extra_options["attn_precision"],
                transformer_options=extra_options,
            )
        if not self.callbacks:
            return out
        sigma = extra_options["sigmas"].max().item()
        for callback, kwargs in self.callbacks:
            if kwargs.get("sigma_end", 0.0) <= sigma <= kwargs.get("sigma_start", float("inf")):
                out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out.to(q.dtype)

    def _contribution(self, q: torch.Tensor, extra_options: dict) -> UserKeyValue:
        """The table's rows for this batch, where and as `q` is; made once, not once a step."""
        cond_or_uncond = extra_options.get("cond_or_uncond", _CONDITIONAL_ONLY)
        batch = q.shape[0]
        latents = len(extra_options["sigmas"]) if "sigmas" in extra_options else batch // len(cond_or_uncond)
        key = (*cond_or_uncond, batch, latents, q.device, q.dtype)
        if key not in self._gathered:
            with torch.inference_mode(False):  # usable with gradients on, too
                rows = torch.tensor(self.rows(cond_or_uncond, batch, latents))
                self._gathered[key] = self.table[rows].to(q.device, q.dtype)
        return self._gathered[key]

    def to(self, device_or_dtype: Any) -> "UserAttention":
        """ComfyUI moves patches before sampling. Ours follows `q`; the one before may need the call."""
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def models(self) -> list:
        """The models that ComfyUI must load for this patch: those of the patch before."""
        return self.previous.models() if hasattr(self.previous, "models") else []

    def __deepcopy__(self, memo: dict) -> "UserAttention":
        """A MODEL's clone deep-copies its patches: the tensors are shared, what later packs add is not."""
        clone = UserAttention(self.table, self.rows, self.active, copy.deepcopy(self.previous, memo))
        clone.callbacks = [(callback, dict(kwargs)) for callback, kwargs in self.callbacks]
        return clone


def install(model: ModelPatcher, site: Site, make: Callable[[Callable | None], Callable]) -> None:
    """Put `make(the replacement there before, or None)` at a site of `model`.

    ComfyUI looks a replacement up by (block, number, index), else by (block, number). Packs use the
    short name for SD1.5, where a block has one transformer, and the long one for SDXL; so a lone
    transformer's patch stands under both, and whichever name a later pack uses, it finds ours.
    """
    short, full = (site.block, site.number), (site.block, site.number, site.index)
    present = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    patch = make(present.get(full, present.get(short)))
    model.set_model_attn2_replace(patch, *full)
    if site.alone:
        model.set_model_attn2_replace(patch, *short)
