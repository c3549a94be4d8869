"""A split as answers leave it: a judge's, and those that a person gave by hand."""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import EmptySplitError, PSAError
from ..profile import UserProfile
from .answers import ANSWERS, BAD, JUDGED, UNDO, Answer, each_answer, picture_name, scene_id
from .split import Examples, PairSplit, Scene

_AS_IT_IS, _EARLIER, _LATER, _OUT, _STRANGE = range(5)
"""What answers say of a scene and a kind of viewer: nothing, the picture whose name comes first or last, neither, or
one that the scene has not."""
_BY = {JUDGED: "by the judge", ANSWERS: "by hand"}  # in the order in which they count

_Kind = tuple[str, ...]


def with_answers(split: PairSplit) -> PairSplit:
    """The split with the answers that lie beside its data set, or itself where there are none for it.

    Records whose pair was taken out are left out, others choose what the answer says. A person's word counts before a
    judge's.

    Raises:
        PSAError: for a damaged file of answers, or where nothing is left.
    """
    if not any(os.path.lexists(split.folder.parent / name) for name in _BY):
        return split
    effects = _effects(split)
    return AnsweredSplit(split, effects) if effects.notes else split


@dataclass(frozen=True, eq=False)
class _Effects:
    """What answers do to a split: its records that are left out, those that choose the other picture, both (n,), the
    former's number by category, and sentences that say who did it."""

    left_out: np.ndarray
    turned: np.ndarray
    lost: Counter[str]
    notes: list[str]


def _effects(split: PairSplit) -> _Effects:
    kinds = sorted({profile.banned_categories for profile in split.profiles})
    scenes = _Scenes(split)
    rows, said = _said(split.folder.parent, scenes, kinds)
    examples = split.examples()
    row_of = rows[scenes.places[examples.scenes]]
    touched = np.flatnonzero(row_of >= 0)
    kind_of = np.array([kinds.index(profile.banned_categories) for profile in split.profiles], np.uint8)
    judged, by_hand = said[row_of[touched], :, kind_of[examples.users[touched]]].T
    whose = by_hand != _AS_IT_IS  # a number of `_BY`
    now = np.where(whose, by_hand, judged)
    left_out = touched[now == _OUT]
    decided = (now == _EARLIER) | (now == _LATER)
    second = (now == _LATER) != scenes.turned[examples.scenes[touched]]
    turned = touched[decided & (second != examples.swapped[touched])]
    notes = []
    for number, words in enumerate(_BY.values()):
        counts = [int((which & (whose == number)).sum()) for which in (decided, now == _OUT)]
        if any(counts):
            notes.append(f"{split.name}: {words}, {counts[0]} records were decided and {counts[1]} taken out.")
    return _Effects(left_out, turned, _categories(split, examples.scenes[left_out], left_out), notes)


class _Scenes:
    """By what answers know a split's S scenes, in some 33 bytes each: those of the same pictures and caption are one.

    `places` (S,) are their numbers among the distinct ones; `turned` (S,) says whose second picture has the name that
    comes first.
    """

    def __init__(self, split: PairSplit) -> None:
        root = split.folder.parent
        ids, pictures = np.empty(split.scenes, np.uint64), np.empty(split.scenes, np.uint64)
        self.turned = np.empty(split.scenes, bool)
        for number in range(split.scenes):
            scene = split.scene(number)
            first, second = (picture_name(path, root) for path in scene.pictures)
            ids[number], pictures[number] = int(scene_id(scene, root), 16), _hash(first, second)
            self.turned[number] = second < first
        self._ids, place, self.places = np.unique(ids, return_index=True, return_inverse=True)
        self._pictures = pictures[place]

    def __len__(self) -> int:
        return len(self._ids)

    def place(self, answer: Answer) -> int | None:
        """Which of the distinct scenes the answer speaks of."""
        name = np.uint64(int(answer.scene, 16))
        place = int(np.searchsorted(self._ids, name))
        return place if place < len(self) and self._ids[place] == name else None

    def word(self, place: int, answer: Answer) -> int:
        if answer.chosen is None:
            return _AS_IT_IS if answer.answer == UNDO else _OUT
        if _hash(answer.left, answer.right) != self._pictures[place]:
            return _STRANGE
        return _EARLIER if answer.chosen == min(answer.left, answer.right) else _LATER


