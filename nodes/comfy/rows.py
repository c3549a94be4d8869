"""Whose row is it: which picture, or nobody, each row of a batch is drawn for.

Each fact is read once and where it is known: the guider's own names for its conditions and the number of
pictures when sampling starts, the batch when ComfyUI calls the model. A cross-attention only looks it up.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...psa_core.adapter.region import Box
from ...psa_core.errors import PSAError
from .sampling_range import percent_at, sigmas_at

RUN, CALL, ROLES = "psa_run", "psa_call", "psa_roles"  # keys in `transformer_options`
NOBODY = -1  # in place of a picture's number: a row without a viewer, which gets `user_proj(zeros)`

_VIEWERS = {"positive", "middle", "cond"}
_NOBODYS = {"negative", "empty", "empty_negative_prompt", "empty_conditioning", "uncond"}
_NUMBERED = {0: True, 1: False}  # `cond_or_uncond` of a call that no guider made: prompt and negative prompt
_STATED = "cond_or_uncond_couple"  # in a key where packs that multiply rows inside the attention say what they made
_NO_SIGMA = 999999999.9  # IPAdapter_plus's for a call from outside a sampler


class OneOfAKind:
    """Stays itself where a pack deep-copies the options that it is in: with it would go the whole model."""

    def __deepcopy__(self, _memo: dict) -> Any:
        return self


class Run(OneOfAKind):
    """One run of a sampler: what its guider knows.

    `size` is that of the latents, (height, width). `asked` and `reached` tell whether predictions were asked for, and
    whether one of our patches took part in any.
    """

    def __init__(self, guider: Any, pictures: int, size: tuple[int, int]) -> None:
        self.pictures, self.size = pictures, size
        self.asked = self.reached = False
        self._guider = guider
        self._names = name_conditions(guider)
        self._ranges: dict[tuple[float, float], tuple[float, float]] = {}
        self._percents: dict[float, float] = {}
        self._seen: dict[tuple[int, ...], list[Any]] = {}

    def is_new(self, patches: Mapping[Any, Any]) -> bool:
        """Whether no call of the run had these patches before. They are kept, so that no other takes their identity."""
        found = list(patches.values())
        return self._seen.setdefault(tuple(map(id, found)), found) is found

    def has_viewer(self, condition: Any) -> bool:
        """Whether the condition of that uuid is drawn for viewers.

        Raises:
            PSAError: for a condition that the guider does not have, or has under a name that says nothing.
        """
        if condition not in self._names:  # a pack may have changed the guider's conditions since
            self._names = name_conditions(self._guider)
        name = self._names.get(condition)
        if name in _VIEWERS or name in _NOBODYS:
            return name in _VIEWERS
        which = f"named '{name}'" if name is not None else "that its guider does not have"
        raise PSAError(
            f"PSA Apply cannot tell whether a condition {which} is for a viewer: it knows positive, middle, negative "
            "and empty ones. Use another guider (CFG Guider, Dual CFG Guider, Perp-Neg Guider), or take PSA Apply to "
            "Model away."
        )

    def roles(self, lists: Sequence[Any]) -> tuple[bool | None, ...]:
        """For each list of conditions whether it is drawn for viewers; `None` where its conditions do not say."""
        return tuple(
            self._role({self._names.get(each.get("uuid")) for each in conditions or ()}) for conditions in lists
        )

    @staticmethod
    def _role(names: set[str | None]) -> bool | None:
        if names and names <= _VIEWERS:
            return True
        return False if names and names <= _NOBODYS else None

    def viewers_by_text(self, text: torch.Tensor) -> tuple[bool | None, ...]:
        """For each row of text whether it is a viewer's; `None` where no condition has it, or one of each role."""
        names: list[set[str | None]] = [set() for _ in text]
        for name, conditions in self._guider.conds.items():
            for condition in conditions or ():
                known = getattr(condition.get("model_conds", {}).get("c_crossattn"), "cond", None)
                if known is None or known.shape[2:] != text.shape[2:] or text.shape[1] % known.shape[1]:
                    continue
                known = known.to(text).repeat(1, text.shape[1] // known.shape[1], 1)  # as ComfyUI lengthens it
                same = (text[:, None] == known[None]).flatten(2).all(2).any(1)
                for row in same.nonzero()[:, 0].tolist():
                    names[row].add(name)
        return tuple(map(self._role, names))

    def sigmas(self, percents: tuple[float, float]) -> tuple[float, float]:
        """The noise levels where a range of sampling starts and ends, by the schedule that is sampled with."""
        if percents not in self._ranges:
            self._ranges[percents] = sigmas_at(self._guider.inner_model.model_sampling, percents)
        return self._ranges[percents]

    def percent(self, sigma: float) -> float:
        """Where in sampling a noise level lies, from 0 to 1, by the same schedule."""
        if sigma not in self._percents:
            self._percents[sigma] = percent_at(self._guider.inner_model.model_sampling, sigma)
        return self._percents[sigma]

    def box(self, condition: Any, drawn: tuple[int, int]) -> Box | None:
        """Where the area of the condition of that uuid lies; `None` where it has none of the size that is drawn."""
        for conditions in self._guider.conds.values():
            for each in conditions or ():
                area: Sequence[int] = each.get("area") or ()
                if each.get("uuid") == condition and len(area) == 4:  # of another number: no picture's
                    top, left = int(area[2]), int(area[3])
                    height, width = min(int(area[0]), self.size[0] - top), min(int(area[1]), self.size[1] - left)
                    return (top, left, height, width) if (height, width) == drawn else None
        return None


def name_conditions(guider: Any) -> dict[Any, str]:
    """The guider's name for each of its conditions, by uuid.

    ComfyUI copies conditions, uuid and all, into the guider's other lists so that every area has its like in each.
    Such a copy belongs to the list it is in, and gets a uuid of its own here.
    """
    owners = {
        condition.get("uuid"): name
        for name, conditions in getattr(guider, "original_conds", {}).items()
        for condition in conditions or ()
    }
    names: dict[Any, str] = {}
    for name, conditions in guider.conds.items():
        for place, condition in enumerate(conditions or ()):
            key = condition.get("uuid")
            if owners.get(key, names.get(key, name)) != name:
                key = uuid.uuid4()
                conditions[place] = {**condition, "uuid": key}
            names[key] = name
    return names


@dataclass(eq=False)
class Call(OneOfAKind):
    """One call of the model.

    ComfyUI batches whole copies of the latents, one for each entry of `cond_or_uncond`. Tiled-diffusion packs batch
    several tiles, each with all its copies.

    Args:
        kinds: `cond_or_uncond` as it was when the model was called.
        viewers: for each copy, whether it is drawn for viewers.
        batch: rows in all.
        pictures: the pictures of a copy, in order; `None` where that cannot be known.
        tiles: how often all copies follow one another; 0 where the batch does not consist of whole copies.
        told: for each row whether it is drawn for viewers, by its text; where that is needed and known.
        sigmas: the noise level of each latent. `sigma` reads it when it is asked for: that waits for the GPU.
        conditions: the uuid of each copy's condition.
    """

    kinds: tuple[int, ...]
    viewers: tuple[bool, ...]
    batch: int
    pictures: tuple[int, ...] | None
    tiles: int
    sigmas: torch.Tensor | None
    run: Run | None
    told: tuple[bool, ...] | None = None
    conditions: tuple[Any, ...] = ()
    attention: Any = None  # the cross-attention where a patch of ours was called last
    patches: set[int] = field(default_factory=set)  # those of ours that were called there
    _sigma: float | None = None
    _rows: dict[Any, tuple[int, ...]] = field(default_factory=dict)

    @property
    def sigma(self) -> float:
        if self._sigma is None:
            self._sigma = _NO_SIGMA if self.sigmas is None else self.sigmas.max().item()
        return self._sigma

    def visit(self, attention: Any, patch: Any) -> None:
        """Note that a patch of ours is called at a cross-attention."""
        if self.attention != attention:
            self.attention, self.patches = attention, set()
        self.patches.add(id(patch))

    def rows(self, profiles: int, count: int, options: dict) -> tuple[int, ...]:
        """For each of `count` rows at a cross-attention its place in a table: a row a profile, then nobody's.

        Picture i takes profile i mod P.

        Raises:
            PSAError: where it cannot be known whose rows they are.
        """
        stated = self._stated(count, options)
        key = (profiles, count, stated)
        if key not in self._rows:
            self._rows[key] = self._read_rows(profiles, count, stated)
        return self._rows[key]

    def turns(self, masks: int, count: int, options: dict) -> tuple[int, ...]:
        """For each of `count` rows, a viewer's or nobody's, the number of its mask: picture i takes mask i mod M.

        Raises:
            PSAError: where it cannot be known whose rows they are.
        """
        if masks == 1:
            return (0,) * count
        return tuple(turn for _, turn in self._layout(masks, count, self._stated(count, options)))

    def boxes(self, drawn: tuple[int, int], count: int) -> tuple[Box, ...] | None:
        """For each of `count` rows where in the latents it lies; `None` where every row is a whole picture.

        Args:
            drawn: the size, (height, width), of the latents that the model was called with.

        Raises:
            PSAError: for a part of the picture that is no condition's area.
        """
        if self.run is None or self.run.size == drawn:
            return None
        found = [self.run.box(condition, drawn) for condition in self.conditions]
        boxes = [box for box in found if box is not None]
        if boxes and len(boxes) == len(found):
            if len(set(boxes)) == 1:
                return (boxes[0],) * count
            if count == self.batch and len(boxes) == len(self.kinds) and self.tiles:
                copy = count // (len(boxes) * self.tiles)
                return tuple(box for box in boxes for _ in range(copy)) * self.tiles
        raise PSAError(
            "Another node draws the picture in parts, as tiles do, and PSA Apply to Model cannot tell where its mask "
            "lies in a part. Take the mask or that node away."
        )

    def _stated(self, count: int, options: dict) -> tuple[int, ...] | None:
        """The numbers of the copies at a cross-attention, as other packs state them; `None` where nothing changed."""
        stated = options.get("cond_or_uncond", self.kinds)
        if count == self.batch and len(stated) == len(self.kinds):
            return None
        return tuple(next((value for name, value in options.items() if _STATED in str(name)), stated))

    def _read_rows(self, profiles: int, count: int, stated: tuple[int, ...] | None) -> tuple[int, ...]:
        if not any(self.viewers):
            return (profiles,) * count
        if all(self.viewers) and profiles == 1:
            return (0,) * count
        if self.told is not None and stated is None and profiles == 1:
            return tuple(0 if viewer else profiles for viewer in self.told)
        return tuple(turn if viewer else profiles for viewer, turn in self._layout(profiles, count, stated))

    def _layout(self, turns: int, count: int, stated: tuple[int, ...] | None) -> tuple[tuple[bool, int], ...]:
        """For each row whether it is a viewer's, and the number of its picture, mod `turns`."""
        if stated is None:
            viewers, tiles = self.viewers, self.tiles
        else:
            viewers, tiles = self._stated_viewers(stated), 1 if self.tiles == 1 else 0
        if turns > 1 and self.pictures is None:
            raise PSAError(
                "PSA Apply cannot tell which of its viewers' pictures another node draws in this part of the batch. "
                "Encode one profile a run and give it one mask, or take that node away."
            )
        size = self.batch // (len(self.kinds) * max(self.tiles, 1))
        copy = tuple(0 if self.pictures is None else picture % turns for picture in self.pictures or range(size))
        layout = tuple((viewer, turn) for viewer in viewers for turn in copy) * tiles
        if len(layout) != count:
            raise PSAError(
                f"Another node changes the batch to {count} rows, as nodes for prompts by region do in the attention, "
                "and does not say whose they are, so PSA Apply to Model cannot be combined with it. Take one of the "
                "two away, or give the regions to the sampler (Conditioning Set Mask, Conditioning Combine)."
            )
        return layout

    def _stated_viewers(self, stated: tuple[int, ...]) -> tuple[bool, ...]:
        known = dict(zip(self.kinds, self.viewers, strict=True))
        if any(known[kind] != viewer for kind, viewer in zip(self.kinds, self.viewers, strict=True)):
            return ()
        return tuple(known[kind] for kind in stated) if set(stated) <= set(known) else ()


def read_call(batch: int, options: dict, text: torch.Tensor | None = None) -> Call:
    """The call of the model that `transformer_options` describe, for a batch of so many rows.

    Args:
        text: what the rows read. It counts where another node makes the batch something else than whole copies.

    Raises:
        PSAError: for conditions whose role nobody knows.
    """
    run: Run | None = options.get(RUN)
    kinds = tuple(options.get("cond_or_uncond", (0,)))
    sigmas = options.get("sigmas")
    latents = len(sigmas) if sigmas is not None else batch // len(kinds)
    if run is not None and batch == len(kinds) * run.pictures:
        latents = run.pictures
    part = bool(batch % (len(kinds) * latents))  # a pack may run a part of the batch, in whole copies
    if run is None and len(kinds) * latents == 1:
        latents = batch  # outside a sampler one sigma may stand for the whole batch
    if part:
        latents = batch // len(kinds)
    if run is None:
        viewers = tuple(_numbered(kind) for kind in kinds)
        pictures: tuple[int, ...] | None = tuple(range(latents))
    else:
        viewers = _viewers(run, kinds, options)
        pictures = None if part else _pictures(run.pictures, latents, options)
    whole = len(kinds) * latents
    tiles = batch // whole if whole and batch % whole == 0 else 0
    call = Call(kinds, viewers, batch, pictures, tiles, sigmas, run, conditions=tuple(options.get("uuids", ())))
    if run is not None and (part or tiles != 1) and len(set(viewers)) > 1 and text is not None and len(text) == batch:
        _compare(call, run.viewers_by_text(text))
    return call


def _compare(call: Call, told: tuple[bool | None, ...]) -> None:
    """Where the rows' text says that they do not lie in whole copies, go by the text."""
    size = call.batch // (len(call.kinds) * max(call.tiles, 1))
    rows = [viewer for viewer in call.viewers for _ in range(size)] * call.tiles
    if len(rows) != call.batch or any(
        by_text not in (None, viewer) for by_text, viewer in zip(told, rows, strict=True)
    ):
        call.tiles = 0
        call.told = tuple(map(bool, told)) if None not in told else None


def _viewers(run: Run, kinds: tuple[int, ...], options: dict) -> tuple[bool, ...]:
    """For each copy whether it is drawn for viewers.

    By the lists of conditions that the numbers stand for, as packs that take a batch apart set new numbers alone; else
    by each condition.
    """
    roles = options.get(ROLES, ())
    known = [roles[kind] if kind < len(roles) else None for kind in kinds]
    viewers = tuple(role for role in known if role is not None)
    if len(viewers) != len(kinds):
        viewers = tuple(run.has_viewer(condition) for condition in options.get("uuids", ()))
    if len(viewers) != len(kinds):
        raise PSAError(
            "Another node calls the model without saying for which conditions, so PSA Apply cannot tell whose "
            "pictures it draws. Take that node or PSA Apply to Model away."
        )
    return viewers


def _numbered(kind: int) -> bool:
    if kind not in _NUMBERED:
        raise PSAError(
            "Another node calls the model outside a sampler, with more than a prompt and a negative prompt, so PSA "
            "Apply cannot tell which is whose. Take that node or PSA Apply to Model away."
        )
    return _NUMBERED[kind]


def _pictures(all_of_them: int, latents: int, options: dict) -> tuple[int, ...] | None:
    """Which pictures of the run a copy of so many latents holds."""
    for indices in _stated_pictures(options):
        if len(indices) == latents:
            return tuple(int(index) for index in indices)
    if latents % all_of_them == 0:  # the batch, or several times the batch
        return tuple(range(all_of_them)) * (latents // all_of_them)
    return None


def _stated_pictures(options: dict) -> list[Sequence[int]]:
    """What ComfyUI's context windows and AnimateDiff-Evolved say of the part of the batch that they draw."""
    stated: list[Sequence[int]] = []
    window = options.get("context_window")
    if window is not None and getattr(window, "dim", 0) == 0:
        anchor = getattr(window, "causal_anchor_index", None)
        stated += [window.index_list, [anchor, *window.index_list]] if anchor is not None else [window.index_list]
    parameters = options.get("ad_params")
    if isinstance(parameters, dict) and parameters.get("sub_idxs") is not None:
        stated.append(parameters["sub_idxs"])
    return stated


def current_call(batch: int, options: dict) -> Call:
    """The call that ComfyUI is in; for one from outside a sampler, what its options say."""
    return options.get(CALL) or read_call(batch, options)
