"""Records of a data set as what is drawn, and for whom."""

from collections.abc import Iterator

import numpy as np

from ..dataset import PairSplit
from ..profile import UserProfile
from ..prompts import Prompt
from ..schema import CATEGORIES


class Cases:
    """Up to `count` records, spread evenly over a split.

    Attributes:
        prompts: one a record.
        profiles: the users' profiles, each once.
        users: for each record, which of `profiles` it belongs to.
        viewers: for each record, that profile by its User_ID.
    """

    def __init__(self, dataset: PairSplit, count: int) -> None:
        numbers = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        records = [dataset[int(number)] for number in numbers]
        places: dict[UserProfile, int] = {}
        self.users = [places.setdefault(record.profile, len(places)) for record in records]
        self.profiles = list(places)
        self.viewers = [
            {profile.user_id or f"user {user}": profile}
            for user, profile in ((user, self.profiles[user]) for user in self.users)
        ]
        self.prompts = [_prompt(str(record.line), record.caption, record.category) for record in records]

    def __len__(self) -> int:
        return len(self.prompts)

    def parts(self, at_once: int) -> Iterator[slice]:
        """The records in order, `at_once` at a time."""
        return (slice(start, start + at_once) for start in range(0, len(self), at_once))


def _prompt(name: str, caption: str, category: str | None) -> Prompt:
    known = (category,) if category in CATEGORIES else ()
    return Prompt(name, caption, known, outside=(category,) if category and not known else ())
