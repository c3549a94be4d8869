"""A split in which each pair of pictures goes with each user: by rule, its two pictures serve everybody."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import PSAError
from ..schema import CATEGORIES
from .sage import SageRecord
from .split import MOST_RECORDS, Examples, PairSplit, Scene


class EveryUserSplit:
    """`split`, each of whose S records goes with every one of its U users; see `PairSplit`.

    Record i is the split's record i // U for user i % U, and scene n that of its record n: answers may have taken out
    records, and then there are more scenes than these. The safe picture is chosen where the user bans the category.

    Raises:
        PSAError: where a record's file name does not tell its category, or which of its pictures is the safe one.
    """

    def __init__(self, split: PairSplit) -> None:
        self._split = split
        self.folder, self.profiles = split.folder, split.profiles
        self.skipped, self.notes, self.harmless = split.skipped, split.notes, split.harmless
        if (count := len(split) * len(self.profiles)) > MOST_RECORDS:
            raise PSAError(
                f"With every user, the split '{split.name}' is of {count:,} records, and more than {MOST_RECORDS:,} "
                "are not read. Take records or users out."
            )
        self._scenes, _, self._second = split.examples()
        told = [(CATEGORIES.index(record.category), record.safe_chosen) for record in split if _is_told(record)]
        if len(told) < len(split):
            raise PSAError(
                f"{len(split) - len(told)} of {len(split)} records of the split '{split.name}' do not tell by their "
                "file names what is shown (user_1_Violence_plus_7_s.jpg): they cannot go with every user."
            )
        self._categories = np.array([category for category, _ in told])
        self._safe_first = np.array([safe for _, safe in told], bool)
        self._bans = np.array([[name in user.banned_categories for name in CATEGORIES] for user in self.profiles], bool)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def users(self) -> int:
        return len(self.profiles)

    @property
    def scenes(self) -> int:
        return len(self._split)

    @property
    def categories(self) -> Counter[str]:
        counts = np.bincount(self._categories, minlength=len(CATEGORIES)) * self.users
        return Counter({name: int(count) for name, count in zip(CATEGORIES, counts, strict=True) if count})

    def scene(self, number: int) -> Scene:
        return self._split.scene(int(self._scenes[number]))

    def examples(self) -> Examples:
        scenes = np.repeat(np.arange(self.scenes, dtype=np.int32), self.users)
        users = np.tile(np.arange(self.users, dtype=np.int32), self.scenes)
        return Examples(scenes, users, self._second[scenes] ^ self._turned(scenes, users))

    def __len__(self) -> int:
        return self.scenes * self.users

    def __getitem__(self, index: int) -> SageRecord:
        if not 0 <= index < len(self):
            raise IndexError(index)
        scene, user = divmod(index, self.users)
        record = replace(self._split[scene], profile=self.profiles[user])
        if self._turned(scene, user):
            return replace(record, chosen=record.rejected, rejected=record.chosen)
        return record

    def __iter__(self) -> Iterator[SageRecord]:
        return (self[index] for index in range(len(self)))

    def _turned(self, scenes: Any, users: Any) -> Any:
        """Whether the picture that the split's own record rejects is the one to choose."""
        return self._bans[users, self._categories[scenes]] != self._safe_first[scenes]


def _is_told(record: SageRecord) -> bool:
    return record.category in CATEGORIES and record.safe_chosen is not None
