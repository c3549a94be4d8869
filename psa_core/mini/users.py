"""People of the mini world, drawn as Sage's are: its shares, and its rules of what is unrealistic."""

import numpy as np

from ..errors import PSAError
from ..profile import (
    AGE_GROUPS,
    CATEGORIES,
    GENDERS,
    MENTAL_CONDITIONS,
    PHYSICAL_CONDITIONS,
    RELIGIONS,
    UserProfile,
    banned_by_rules,
)

# Shares in the order of the words they belong to (arXiv 2508.01151, the dataset's sampler).
_AGE_GROUP_SHARES = (0.05, 0.20, 0.20, 0.20, 0.20, 0.10, 0.04, 0.01)
_RELIGION_SHARES = (0.3, 0.2, 0.2, 0.3)
_PHYSICAL_SHARES = (0.2, 0.2, 0.2, 0.4)
_MENTAL_SHARES = (0.15, 0.15, 0.075, 0.075, 0.075, 0.075, 0.4)
_LEAST_AGES = {
    "war": 18,
    "sexual assault": 13,  # never for children, who are up to 12
    "major accidents": 5,
    "depression": 5,
    "anxiety": 5,
}
_LEAST_AGE_OF_RELIGION = 8

# The chance that a user departs from the rules in a category. In Sage a language model's word decides: its users agree
# with the rules on 63 % of single categories, and 4 % of them in all seven, which is 0.63 ** 7.
_DEPARTS = 0.37


def sample_user(rng: np.random.Generator, number: int) -> UserProfile:
    """A random realistic user with `User_ID` `number`.

    Without departures the seven categories would be banned in three fixed groups, and no adapter
    could learn them apart.

    Raises:
        PSAError: for a number of more than 7 digits.
    """
    if not 0 <= number <= 9_999_999:
        raise PSAError("A User_ID has 7 digits: there can be no more than 9999999 users.")
    while True:
        age = int(rng.choice(list(_pick(rng, tuple(AGE_GROUPS.values()), _AGE_GROUP_SHARES))))
        religion = _pick(rng, RELIGIONS, _RELIGION_SHARES)
        physical = _pick(rng, PHYSICAL_CONDITIONS, _PHYSICAL_SHARES)
        mental = _pick(rng, MENTAL_CONDITIONS, _MENTAL_SHARES)
        gender = str(rng.choice(GENDERS))
        if is_realistic(age, religion, mental):
            break
    banned = set(banned_by_rules(age, religion, physical, mental))
    banned ^= {category for category in CATEGORIES if rng.random() < _DEPARTS}
    return UserProfile(age, gender, religion, physical, mental, tuple(banned), f"{number:07d}")


def is_realistic(age: int, religion: str, mental_condition: str) -> bool:
    """Whether Sage's sampler keeps such a profile."""
    if age in AGE_GROUPS["infants & toddlers"] and mental_condition not in ("healthy", "natural disasters"):
        return False
    if religion != "None" and age < _LEAST_AGE_OF_RELIGION:
        return False
    return age >= _LEAST_AGES.get(mental_condition, 0)


def _pick(rng: np.random.Generator, words, shares):
    return words[rng.choice(len(words), p=shares)]