def _said(root: Path, scenes: _Scenes, kinds: Sequence[_Kind]) -> tuple[np.ndarray, np.ndarray]:
    """For each distinct scene its row, or -1; and in R rows what those of `_BY` say, (R, 2, kinds), a byte each."""
    kind_of = {kind: number for number, kind in enumerate(kinds)}
    rows, words, bad = np.full(len(scenes), -1, np.int32), array("B"), set[tuple[int, int, _Kind]]()
    nothing, count = bytes(len(_BY) * len(kinds)), 0
    for by, name in enumerate(_BY):
        for answer in each_answer(root, name):
            if (place := scenes.place(answer)) is None:
                continue
            if rows[place] < 0:
                rows[place] = count
                words.frombytes(nothing)
                count += 1
            row = int(rows[place])
            (bad.add if answer.answer == BAD else bad.discard)((row, by, answer.banned))
            if answer.banned in kind_of:
                words[(row * len(_BY) + by) * len(kinds) + kind_of[answer.banned]] = scenes.word(place, answer)
    said = np.array(words, np.uint8).reshape(count, len(_BY), len(kinds))
    for row, by, _ in bad:
        said[row, by] = _OUT
    for by, name in enumerate(_BY):
        if (said[:, by] == _STRANGE).any():
            raise PSAError(f"{name} names other pictures than the data set has. Put both back.")
    return rows, said


def _hash(*pictures: str) -> int:
    """64 bits of two pictures' names, whichever comes first."""
    text = json.dumps(sorted(pictures))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _categories(split: PairSplit, scenes: np.ndarray, records: np.ndarray) -> Counter[str]:
    """How many of the records each category has."""
    _, first, counts = np.unique(scenes, return_index=True, return_counts=True)
    found: Counter[str] = Counter()
    for index, count in zip(records[first].tolist(), counts.tolist(), strict=True):
        if category := split[index].category:
            found[category] += count
    return found


class AnsweredSplit:
    """`split` with the answers applied; see `PairSplit`. Scenes keep their numbers; some may have no record."""

    def __init__(self, split: PairSplit, effects: _Effects) -> None:
        self._split, self._effects = split, effects
        self.folder, self.scenes, self.skipped, self.harmless = (
            split.folder,
            split.scenes,
            split.skipped,
            split.harmless,
        )
        self._shift = effects.left_out - np.arange(len(effects.left_out))
        if not len(self):
            raise EmptySplitError(
                f"All records of the split '{self.name}' were taken out {_takers(effects)}. Review others, or take the "
                "answers away."
            )
        self.profiles: list[UserProfile] = split.profiles
        self.categories = split.categories - effects.lost
        self.notes = [*split.notes, *effects.notes]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def users(self) -> int:
        return len(self.profiles)

    def scene(self, number: int) -> Scene:
        return self._split.scene(number)

    def examples(self) -> Examples:
        scenes, users, swapped = self._split.examples()
        swapped = swapped.copy()
        swapped[self._effects.turned] ^= True
        return Examples(*(np.delete(each, self._effects.left_out) for each in (scenes, users, swapped)))

    def __len__(self) -> int:
        return len(self._split) - len(self._effects.left_out)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(index + np.searchsorted(self._shift, index, side="right"))
        record = self._split[place]
        at = np.searchsorted(self._effects.turned, place)
        if at < len(self._effects.turned) and self._effects.turned[at] == place:
            return replace(record, chosen=record.rejected, rejected=record.chosen)
        return record

    def __iter__(self) -> Iterator:
        return (self[index] for index in range(len(self)))


def _takers(effects: _Effects) -> str:
    words = " and ".join(words for words in _BY.values() if any(words in note for note in effects.notes))
    return f"{words} ({', '.join(name for name, by in _BY.items() if by in words)})"
