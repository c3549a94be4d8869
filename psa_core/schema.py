"""Sage's words: the categories, and what each field of a person can be, in the data's own spelling and order."""

import re
from collections.abc import Iterable
from types import MappingProxyType

from .errors import PSAError

CATEGORIES = ("Harassment", "Hate", "Propaganda", "Self-Harm", "Sexuality", "Shocking", "Violence")
GENDERS = ("male", "female")
RELIGIONS = ("Christianity", "Islam", "Buddhism", "None")
PHYSICAL_CONDITIONS = ("visual impairment", "hearing impairment", "intellectual disability", "healthy")
MENTAL_CONDITIONS = (
    "depression",
    "anxiety",
    "war",
    "sexual assault",
    "major accidents",
    "natural disasters",
    "healthy",
)
AGE_GROUPS = MappingProxyType(
    {
        "infants & toddlers": range(0, 4),
        "children": range(4, 13),
        "adolescents": range(13, 20),
        "young adults": range(20, 35),
        "middle-aged": range(35, 60),
        "young elderly": range(60, 75),
        "elderly": range(75, 90),
        "long-lived elderly": range(90, 101),
    }
)
MAX_AGE = 100
ADULT_AGE = 18
MOST_USERS = 9_999_999  # a User_ID has 7 digits
# user_{User_ID}_{category}_{concept}_{n}_{s|u}.jpg: the last letter says whether the picture is the safe one
SAGE_FILE_NAME = re.compile(
    r"user_(?P<user_id>[0-9]{7})_(?P<category>[A-Za-z-]+)_(?:(?:(?P<concept>.+)_[0-9]+|.*)_(?P<kind>[su])\.[A-Za-z]+$)?"
)

_LONGEST_IN_A_NAME = 60  # bytes of a concept


def in_file_name(concept: str) -> str:
    """A concept as it stands in a `SAGE_FILE_NAME`."""
    return re.sub(r"[^\w-]+", "-", concept).encode()[:_LONGEST_IN_A_NAME].decode(errors="ignore")


# Letters only: the seven categories, and their other spellings in published files.
CATEGORY_WORDS = MappingProxyType(
    {
        **{re.sub("[^a-z]", "", category.lower()): category for category in CATEGORIES},
        "sexual": "Sexuality",
        "harrasment": "Harassment",
    }
)


def known_category(word: str) -> str | None:
    """The one of the seven that a word of the published files means, in any case; `None` for any other word."""
    return CATEGORY_WORDS.get(re.sub("[^a-z]", "", word.lower()))


def age_group(age: int) -> str:
    return next(group for group, ages in AGE_GROUPS.items() if age in ages)


def check_age(age: object) -> None:
    """Raise PSAError unless `age` is a whole number of years from 0 to 100."""
    if isinstance(age, bool) or not isinstance(age, int) or not 0 <= age <= MAX_AGE:
        raise PSAError(f"A profile's Age must be a whole number from 0 to {MAX_AGE}.")


def check_word(field: str, value: object, words: Iterable[str]) -> None:
    """Raise PSAError, naming the field and never the value, unless `value` is one of its words."""
    words = tuple(words)
    if not isinstance(value, str) or value not in words:
        raise PSAError(f"A profile's {field} must be one of: {', '.join(words)}.")
