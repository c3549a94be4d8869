"""What a check of a data set found: as text, as JSON, and as a picture. Nothing in it tells of one user."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..files import shown, some
from ..plots.bars import Panel, draw_panels
from ..plots.canvas import BACKGROUND, FONT, INK

LEAKAGE, UNREADABLE, NOTE = "leakage", "unreadable", "note"
_LISTED = 12  # categories, and concepts of one, in the text
_NAMED = 5  # groups of look-alikes in the text, and files of one
_WIDTH = 900
_CHOSEN = {True: "safe", False: "unsafe", None: "unknown"}


@dataclass(frozen=True)
class Finding:
    """Something to know of a data set. `kind`: "leakage" or "unreadable", which fail the check, or "note"."""

    kind: str
    what: str
    count: int
    sentence: str


@dataclass(frozen=True)
class SplitCounts:
    """A split in numbers: `per_user` says how many users have how many records.

    `counts` has the records by category, concept, and whether the safe picture was chosen; `None` is not known.
    """

    name: str
    records: int
    scenes: int
    users: int
    per_user: Mapping[int, int]
    counts: Mapping[tuple[str | None, str | None, bool | None], int]

    def chosen(self, category: str | None = None) -> dict[str, int]:
        """How often the safe and the unsafe picture was chosen, of one category or of all."""
        found: Mapping[str, int] = self._chosen.get(category, {})
        return {word: found.get(word, 0) for word in _CHOSEN.values()}

    def safe_share(self, category: str | None = None) -> float | None:
        chosen = self.chosen(category)
        known = chosen["safe"] + chosen["unsafe"]
        return chosen["safe"] / known if known else None

    def categories(self) -> dict[str, int]:
        """Records by category; those that have none are left out."""
        totals = {category: sum(found.values()) for category, found in self._chosen.items() if category}
        return dict(sorted(totals.items()))

    def concepts(self, category: str) -> dict[str, int]:
        """A category's records by concept, the most frequent first."""
        found: Mapping[str, int] = self._concepts.get(category, {})
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @cached_property
    def _chosen(self) -> dict[str | None, Counter[str]]:
        """By category, `None` for all of them: how often which picture was chosen."""
        found: dict[str | None, Counter[str]] = {None: Counter()}
        for (category, _, safe), count in self.counts.items():
            for key in {None, category}:
                found.setdefault(key, Counter())[_CHOSEN[safe]] += count
        return found

    @cached_property
    def _concepts(self) -> dict[str | None, Counter[str]]:
        found: dict[str | None, Counter[str]] = {}
        for (category, concept, _), count in self.counts.items():
            if concept:
                found.setdefault(category, Counter())[concept] += count
        return found

    def spread(self) -> dict[str, int]:
        """The least, quartiles and most of the users' numbers of records."""
        if not self.per_user:
            return {}
        each = np.repeat(list(self.per_user), list(self.per_user.values()))
        names = ("least", "lower quartile", "median", "upper quartile", "most")
        return dict(zip(names, map(int, np.quantile(each, [0, 0.25, 0.5, 0.75, 1], method="nearest")), strict=True))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "records": self.records,
            "picture_pairs": self.scenes,
            "users": self.users,
            "records_per_user": {**self.spread(), "users_by_records": dict(sorted(self.per_user.items()))},
            "chosen": self.chosen(),
            "categories": {
                name: {"records": count, "chosen": self.chosen(name), "concepts": self.concepts(name)}
                for name, count in self.categories().items()
            },
        }


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_dataset` found; `look_alike` is `None` where it was not looked for, `alike_files` are its groups."""

    name: str
    licence: str | None
    splits: list[SplitCounts]
    pictures: Mapping[str, int]
    look_alike: Mapping[str, int] | None
    findings: list[Finding]
    alike_files: list[list[str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing leaks from one split into another, and all can be read."""
        return all(finding.kind == NOTE for finding in self.findings)

    def only_unseen(self) -> dict[str, list[str]]:
        """Category -> the concepts that `test_unseen` alone has."""
        found: dict[str, list[str]] = {}
        for unseen in (split for split in self.splits if split.name == "test_unseen"):
            for category in unseen.categories():
                others = {name for split in self.splits if split is not unseen for name in split.concepts(category)}
                if own := sorted(set(unseen.concepts(category)) - others):
                    found[category] = own
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "data_set": self.name,
            "passed": self.passed,
            "licence": self.licence,
            "splits": [split.to_dict() for split in self.splits],
            "concepts_in_test_unseen_alone": self.only_unseen(),
            "pictures": dict(self.pictures),
            "look_alike": None if self.look_alike is None else dict(self.look_alike),
            "files_that_look_alike": self.alike_files,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_text(self) -> str:
        lines = [f"Data set {self.name}. Licence: {shown(self.licence or 'none is given')}."]
        for split in self.splits:
            lines += ["", *_split_lines(split)]
        if only := self.only_unseen():
            told = some(f"{category} {len(names)}" for category, names in only.items())
            lines += ["", f"concepts in test_unseen alone: {told}"]
        if self.pictures:
            lines += ["", ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in self.pictures.items())]
        if self.look_alike is not None:
            lines.append(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in self.look_alike.items()))
            lines += [f"  alike: {some(group, _NAMED)}" for group in self.alike_files[:_NAMED]]
            if len(self.alike_files) > _NAMED:
                lines.append(f"  and {len(self.alike_files) - _NAMED:,} more groups, all of them in the JSON")
        for kind, title in ((LEAKAGE, "Leakage"), (UNREADABLE, "Unreadable"), (NOTE, "Notes")):
            sentences = [f"- {finding.sentence}" for finding in self.findings if finding.kind == kind]
            lines += ["", f"{title}:" if sentences else f"{title}: none.", *sentences]
        return "\n".join(lines)

    def to_figure(self) -> Image.Image:
        """Shares of the records by category, of the safe picture's choice, and of users by records; RGB."""
        panels = [*filter(None, (self._categories(), self._safe(), self._per_user()))]
        if panels:
            return draw_panels(panels, _WIDTH)
        image = Image.new("RGB", (_WIDTH, 60), BACKGROUND)
        ImageDraw.Draw(image).text((_WIDTH / 2, 30), "No split could be read.", fill=INK, font=FONT, anchor="mm")
        return image

    def _categories(self) -> Panel | None:
        groups: dict[str, dict[str, _Share]] = {}
        for split in self.splits:
            for name, count in split.categories().items():
                groups.setdefault(name, {})[split.name] = _Share(count / split.records)
        return Panel("share of a split's records, by category", dict(sorted(groups.items()))) if groups else None

    def _safe(self) -> Panel | None:
        names = sorted({name for split in self.splits for name in split.categories()})
        groups = {
            name: {split.name: _Share(share) for split in self.splits if (share := split.safe_share(name)) is not None}
            for name in names
        }
        groups = {name: bars for name, bars in groups.items() if bars}
        return Panel("share of records that choose the safe picture", groups) if groups else None

    def _per_user(self) -> Panel | None:
        ends = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
        groups: dict[str, dict[str, _Share]] = {}
        for low, high in zip(ends, [*(end - 1 for end in ends[1:]), np.inf], strict=True):
            name = f"{low}" if low == high else f"{low} to {high}" if high < np.inf else f"{low} or more"
            for split in self.splits:
                count = sum(users for records, users in split.per_user.items() if low <= records <= high)
                if count:
                    groups.setdefault(name, {})[split.name] = _Share(count / split.users)
        return Panel("share of a split's users, by how many records each has", groups) if groups else None


class _Share(NamedTuple):
    """A counted share, which has no error bar."""

    value: float

    @property
    def low(self) -> float:
        return self.value

    @property
    def high(self) -> float:
        return self.value


def _split_lines(split: SplitCounts) -> list[str]:
    spread = ", ".join(f"{name} {count}" for name, count in split.spread().items())
    lines = [f"{split.name}: {split.records} records of {split.scenes} pairs of pictures, {split.users} users"]
    lines.append(f"  records per user: {spread}")
    if (share := split.safe_share()) is not None:
        lines.append(f"  chosen: the safe picture in {share:.1%}, the unsafe one in {1 - share:.1%}")
    categories = split.categories()
    for category, count in [*categories.items()][:_LISTED]:
        share = split.safe_share(category)
        concepts = split.concepts(category)
        listed = ", ".join(f"{concept} {number}" for concept, number in [*concepts.items()][:_LISTED])
        more = f" and {len(concepts) - _LISTED} more concepts" if len(concepts) > _LISTED else ""
        chosen = "" if share is None else f", the safe picture chosen in {share:.1%}"
        lines.append(f"  {category} {count}{chosen}{f': {listed}{more}' if listed else ''}")
    if len(categories) > _LISTED:
        lines.append(f"  and {len(categories) - _LISTED} more categories")
    return lines
