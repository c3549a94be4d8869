"""The patch at ComfyUI's cross-attentions ("attn2"), and where they are in a UNet."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from comfy.ldm.modules import attention
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.model_patcher import ModelPatcher

from ...psa_core.adapter.attention import UserKeyValue, user_attention
from ...psa_core.adapter.region import Region
from ...psa_core.errors import PSAError
from .rows import Call, current_call
from .sampling_range import SamplingRange


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


class UserAttention:
    """An attn2 replacement that adds the user's term to the attention that would have run without it.

    That is the replacement which was there before, or ComfyUI's own attention. Packs that come
    later find the protocol they know from IPAdapter_plus: `add(callback, **kwargs)`, where each
    callback's result is added while sigma lies in its `sigma_start`..`sigma_end`. The user's term
    is added last, so the picture does not depend on which pack came first.

    Args:
        table: (P + 1, N, width), a row for each profile, then the unconditional one.
        active: when it counts; `None`: always.
        region: where it counts, for viewers' rows and nobody's alike; `None`: everywhere.
        module: the cross-attention whose place this takes; a weak reference.
        previous: the replacement that was there before, or `None`.
    """

    def __init__(
        self,
        table: UserKeyValue,
        active: SamplingRange | None,
        region: Region | None,
        module: Callable[[], Any],
        previous: Any,
    ) -> None:
        self.table, self.active, self.region, self.module, self.previous = table, active, region, module, previous
        self.callbacks: list[tuple[Callable, dict[str, Any]]] = []
        self._gathered: dict[tuple, UserKeyValue] = {}
        self._weights: dict[tuple, torch.Tensor] = {}

    def add(self, callback: Callable, **kwargs: Any) -> None:
        self.callbacks.append((callback, kwargs))

    def set_new_condition(self, *_args: Any, **_kwargs: Any) -> None:
        """What older packs of the IPAdapter family ask of whatever is there; it means another thing in each of them."""
        raise PSAError(
            "This node can only join attention patches of its own pack, and finds that of PSA Apply to Model. Put PSA "
            "Apply to Model after it."
        )

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
        call = current_call(q.shape[0], extra_options)
        call.visit(place(extra_options), self)
        out = self._attention(q, k, v, extra_options, call)
        share: torch.Tensor | float | None = None if self.active is None else self.active.share(call)
        if share == 0:
            return out
        if self.region is not None:
            weights = self._regional(self.region, q, call, extra_options)
            share = weights if share is None else weights * share
        return out + user_attention(q, self._contribution(q, call, extra_options), extra_options["n_heads"], share)

    def _attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict, call: Call
    ) -> torch.Tensor:
        if self.previous is not None:
            out = self.previous(q, k, v, extra_options)
        elif k.shape[0] != q.shape[0]:
            raise PSAError(
                f"Another node gives the attention {k.shape[0]} rows of text for {q.shape[0]} rows of pictures, as NAG "
                "(Normalized Attention Guidance) does with its negative prompt, and PSA Apply to Model cannot be "
                "combined with it. Take one of the two away."
            )
        else:
            self._check_module()
            out = attention.optimized_attention(  # looked up here: packs replace it in its module
                q,
                k,
                v,
                extra_options["n_heads"],
                attn_precision=extra_options["attn_precision"],
                transformer_options=extra_options,
            )
        if not self.callbacks:
            return out
        for callback, kwargs in self.callbacks:
            if kwargs.get("sigma_end", 0.0) <= call.sigma <= kwargs.get("sigma_start", float("inf")):
                out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out.to(q.dtype)

    def _check_module(self) -> None:
        module = self.module()
        forward = vars(module or self).get("forward")  # of this one module
        if (
            forward is not None and getattr(forward, "__func__", None) is not type(module).forward
        ):  # ComfyUI puts it back
            raise PSAError(
                f"{described(forward)} takes the place of the model's cross-attention, as PSA Apply to Model does, so "
                "it would have no effect. Take one of the two away."
            )

    def _contribution(self, q: torch.Tensor, call: Call, extra_options: dict) -> UserKeyValue:
        """The table's rows for this batch, where and as `q` is; made once, not once a step."""
        rows = call.rows(len(self.table.value) - 1, q.shape[0], extra_options)
        key = (rows, q.device, q.dtype)
        if key not in self._gathered:
            with torch.inference_mode(False):  # usable with gradients on, too
                self._gathered[key] = self.table[torch.tensor(rows)].to(q.device, q.dtype)
        return self._gathered[key]

    def _regional(self, region: Region, q: torch.Tensor, call: Call, extra_options: dict) -> torch.Tensor:
        """What the masks say at each query, (B, L, 1), where and as `q` is; made once, not once a step."""
        grid, latents = (_size(extra_options.get(name)) for name in ("activations_shape", "original_shape"))
        if grid is None or latents is None or grid[0] * grid[1] != q.shape[1]:
            raise PSAError(
                "Another node runs the attention over other positions than the picture's, so PSA Apply to Model cannot "
                "tell where its mask lies. Take the mask or that node away."
            )
        numbers, boxes = call.turns(len(region), q.shape[0], extra_options), call.boxes(latents, q.shape[0])
        key = (numbers, boxes, grid, q.device, q.dtype)
        if key not in self._weights:
            with torch.inference_mode(False):  # usable with gradients on, too
                whole = call.run.size if call.run is not None else None
                self._weights[key] = region.weights(numbers, grid, boxes, whole).to(q.device, q.dtype)
        return self._weights[key]

    def to(self, device_or_dtype: Any) -> "UserAttention":
        """ComfyUI moves patches before sampling. Ours follows `q`; the one before may need the call."""
        moved = self.previous.to(device_or_dtype) if hasattr(self.previous, "to") else self.previous
        return self if moved is self.previous else self._with(moved)

    def models(self) -> list:
        """The models that ComfyUI must load for this patch: those of the patch before."""
        return self.previous.models() if hasattr(self.previous, "models") else []

    def copy(self) -> "UserAttention":
        """For another MODEL: the tensors are shared, what later packs add is not."""
        return self._with(self.previous)

    def _with(self, previous: Any) -> "UserAttention":
        other = UserAttention(self.table, self.active, self.region, self.module, previous)
        other.callbacks = [(callback, dict(kwargs)) for callback, kwargs in self.callbacks]
        return other

    def __deepcopy__(self, memo: dict) -> "UserAttention":
        """A MODEL's clone deep-copies its patches, up to some version of ComfyUI."""
        return self._with(copy.deepcopy(self.previous, memo))


