"""Virtual people, drawn as the Sage dataset's are: its shares, and its rules of who is unrealistic.

Source: the sampler of arXiv 2508.01151's dataset. Nobody real is in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from .errors import PSAError
from .profile import UserProfile
from .rules import SAGE, banned_categories
from .schema import (
    AGE_GROUPS,
    CATEGORIES,
    GENDERS,
    MENTAL_CONDITIONS,
    MOST_USERS,
    PHYSICAL_CONDITIONS,
    RELIGIONS,
    age_group,
)
from .seeds import draw_seed

SHARES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "Age_Group": dict(zip(AGE_GROUPS, (0.05, 0.20, 0.20, 0.20, 0.20, 0.10, 0.04, 0.01), strict=True)),
        "Gender": dict.fromkeys(GENDERS, 0.5),
        "Religion": dict(zip(RELIGIONS, (0.3, 0.2, 0.2, 0.3), strict=True)),
        "Physical_Condition": dict(zip(PHYSICAL_CONDITIONS, (0.2, 0.2, 0.2, 0.4), strict=True)),
        "Mental_Condition": dict(zip(MENTAL_CONDITIONS, (0.15, 0.15, 0.075, 0.075, 0.075, 0.075, 0.4), strict=True)),
    }
)
"""Each field's words with their shares among proposals; the ages of a group are equally likely."""

_LEAST_AGES = {
    "war": 18,
    "sexual assault": 13,  # never for children, who are up to 12
    "major accidents": 5,
    "depression": 5,
    "anxiety": 5,
}
_LEAST_AGE_OF_RELIGION = 8
_TOLD_BY = 8  # people: fewer may be drawn by chance as somebody real is
_SEEDS = 256


class Person(NamedTuple):
    """Who somebody is, without what they ban."""

    age: int
    gender: str
    religion: str
    physical_condition: str
    mental_condition: str


def sample_users(
    count: int, seed: int, rules: str = SAGE, departures: float = 0.0, first_id: int = 1
) -> list[UserProfile]:
    """Realistic users, with `User_ID` from `first_id` on. User n depends on the seed and n alone.

    Args:
        rules: a set of `psa_core.rules`, which says what each one bans.
        departures: the chance that a user departs from the rules in a category, 0 to 1.

    Raises:
        PSAError: for no user or too many, a seed that is no whole number, unknown rules, or a chance that is none.
    """
    if (
        not _is_whole(count)
        or count < 1
        or not _is_whole(first_id)
        or first_id < 0
        or first_id + count - 1 > MOST_USERS
    ):
        raise PSAError(f"The number of users must be from 1 to {MOST_USERS}: a User_ID has 7 digits.")
    if not _is_whole(seed):
        raise PSAError("The users' seed must be a whole number.")
    numbers = range(first_id, first_id + count)
    return [
        sample_user(np.random.default_rng(draw_seed(seed, "user", number)), number, rules, departures)
        for number in numbers
    ]


def sample_user(rng: np.random.Generator, number: int, rules: str = SAGE, departures: float = 0.0) -> UserProfile:
    """A random realistic user with `User_ID` `number`; departures as in `sample_users`.

    Raises:
        PSAError: for a number of more than 7 digits, unknown rules, or a chance that is none.
    """
    if not 0 <= number <= MOST_USERS:
        raise PSAError(f"A User_ID has 7 digits: there can be no more than {MOST_USERS} users.")
    if not isinstance(departures, int | float) or not 0 <= departures <= 1:
        raise PSAError("The chance of departures from the rules must be a number from 0 to 1.")
    person = sample_person(rng)
    age, _, religion, physical, mental = person
    banned = set(
        banned_categories(rules, age=age, religion=religion, physical_condition=physical, mental_condition=mental)
    )
    banned ^= {category for category in CATEGORIES if rng.random() < departures}
    return UserProfile(*person, tuple(banned), f"{number:07d}")


def seed_of(users: Sequence[UserProfile], first: Iterable[int] = ()) -> int | None:
    """The seed from which `sample_users` draws just these people, by their User_ID, whatever they ban.

    Tried are `first` and 0 to 255. `None` where it is none of them, and for fewer than 8 people: so few may be like
    drawn ones by chance.
    """
    if len(users) < _TOLD_BY or any(user.user_id is None for user in users):
        return None
    seeds = dict.fromkeys([*first, *range(_SEEDS)])
    return next((seed for seed in seeds if all(_is_drawn(user, seed) for user in users)), None)


def _is_drawn(user: UserProfile, seed: int) -> bool:
    person = sample_person(np.random.default_rng(draw_seed(seed, "user", int(user.user_id or 0))))
    return person == Person(*(getattr(user, field) for field in Person._fields))


def sample_person(rng: np.random.Generator) -> Person:
    """Propose people until one is realistic."""
    while not is_realistic(person := propose_person(rng)):
        pass
    return person


def propose_person(rng: np.random.Generator) -> Person:
    """A person by the shares alone, realistic or not."""
    ages = AGE_GROUPS[_pick(rng, "Age_Group")]
    age = ages[int(rng.integers(len(ages)))]
    religion, physical = _pick(rng, "Religion"), _pick(rng, "Physical_Condition")
    mental = _pick(rng, "Mental_Condition")
    return Person(age, GENDERS[int(rng.integers(len(GENDERS)))], religion, physical, mental)


def is_realistic(person: Person | UserProfile) -> bool:
    """Whether Sage's sampler keeps such a person."""
    if person.age in AGE_GROUPS["infants & toddlers"] and person.mental_condition not in (
        "healthy",
        "natural disasters",
    ):
        return False
    if person.religion != "None" and person.age < _LEAST_AGE_OF_RELIGION:
        return False
    return person.age >= _LEAST_AGES.get(person.mental_condition, 0)


def accepted_shares() -> dict[str, dict[str, float]]:
    """Each field's words with their shares among realistic people, by enumeration of all there can be."""
    totals: dict[str, dict[str, float]] = {field: defaultdict(float) for field in SHARES}
    whole = 0.0
    ages = [(age, SHARES["Age_Group"][group] / len(years)) for group, years in AGE_GROUPS.items() for age in years]
    others = product(*(SHARES[field].items() for field in list(SHARES)[1:]))
    for (age, share), rest in product(ages, others):
        words = [word for word, _ in rest]
        if not is_realistic(Person(age, *words)):
            continue
        share *= float(np.prod([part for _, part in rest]))
        whole += share
        for field, word in zip(SHARES, (age_group(age), *words), strict=True):
            totals[field][word] += share
    return {field: {word: share / whole for word, share in found.items()} for field, found in totals.items()}


def _pick(rng: np.random.Generator, field: str) -> str:
    words, shares = zip(*SHARES[field].items(), strict=True)
    return words[rng.choice(len(words), p=shares)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
