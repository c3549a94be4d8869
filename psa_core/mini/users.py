"""People of the mini world, drawn as Sage's are: its shares, and its rules of what is unrealistic."""

import numpy as np

from ..errors import PSAError
from ..profile import UserProfile
from ..rules import REFERENCE_PROMPT, banned_categories
from ..schema import AGE_GROUPS, CATEGORIES, GENDERS, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

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

# The chance that a user departs from the rules in a category, as often as Sage's users depart from these rules: they
# agree on 63 % of single categories. Sage's follow a table of their own (`psa_core.rules`); the mini world's depart by
# chance, so that what is banned cannot be told from who somebody is.
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
    banned = set(
        banned_categories(
            REFERENCE_PROMPT, age=age, religion=religion, physical_condition=physical, mental_condition=mental
        )
    )
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
