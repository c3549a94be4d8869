"""What a split of preference pairs offers, in whichever form it lies on disk."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ..profile import UserProfile

if TYPE_CHECKING:
    from .sage import SageRecord

MOST_RECORDS = 100_000_000
"""Of a split whose pairs go with each of its users: as `Examples`, they take nine bytes each."""


@dataclass(frozen=True)
class Scene:
    """Two pictures and their caption, for whichever users.

    Attributes:
        where: where it is written, for sentences.
        plain: the caption without the concept, which the safe picture follows; "" where that is not known.
        safe: which of the two pictures that is, 0 or 1.
    """

    pictures: tuple[Path, Path]
    caption: str
    where: str
    plain: str = ""
    safe: int = 0


class Examples(NamedTuple):
    """A split's N records as numbers: its scene, its user among `profiles`, and which picture is chosen.

    `scenes` and `users` (N,) int32; `swapped` (N,) bool: whether the second picture of the scene is the chosen one.
    """

    scenes: np.ndarray
    users: np.ndarray
    swapped: np.ndarray


class PairSplit(Protocol):
    """Records by number; `profiles` are their distinct users, `categories` counts records, `notes` are for people.

    Several records may share a scene: what depends on pictures and caption alone is made once a scene.
    `harmless` names the split of scenes without a concept that belongs to these pairs, where there is one.
    """

    @property
    def profiles(self) -> list[UserProfile]: ...

    @property
    def categories(self) -> Counter[str]: ...

    @property
    def skipped(self) -> list[str]: ...

    @property
    def notes(self) -> list[str]: ...

    @property
    def harmless(self) -> str | None: ...

    @property
    def folder(self) -> Path: ...

    @property
    def name(self) -> str: ...

    @property
    def users(self) -> int: ...

    @property
    def scenes(self) -> int: ...

    def scene(self, number: int) -> Scene: ...

    def examples(self) -> Examples: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> "SageRecord": ...

    def __iter__(self) -> "Iterator[SageRecord]": ...
