"""The mini world's people: Sage's sampler and Sage's table, in groups that share nobody."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np

from ..population import sample_user
from ..profile import UserProfile
from ..schema import CATEGORIES
from ..seeds import draw_seed

HELD_OUT_SETS = (
    ("Harassment", "Propaganda", "Sexuality"),
    ("Harassment", "Sexuality", "Violence"),
    ("Propaganda", "Sexuality", "Violence"),
)
"""Ban sets that nobody has in an adapter's data: drawn, once, from those of Sage's 29 that no level has and that at
least one person in a hundred has."""


class People(NamedTuple):
    """Users of three kinds. No two have the same `User_ID`, nor the same fields: whoever is like a seen user is none of
    the unseen ones."""

    seen: list[UserProfile]
    unseen: list[UserProfile]
    held_out: list[UserProfile]


def mini_people(seed: int, seen: int, unseen: int, held_out: int, ban_all: bool = False) -> People:
    """The first so many users of each kind that Sage's sampler draws; the same seed gives the same ones.

    Args:
        held_out: how many have one of `HELD_OUT_SETS`; of the others nobody does.
        ban_all: give every one of them every ban, once the kinds are told apart: a view of people that knows nobody.
    """
    found = _different_people(seed)
    people = People([], [], [])
    while True:
        missing = (len(people.seen) < seen, len(people.unseen) < unseen, len(people.held_out) < held_out)
        if not any(missing):
            return people
        user = next(found)
        is_held_out = user.banned_categories in HELD_OUT_SETS
        kind = people.held_out if is_held_out else people.seen if missing[0] else people.unseen
        if missing[2] if is_held_out else missing[0] or missing[1]:
            kind.append(replace(user, banned_categories=CATEGORIES) if ban_all else user)


def _different_people(seed: int) -> Iterator[UserProfile]:
    met = set()
    for number in count(1):
        user = sample_user(np.random.default_rng(draw_seed(seed, "user", number)), number)
        fields = replace(user, user_id=None)
        if fields not in met:
            met.add(fields)
            yield user
