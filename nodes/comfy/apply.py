"""PSA Apply on ComfyUI's MODEL: the patches, and what has to be known when sampling starts."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import ref

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP, add_wrapper_with_key, get_wrappers_with_key

from ...psa_core.adapter.attention import UserKeyValue
from ...psa_core.adapter.effect import PSAEffect
from ...psa_core.adapter.model import PSAAdapter, check_strength
from ...psa_core.adapter.region import Region
from ...psa_core.encoders.embedding import UserEmbedding
from ...psa_core.errors import PSAError
from .attn2 import (
    UserAttention,
    copy_patches,
    cross_attention_sites,
    described,
    install,
    later,
    place,
    replacements,
)
from .rows import CALL, ROLES, RUN, Run, read_call
from .sampling_range import CONSTANT, SCHEDULES, SamplingRange
from .say import say, this_node

_KEY = "psa"  # of our wrappers and callbacks
_APPLIED = "psa_applied"  # in `transformer_options`: a (number of profiles or masks, node id) for each PSA Apply
_LEFT_OUT = (
    "Another node calls the model, or runs its attention, in a way that leaves PSA Apply to Model out, so the pictures "
    "would be drawn for nobody. Take one of the two away."
)

log = logging.getLogger(__name__)


def apply_adapter(
    model: ModelPatcher,
    adapter: PSAAdapter,
    embedding: UserEmbedding,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    schedule: str = CONSTANT,
    mask: torch.Tensor | None = None,
) -> ModelPatcher:
    """A clone of `model` with the adapter's contribution for `embedding` at every cross-attention.

    The adapter runs here, once; the clone carries one small tensor per layer.

    Args:
        schedule: how strength goes from start to end, see `SamplingRange`.
        mask: where in the picture it counts, see `Region`; the rows without a viewer, too.

    Raises:
        PSAError: if the model is no SD-family UNet, the adapter was made for another one, the embedding for another
            adapter, the range is empty, or the masks do not go round with the viewers.
    """

    def layers() -> list[UserKeyValue]:
        # Normal tensors, not inference tensors: a trainer may run the patched model with gradients on.
        with torch.inference_mode(False), torch.no_grad():
            return adapter.key_values(torch.cat([adapter.user_tokens(embedding), adapter.uncond_tokens(1)]))

    return _apply(model, adapter, layers, len(embedding), strength, (start_percent, end_percent), schedule, mask)


def apply_effect(
    model: ModelPatcher,
    effect: PSAEffect,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    schedule: str = CONSTANT,
    mask: torch.Tensor | None = None,
) -> ModelPatcher:
    """As `apply_adapter`, with what an adapter does for one viewer in place of the adapter and an embedding."""
    return _apply(model, effect, lambda: effect.layers, 1, strength, (start_percent, end_percent), schedule, mask)


def _apply(
    model: ModelPatcher,
    made_for: PSAAdapter | PSAEffect,
    layers: Callable[[], Sequence[UserKeyValue]],
    viewers: int,
    strength: float,
    percents: tuple[float, float],
    schedule: str,
    mask: torch.Tensor | None,
) -> ModelPatcher:
    """`layers` gives the viewers' rows and then the unconditional one, once it is known that they fit."""
    if not 0.0 <= percents[0] <= percents[1] <= 1.0:
        raise PSAError("PSA Apply needs 0 <= start_percent <= end_percent <= 1. Swap or correct the two.")
    if schedule not in SCHEDULES:
        raise PSAError(f"PSA Apply's schedule must be one of: {', '.join(SCHEDULES)}.")
    region = None if mask is None else Region(mask)
    if region is not None:
        region.check_viewers(viewers)
    sites = cross_attention_sites(model.get_model_object("diffusion_model"))
    made_for.check_fits([site.width for site in sites], sites[0].context_dim if sites else 0)
    contributions = [user.scaled(check_strength(strength)) for user in layers()]
    patched = model.clone()
    if strength == 0 or (region is not None and region.is_nowhere):
        return patched
    if region is not None and region.is_everywhere:
        region = None
    active = SamplingRange.of(model.get_model_object("model_sampling"), percents, schedule)
    install(
        patched,
        sites,
        [
            partial(UserAttention, user, active, region, ref(site.attention))
            for user, site in zip(contributions, sites, strict=True)
        ],
    )
    _watch(patched, max(viewers, len(region) if region is not None else 1))
    return patched


def _watch(model: ModelPatcher, takers: int) -> None:
    """Let `model` tell when it is cloned, when sampling starts, and when the UNet is called."""
    options = model.model_options["transformer_options"]
    options[_APPLIED] = (*options.get(_APPLIED, ()), (takers, this_node()))
    if not model.get_callbacks(CallbacksMP.ON_CLONE, _KEY):
        model.add_callback_with_key(CallbacksMP.ON_CLONE, _KEY, _on_clone)
    _watch_weights(model)
    # In `transformer_options`, as the patches are: whoever carries these to another MODEL carries the wrappers, too.
    wrappers = {
        WrappersMP.SAMPLER_SAMPLE: start_run,
        WrappersMP.CALC_COND_BATCH: read_roles,
        WrappersMP.APPLY_MODEL: run_model,
    }
    for kind, wrapper in wrappers.items():
        if not get_wrappers_with_key(kind, _KEY, options):
            add_wrapper_with_key(kind, _KEY, wrapper, options)


