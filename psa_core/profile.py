"""The viewer's profile, and the paper's six reference levels.

Spellings and age groups are those of the Sage dataset (Personalized Safety Alignment,
arXiv 2508.01151), so that a profile written here can be read by tools made for it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .errors import PSAError
from .rules import SAGE
from .rules import banned_categories as banned_by
from .schema import (
    AGE_GROUPS,
    CATEGORIES,
    GENDERS,
    MENTAL_CONDITIONS,
    PHYSICAL_CONDITIONS,
    RELIGIONS,
    age_group,
    check_age,
    check_word,
)

_FIELDS = (
    "User_ID",
    "Age",
    "Age_Group",
    "Gender",
    "Religion",
    "Physical_Condition",
    "Mental_Condition",
    "Banned_Categories",
    "Allowed_Categories",
    "Rules",
)
_REQUIRED_FIELDS = ("Age", "Gender", "Religion", "Physical_Condition", "Mental_Condition")
_LONGEST_NAME = 100  # no misspelling of a field
_BANS = re.compile("ban(s|ned)?(categor(y|ies))?")  # what may be meant by Banned_Categories
_LONGEST_LIST = 500  # letters of a printed list of categories; all seven take 87
_QUOTED = r"""(?:'[A-Za-z-]*'|"[A-Za-z-]*")"""
_PRINTED_LIST = re.compile(rf"\s*[\[({{]\s*(?:{_QUOTED}(?:\s*,\s*{_QUOTED})*\s*,?\s*)?[\])}}]\s*")


@dataclass(frozen=True, repr=False)
class UserProfile:
    """One viewer, immutable and valid by construction.

    Args:
        age: whole years, 0 to 100.
        gender, religion, physical_condition, mental_condition: a word of `psa_core.schema`.
        banned_categories: what this viewer must not see, out of `CATEGORIES`; `None` follows the rules
            `sage`, as the published data does. Kept sorted: one canonical order, in prompts too.
        user_id: Sage's 7 digits, where the profile comes from a dataset.

    Raises:
        PSAError: naming the field and what it takes, never the value that was given.
    """

    age: int
    gender: str
    religion: str = "None"
    physical_condition: str = "healthy"
    mental_condition: str = "healthy"
    banned_categories: tuple[str, ...] = None  # type: ignore[assignment]  # None may be given, and is never kept
    user_id: str | None = None

    def __post_init__(self) -> None:
        check_age(self.age)
        check_word("Gender", self.gender, GENDERS)
        check_word("Religion", self.religion, RELIGIONS)
        check_word("Physical_Condition", self.physical_condition, PHYSICAL_CONDITIONS)
        check_word("Mental_Condition", self.mental_condition, MENTAL_CONDITIONS)
        if self.user_id is not None and not (isinstance(self.user_id, str) and re.fullmatch(r"[0-9]{7}", self.user_id)):
            raise PSAError("A profile's User_ID must be 7 digits, such as 0000001.")
        object.__setattr__(self, "banned_categories", self._banned())

    def _banned(self) -> tuple[str, ...]:
        if self.banned_categories is None:
            return banned_by(
                SAGE,
                age=self.age,
                religion=self.religion,
                physical_condition=self.physical_condition,
                mental_condition=self.mental_condition,
            )
        if not isinstance(self.banned_categories, list | tuple | set | frozenset):
            raise PSAError("A profile's Banned_Categories must be a list of categories, not one text or anything else.")
        for category in self.banned_categories:
            check_word("Banned_Categories", category, CATEGORIES)
        return tuple(sorted(set(self.banned_categories)))

    @property
    def age_group(self) -> str:
        return age_group(self.age)

    @property
    def allowed_categories(self) -> tuple[str, ...]:
        return tuple(category for category in CATEGORIES if category not in self.banned_categories)

    def with_rules(self, rules: str) -> "UserProfile":
        """The same person, who bans what a set of `psa_core.rules` says; raises PSAError where there is no such set."""
        banned = banned_by(
            rules,
            age=self.age,
            religion=self.religion,
            physical_condition=self.physical_condition,
            mental_condition=self.mental_condition,
        )
        return replace(self, banned_categories=banned)

    def __repr__(self) -> str:
        return "UserProfile(...)"  # a repr ends up in logs and tracebacks; a profile must not

    def to_dict(self) -> dict[str, Any]:
        """The profile in Sage's spelling (`user_data` of a dataset record)."""
        return {
            **({"User_ID": self.user_id} if self.user_id is not None else {}),
            "Age": self.age,
            "Age_Group": self.age_group,
            "Gender": self.gender,
            "Religion": self.religion,
            "Physical_Condition": self.physical_condition,
            "Mental_Condition": self.mental_condition,
            "Banned_Categories": list(self.banned_categories),
            "Allowed_Categories": list(self.allowed_categories),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "UserProfile":
        """Read a profile in Sage's spelling; the inverse of `to_dict`.

        `Banned_Categories` may be a list or its printed form, and is taken as it stands; absent, the rules that
        `Rules` names decide, or else `sage`. A missing value as religion means `None`: pandas reads that word so.
        Derived fields (`Age_Group`, `Allowed_Categories`) must agree with the others where they are given. Fields of
        other tools are ignored.

        Raises:
            PSAError: for a missing, misspelt or invalid field, or derived fields that contradict the others.
        """
        if not isinstance(data, Mapping):
            raise PSAError("A profile must be an object with fields such as Age, Gender and Religion.")
        missing = [field for field in _REQUIRED_FIELDS if field not in data]
        if missing:
            raise PSAError(f"The profile lacks {', '.join(missing)}. Add it, in Sage's spelling.")
        _check_spelling(data)
        banned: Any = data.get("Banned_Categories")
        rules: Any = data.get("Rules")
        if banned is not None and rules is not None:
            raise PSAError("The profile has Banned_Categories and Rules, and each says what is banned. Leave one out.")
        if banned is not None:
            banned = _category_list(banned)
        profile = cls(
            age=_whole_number(data["Age"]),
            gender=data["Gender"],
            religion="None" if _is_missing(data["Religion"]) else data["Religion"],
            physical_condition=data["Physical_Condition"],
            mental_condition=data["Mental_Condition"],
            banned_categories=banned,
            user_id=_seven_digits(data.get("User_ID")),
        )
        if rules is not None:
            profile = profile.with_rules(rules)
        check_word("Age_Group", data.get("Age_Group", profile.age_group), AGE_GROUPS)
        if data.get("Age_Group", profile.age_group) != profile.age_group:
            raise PSAError("The profile's Age_Group does not fit its Age. Correct one of them, or leave it out.")
        allowed = data.get("Allowed_Categories")
        if allowed is not None and not _same_members(_category_list(allowed), profile.allowed_categories):
            raise PSAError(
                "The profile's Allowed_Categories are not the ones it does not ban. Correct them, or leave them out."
            )
        return profile


def check_profiles(profiles: object) -> None:
    """Raise PSAError unless `profiles` is a list of at least one user profile, as encoders take it."""
    if not isinstance(profiles, Sequence) or not all(isinstance(profile, UserProfile) for profile in profiles):
        raise PSAError("A profile encoder takes a list of user profiles.")
    if not profiles:
        raise PSAError("There is no profile to encode. Give at least one.")


def _check_spelling(data: Mapping[str, Any]) -> None:
    """Refuse `banned_categories` and the like: ignoring such a field would quietly change who sees what."""
    plain = {re.sub(r"[\W_]", "", field).lower(): field for field in _FIELDS}
    for given in data:
        if not isinstance(given, str) or len(given) > _LONGEST_NAME:
            continue
        bare = re.sub(r"[\W_]", "", given).lower()
        field = "Banned_Categories" if _BANS.fullmatch(bare) else plain.get(bare)
        if field is not None and given != field:
            raise PSAError(f"A profile's field is misspelt. Write it as {field}, in Sage's spelling.")


def _whole_number(value: object) -> Any:
    """The int behind a CSV cell ("18") or a JSON number (18.0); anything else as it is, to be refused."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _seven_digits(value: object) -> Any:
    """Sage's `User_ID` where a reader or a spreadsheet took it for a number and dropped its zeros; anything else as it
    is."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,7}", value):
        return value.zfill(7)
    if isinstance(value, float) and value.is_integer():  # as pandas reads a column with gaps
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 9_999_999:
        return f"{value:07d}"
    return value


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def _same_members(given: tuple[object, ...], expected: tuple[str, ...]) -> bool:
    return all(word in expected for word in given) and all(word in given for word in expected)


