"""A split as answers by hand leave it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ..errors import PSAError
from ..profile import UserProfile
from .answers import ANSWERS, BAD, Answer, picture_name, read_answers, scene_id, standing
from .split import Examples, PairSplit, Scene

_Counting = Mapping[tuple[str, tuple[str, ...]], Answer]


def with_answers(split: PairSplit) -> PairSplit:
    """The split with the answers that lie beside its data set, or itself where there are none for it.

    Records whose pair was taken out are left out, others choose what the answer says.

    Raises:
        PSAError: for a damaged file of answers, or where nothing is left.
    """
    counting = standing(read_answers(split.folder.parent))
    found = _Effects(split, counting) if counting else None
    return AnsweredSplit(split, found) if found and found.any else split


class _Effects:
    """What the answers do to a split: its records that are left out, and those that choose the other picture."""

    def __init__(self, split: PairSplit, counting: _Counting) -> None:
        root, scenes = split.folder.parent, {scene for scene, _ in counting}
        numbers, answers = [], []
        for number in range(split.scenes):
            scene = split.scene(number)
            name = scene_id(scene, root)
            if name in scenes:
                numbers.append(number)
                answers.append((name, [picture_name(path, root) for path in scene.pictures]))
        examples = split.examples()
        touched = np.flatnonzero(np.isin(examples.scenes, numbers))
        place = np.searchsorted(numbers, examples.scenes[touched])
        bans = [profile.banned_categories for profile in split.profiles]
        bad = {answer.scene for answer in counting.values() if answer.answer == BAD}
        left_out, turned, self.decided = [], [], 0
        for index, at in zip(touched.tolist(), place.tolist(), strict=True):
            name, pictures = answers[at]
            answer = counting.get((name, bans[examples.users[index]]))
            if name in bad or (answer and answer.chosen is None):
                left_out.append(index)
            elif answer:
                if sorted((answer.left, answer.right)) != sorted(pictures) or answer.chosen is None:
                    raise PSAError(f"{root / ANSWERS} names other pictures than the data set has. Put both back.")
                self.decided += 1
                if pictures.index(answer.chosen) != int(examples.swapped[index]):
                    turned.append(index)
        self.left_out, self.turned = np.array(left_out, np.int64), np.array(turned, np.int64)

    @property
    def any(self) -> bool:
        return bool(self.decided or len(self.left_out))


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
            raise PSAError(f"All records of the split '{self.name}' were taken out by hand ({ANSWERS}). Review others.")
        self.profiles: list[UserProfile] = split.profiles
        self.categories = split.categories.copy()
        self.categories.subtract(Counter(filter(None, (split[int(index)].category for index in effects.left_out))))
        self.categories = +self.categories
        self.notes = [*split.notes, f"{self.name}: by hand, {effects.decided} records were decided and "
                      f"{len(effects.left_out)} taken out."]  # fmt: skip

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
