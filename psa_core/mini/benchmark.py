"""Drawing the benchmark: every method before the same prompts, viewers and noise; what was seen is kept."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from ..errors import PSAError
from ..files import atomic_path, existing_file
from ..json_text import parse_json
from ..pictures import to_images
from ..profile import LEVELS, UserProfile
from ..seeds import draw_seed
from .dataset import Sizes
from .detector import Detector
from .features import MiniFeatures
from .generate import GUIDANCE, STEPS
from .method import Method, Request
from .people import People
from .requests import cell, harmless_requests, level_requests
from .world import SYMBOLS, WAYS, Way, parse_prompt

DATA_SEED = 0
"""The seed of the mini dataset that adapters are trained on: it says who is a seen user."""
Part = Literal["val", "test"]
SEEDS: Mapping[str, int] = {"val": 0, "test": 1_661_392_758}
"""Of prompts and noise. Settings are chosen on `val` alone. docs/results.md was drawn by the seed of `test`: a
recipe that is chosen after it needs another."""
Group = Literal["unseen", "seen", "held out"]
GROUPS: tuple[Group, ...] = ("unseen", "seen", "held out")
_CATEGORY_OF = {symbol: category for category, symbol in SYMBOLS.items()}
_AT_ONCE = 64
TIMED, TIMED_ROUNDS = 16, 3
"""Pictures that a method draws in a round when it is timed, and rounds."""


def in_full(groups: Sequence[Group]) -> bool:
    """Whether targets rest on a method that is measured before these groups: on one that is before all."""
    return set(groups) == set(GROUPS)


@dataclass(frozen=True)
class Cell:
    """Pictures that a figure rests on: of a group's users before prompts that come to a symbol in one way."""

    group: Group
    way: Way
    banned: bool

    @property
    def name(self) -> str:
        return f"{self.group}, {self.way}, {'banned' if self.banned else 'allowed'}"


@dataclass(frozen=True)
class Seen:
    """What the detector saw on one picture: a category's symbol, or none; its size; and whether background and shapes
    are as asked."""

    shown: str | None
    size: str | None
    agrees: bool


@dataclass(frozen=True)
class Plan:
    """How much is drawn.

    Args:
        part: the split: `val` to choose by, `test` for what is published.
        per_cell: pictures a cell that a target may rest on: of methods that are measured before all groups of users
            (the base model and PSA), before those who were not seen in training.
        rivals: the same of all other cells: the first of these requests; `None` is as many.
        levels: prompts a level.
        harmless: harmless prompts.

    Raises:
        PSAError: for a split that is none, or fewer than 2 pictures a cell.
    """

    part: Part = "val"
    per_cell: int = 200
    levels: int = 140
    harmless: int = 2000
    rivals: int | None = None
    sizes: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        if self.part not in SEEDS:
            raise PSAError(f"'{self.part}' is no split of the benchmark. There are: {', '.join(SEEDS)}.")
        if min(self.per_cell, self.levels, self.harmless, self.few) < 2:
            raise PSAError("A benchmark needs at least 2 pictures a cell.")
        if self.few > self.per_cell:
            raise PSAError("Rivals draw some of the requests that PSA does: at most as many a cell.")

    @property
    def seed(self) -> int:
        return SEEDS[self.part]

    @property
    def few(self) -> int:
        """Pictures a cell that no target rests on."""
        return self.per_cell if self.rivals is None else self.rivals

    def count(self, groups: Sequence[Group], group: Group) -> int:
        """Pictures a cell of this group, of a method that is measured before these groups."""
        return self.per_cell if in_full(groups) and group != "seen" else self.few

    def cells(self, groups: Sequence[Group]) -> dict[Cell, list[Request]]:
        """The requests of the cells of a method that is measured before these groups."""
        people = self.sizes.people(DATA_SEED)
        found = {}
        for group in groups:
            count = self.count(groups, group)
            for way in WAYS:
                for banned in (True, False):
                    seed = draw_seed(self.seed, group)
                    users = _users(people, group)
                    found[Cell(group, way, banned)] = cell(way, banned, users, count, self.part, seed)
        return found

    def level_cells(self) -> dict[str, list[Request]]:
        """For each level the same prompts and noise, all seven categories and the three ways that ask alike."""
        return {level: level_requests(who, self.levels, self.part, self.seed) for level, who in LEVELS.items()}

    def harmless_cell(self) -> list[Request]:
        people = self.sizes.people(DATA_SEED)
        return harmless_requests(people.unseen, self.harmless, self.part, self.seed)


def _users(people: People, group: Group) -> list[UserProfile]:
    return {"unseen": people.unseen, "seen": people.seen, "held out": people.held_out}[group]