def _on_clone(model: ModelPatcher, clone: ModelPatcher) -> None:
    """`CallbacksMP.ON_CLONE`: see `copy_patches`."""
    copy_patches(model, clone)
    _watch_weights(clone)


def _watch_weights(model: ModelPatcher) -> None:
    """Let `model` say so where a node takes its weights into another MODEL, which leaves all else behind."""
    itself: Any = ref(model)  # no cycle: ComfyUI frees a MODEL's memory when the last one lets go of it

    def get_key_patches(filter_prefix: str | None = None) -> Any:
        if filter_prefix is not None:  # without one it is ComfyUI's own call, for hooks
            _warn(
                "A merge takes a MODEL's weights alone, so what PSA Apply to Model did to this one is left behind. Put "
                "PSA Apply to Model after the merge.",
                this_node(),
            )
        return type(itself()).get_key_patches(itself(), filter_prefix)

    model.get_key_patches = get_key_patches  # type: ignore[method-assign]


def start_run(
    executor: Any,
    guider: Any,
    sigmas: torch.Tensor,
    extra_args: dict,
    callback: Any,
    noise: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """`WrappersMP.SAMPLER_SAMPLE`: the guider's conditions are as they will be sampled."""
    options = extra_args["model_options"]["transformer_options"]
    run = options[RUN] = Run(guider, pictures=len(noise), size=(noise.shape[-2], noise.shape[-1]))
    _obey_short_names(replacements(extra_args["model_options"]))
    for takers, node in options.get(_APPLIED, ()):
        if len(noise) % takers:
            _warn(
                f"PSA Apply has {takers} profiles or masks, and a batch of {len(noise)} is drawn: the first picture "
                "with the first, and so on. If a node cut that batch out of a larger one, these are other viewers' "
                "pictures. Encode one profile a run, or draw as many pictures at once as there are profiles.",
                node,
            )
    samples = executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    if run.asked and not run.reached:
        raise PSAError(_LEFT_OUT)
    return samples


def _obey_short_names(present: dict[tuple, Any]) -> None:
    """Let what a later pack put under a block's short name count: ComfyUI looks there only where ours is not."""
    for name in list(present):
        if len(name) == 3 and present.get(name) is not later(present, name):
            del present[name]


def _warn(sentence: str, node: str | None) -> None:
    """In the log, and on the node in the editor."""
    log.warning(sentence)
    say(sentence, node, problem=True)


def read_roles(executor: Any, model: Any, conds: Any, x: Any, timestep: Any, model_options: dict) -> Any:
    """`WrappersMP.CALC_COND_BATCH`: the lists of conditions that the numbers in `cond_or_uncond` will stand for."""
    options = model_options["transformer_options"]
    run: Run | None = options.get(RUN)
    if run is not None:
        run.asked = True
        model_options = {**model_options, "transformer_options": {**options, ROLES: run.roles(conds)}}
    return executor(model, conds, x, timestep, model_options)


def run_model(
    executor: Any,
    x: torch.Tensor,
    t: torch.Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **kwargs: Any,
) -> Any:
    """`WrappersMP.APPLY_MODEL`: whose rows these are; and where patches are new, a look at each whether ours ran."""
    options = dict(transformer_options or {})
    call = options[CALL] = read_call(len(x), options, c_crossattn)
    present = replacements({"transformer_options": options})
    if call.run is None or call.run.is_new(present):
        patches = options.get("patches", {})
        check = partial(_check_called, len(options.get(_APPLIED, ())), present)
        options["patches"] = {**patches, "attn2_output_patch": [check, *patches.get("attn2_output_patch", ())]}
    predicted = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    if call.run is not None:
        call.run.reached |= call.attention is not None
        if not call.run.reached:  # a later call may leave out what it remembers
            raise PSAError(_LEFT_OUT)
    return predicted


def _check_called(applied: int, present: dict[tuple, Any], out: torch.Tensor, extra_options: dict) -> torch.Tensor:
    here, call = place(extra_options), extra_options[CALL]
    if call.attention != here or len(call.patches) < applied:  # each PSA Apply is there once
        patch = present.get(here, present.get(here[:2]))
        while isinstance(patch, UserAttention):
            patch = patch.previous
        raise PSAError(
            f"{described(patch)} took the place of PSA Apply at the cross-attention, so the pictures would be drawn "
            "for nobody. Put PSA Apply to Model after that node."
        )
    return out