def _size(shape: Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of a tensor of that shape, (..., height, width)."""
    return (int(shape[-2]), int(shape[-1])) if shape else None


def described(replacement: Any) -> str:
    """A replacement's pack and name, for people."""
    if replacement is None:
        return "Another node"
    replacement = getattr(replacement, "func", replacement)  # a functools.partial's
    named = replacement if hasattr(replacement, "__qualname__") else type(replacement)
    # ComfyUI names a pack's modules by its folder.
    module = PurePath(named.__module__.partition("custom_nodes")[2] or named.__module__).name
    return f"'{named.__qualname__}' of {module or 'another node'}"


def place(options: dict) -> tuple:
    """ComfyUI's name for the cross-attention that it is at."""
    return (*options.get("block", ()), options.get("block_index", 0))


def install(model: ModelPatcher, sites: Sequence[Site], make: Sequence[Callable[[Any], UserAttention]]) -> None:
    """Put `make[i](the replacement there before, or None)` at each site of `model`.

    ComfyUI looks a replacement up by (block, number, index), else by (block, number). Packs use the
    short name for SD1.5, where a block has one transformer, and the long one for SDXL; so a lone
    transformer's patch stands under both, and whichever name a later pack uses, it finds ours. In
    other blocks nothing is left under the short name: what is found there came later.
    """
    before = replacements(model.model_options)
    for site, make_patch in zip(sites, make, strict=True):
        short, full = (site.block, site.number), (site.block, site.number, site.index)
        patch = make_patch(later(before, full))
        model.set_model_attn2_replace(patch, *full)  # which copies the dictionary
        if site.alone:
            model.set_model_attn2_replace(patch, *short)
        else:
            replacements(model.model_options).pop(short, None)


def later(present: dict[tuple, Any], full: tuple) -> Any:
    """What counts at a cross-attention: what has its full name, but before ours what a pack gave the short one."""
    patch, other = present.get(full), present.get(full[:2])
    if patch is None or (
        isinstance(patch, UserAttention) and other is not None and not isinstance(other, UserAttention)
    ):
        return other
    return patch


def replacements(model_options: dict) -> dict[tuple, Any]:
    """What stands at a MODEL's cross-attentions, by ComfyUI's names."""
    return model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def copy_patches(_model: ModelPatcher, clone: ModelPatcher) -> None:
    """`CallbacksMP.ON_CLONE`: a clone has patches of its own, as later versions of ComfyUI share them."""
    copies: dict[int, UserAttention] = {}
    present = replacements(clone.model_options)
    for name, patch in present.items():
        if isinstance(patch, UserAttention):
            present[name] = copies.setdefault(id(patch), patch.copy())