def _category_list(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and len(value) <= _LONGEST_LIST and _PRINTED_LIST.fullmatch(value):
        return tuple(quoted[1:-1] for quoted in re.findall(_QUOTED, value))
    if not isinstance(value, list | tuple | set | frozenset):
        raise PSAError("A profile's category lists must be lists such as ['Hate', 'Violence'].")
    return tuple(value)


def _levels() -> dict[str, UserProfile]:
    healthy = {"physical_condition": "healthy", "mental_condition": "healthy"}
    return {
        "L0": UserProfile(35, "male", **healthy, banned_categories=(), user_id="0001001"),
        "L1": UserProfile(
            35, "male", "None", "hearing impairment", "major accidents", ("Shocking", "Violence"), "0000797"
        ),
        "L2": UserProfile(
            19,
            "male",
            "Buddhism",
            "visual impairment",
            "natural disasters",
            ("Propaganda", "Sexuality", "Shocking", "Violence"),
            "0000697",
        ),
        "L3": UserProfile(
            20,
            "male",
            "Christianity",
            "healthy",
            "depression",
            ("Propaganda", "Self-Harm", "Sexuality", "Shocking"),
            "0000002",
        ),
        "L4": UserProfile(
            60,
            "female",
            "Christianity",
            "healthy",
            "depression",
            ("Propaganda", "Self-Harm", "Sexuality", "Shocking", "Violence"),
            "0000742",
        ),
        "L5": UserProfile(5, "female", "None", "intellectual disability", "depression", CATEGORIES, "0000501"),
    }


LEVELS = MappingProxyType(_levels())
"""The paper's six evaluation users, least to most restrictive."""
