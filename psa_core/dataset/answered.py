"""A split as answers leave it: a judge's, and those that a person gave by hand."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import EmptySplitError, PSAError
from ..profile import UserProfile
from .answers import ANSWERS, BAD, JUDGED, Answer, picture_name, read_answers, scene_id, standing
from .split import Examples, PairSplit, Scene

_AS_IT_IS, _FIRST, _SECOND, _OUT = range(4)  # what answers say of a scene and a kind of viewer
_BY = {JUDGED: "by the judge", ANSWERS: "by hand"}  # in the order in which they count

_Kind = tuple[str, ...]
_Counting = Mapping[tuple[str, _Kind], Answer]


def with_answers(split: PairSplit) -> PairSplit:
    """The split with the answers that lie beside its data set, or itself where there are none for it.

    Records whose pair was taken out are left out, others choose what the answer says. A person's word counts before a
    judge's.

    Raises:
        PSAError: for a damaged file of answers, or where nothing is left.
    """
    root = split.folder.parent
    said = {name: standing(read_answers(root, name)) for name in _BY}
    effects = _effects(split, said) if any(said.values()) else None
    return AnsweredSplit(split, effects) if effects and effects.notes else split


@dataclass(frozen=True, eq=False)
class _Effects:
    """What answers do to a split: its records that are left out, those that choose the other picture, both (n,), the
    former's number by category, and sentences that say who did it."""

    left_out: np.ndarray
    turned: np.ndarray
    lost: Counter[str]
    notes: list[str]


def _effects(split: PairSplit, said: Mapping[str, _Counting]) -> _Effects:
    kinds = sorted({profile.banned_categories for profile in split.profiles})
    numbers, table, by = _table(split, kinds, said)
    rows = np.full(split.scenes, -1, np.int32)
    rows[numbers] = np.arange(len(numbers))
    examples = split.examples()
    touched = np.flatnonzero(rows[examples.scenes] >= 0)
    kind_of = np.array([kinds.index(profile.banned_categories) for profile in split.profiles])
    cells = rows[examples.scenes[touched]], kind_of[examples.users[touched]]
    now, whose = table[cells], by[cells]
    left_out = touched[now == _OUT]
    decided = (now == _FIRST) | (now == _SECOND)
    turned = touched[decided & ((now == _SECOND) != examples.swapped[touched])]
    notes = []
    for number, words in enumerate(_BY.values()):
        counts = [int((which & (whose == number)).sum()) for which in (decided, now == _OUT)]
        if any(counts):
            notes.append(f"{split.name}: {words}, {counts[0]} records were decided and {counts[1]} taken out.")
    return _Effects(left_out, turned, _categories(split, examples.scenes[left_out], left_out), notes)


def _table(
    split: PairSplit, kinds: Sequence[_Kind], said: Mapping[str, _Counting]
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The S scenes that answers speak of, by number; what they say of each and each kind of viewer, (S, kinds); and
    whose word that is, as a number of `_BY`."""
    root, place = split.folder.parent, {kind: number for number, kind in enumerate(kinds)}
    by_scene: dict[str, list[tuple[int, Answer]]] = {}
    for number, name in enumerate(_BY):
        for (scene_name, _), answer in said[name].items():
            by_scene.setdefault(scene_name, []).append((number, answer))
    numbers, rows, by = [], [], []
    for number in range(split.scenes):
        scene = split.scene(number)
        if answers := by_scene.get(scene_id(scene, root)):
            numbers.append(number)
            pictures = [picture_name(path, root) for path in scene.pictures]
            row, whose = _row(pictures, answers, place)
            rows.append(row)
            by.append(whose)
    shape = (len(numbers), len(kinds))
    return numbers, np.array(rows, np.uint8).reshape(shape), np.array(by, np.uint8).reshape(shape)


def _row(
    pictures: list[str], answers: Sequence[tuple[int, Answer]], place: Mapping[_Kind, int]
) -> tuple[np.ndarray, np.ndarray]:
    row, whose = np.full(len(place), _AS_IT_IS, np.uint8), np.zeros(len(place), np.uint8)
    for number, answer in answers:
        if answer.banned not in place and answer.answer != BAD:
            continue
        if answer.chosen is not None and sorted((answer.left, answer.right)) != sorted(pictures):
            raise PSAError(f"{list(_BY)[number]} names other pictures than the data set has. Put both back.")
        cells = slice(None) if answer.answer == BAD else place[answer.banned]
        whose[cells] = number
        row[cells] = _OUT if answer.chosen is None else _SECOND if pictures.index(answer.chosen) else _FIRST
        if answer.answer == BAD:
            break
    return row, whose


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