class Studio:
    """Draws, looks, and keeps what was seen in `folder`: a cell that is there is not drawn again.

    Args:
        folder: kept results, by what they depend on; `None` keeps nothing.
        progress: called with a line of text.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan, self.folder, self.progress = plan, folder, progress
        self._detector = Detector()
        self._features: MiniFeatures | None = None

    def look(self, method: Method, identity: str, name: str, requests: Sequence[Request]) -> list[Seen]:
        """What the method draws of the requests.

        Args:
            identity: of all that its pictures depend on beside the request, such as the digest of its weights.
        """
        return self._looked(method, identity, name, requests)[0]

    def look_closely(
        self, method: Method, identity: str, name: str, requests: Sequence[Request]
    ) -> tuple[list[Seen], np.ndarray]:
        """The same, and (n, 64) features of the classifier."""
        return self._looked(method, identity, name, requests, closely=True)

    def _looked(
        self, method: Method, identity: str, name: str, requests: Sequence[Request], closely: bool = False
    ) -> tuple[list[Seen], np.ndarray]:
        what, asked = (identity, method.name, name, len(requests)), _asked(method, requests)
        found = self.keep(
            what,
            lambda: {**self._draw(method, name, requests, closely), "asked": asked},
            lambda kept: kept.get("asked", asked) == asked,  # an earlier version's do not tell
        )
        return [Seen(**each) for each in found["seen"]], np.array(found["features"])

    def keep(
        self,
        what: Sequence[int | str],
        make: Callable[[], dict[str, Any]],
        fits: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> dict[str, Any]:
        """What `make` returns, or once returned: JSON-compatible.

        Args:
            what: all that it depends on beside the plan's split and people.
            fits: whether what was kept is what is asked for.
        """
        path = self._kept(what)
        kept = _read(path) if path else None
        if kept is not None and fits(kept):
            return kept
        found = make()
        if path is not None:
            _write(path, found)
        return found

    def on(self, part: Part) -> "Studio":
        """The same studio for prompts and noise of this split."""
        if part == self.plan.part:
            return self
        return Studio(replace(self.plan, part=part), self.folder, self.progress)

    def _draw(self, method: Method, name: str, requests: Sequence[Request], closely: bool) -> dict[str, Any]:
        seen: list[Seen] = []
        features: list[list[float]] = []
        for begin in range(0, len(requests), _AT_ONCE):
            part = requests[begin : begin + _AT_ONCE]
            with torch.no_grad():
                pixels = method.draw(part)
            for found, request in zip(self._detector(pixels), part, strict=True):
                shown = _CATEGORY_OF.get(found.symbol or "")
                seen.append(Seen(shown, found.size, found.agrees(parse_prompt(request.prompt.caption))))
            if closely:
                features += self.measure(to_images(pixels)).round(5).tolist()
            self.progress(f"{method.name}: {name}, {len(seen)} of {len(requests)} pictures")
        kept = [asdict(each) for each in seen]
        return {"method": method.name, "cell": name, "seen": kept, "features": features}

    def seconds(self, methods: Mapping[str, Method], requests: Mapping[str, Sequence[Request]]) -> dict[str, float]:
        """CPU seconds a picture of each method, by its identity: all in turn, so that all have the same load.

        Args:
            methods: by what their pictures depend on.
            requests: what each draws, in every round; the median of the rounds after the first counts.
        """

        def measure() -> dict[str, Any]:
            found: dict[str, list[float]] = {identity: [] for identity in methods}
            for _ in range(1 + TIMED_ROUNDS):
                for identity, method in methods.items():
                    self.progress(f"{method.name}: seconds a picture")
                    start = time.process_time()
                    with torch.no_grad():
                        method.draw(requests[identity])
                    found[identity].append((time.process_time() - start) / len(requests[identity]))
            return {identity: median(seconds[1:]) for identity, seconds in found.items()}

        return self.keep(["seconds a picture", *methods, *(len(each) for each in requests.values())], measure)

    def measure(self, pictures: Sequence[Any]) -> np.ndarray:
        if self._features is None:
            self._features = MiniFeatures()
        return self._features(pictures)

    def _kept(self, what: Sequence[int | str]) -> Path | None:
        if self.folder is None:
            return None
        number = draw_seed(*what, self.plan.part, self.plan.seed, repr(self.plan.sizes))
        return self.folder / f"{number:016x}.json"


def _asked(method: Method, requests: Sequence[Request]) -> str:
    """A digest of what is drawn: prompts, noise, viewers where the method knows them, and the sampler's settings."""
    each = [(r.prompt.caption, r.noise, r.profile.to_dict() if method.knows_viewer else None) for r in requests]
    return hashlib.blake2b(repr((GUIDANCE, STEPS, each)).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """What `_write` kept there; `None` where there is nothing, or what is damaged or another entry: it is made anew."""
    if not path.is_file() or not path.stat().st_size:
        return None
    content = existing_file(path, "kept result of the benchmark").read_text(encoding="utf-8", errors="replace")
    seal, line_end, text = content.rpartition("\n")
    if line_end and seal != _seal(path, text):  # the first version's have none
        return None
    try:
        kept = parse_json(text)
    except ValueError:
        return None
    return kept if isinstance(kept, dict) else None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{_seal(path, text)}\n{text}", encoding="utf-8")


def _seal(path: Path, text: str) -> str:
    """Bound to the file's name, which says what the entry depends on."""
    return hashlib.blake2b(f"{path.name} {text}".encode(), digest_size=16).hexdigest()
