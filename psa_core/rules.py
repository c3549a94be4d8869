"""Which categories a person's fields ban, by named sets of rules.

`sage` is the table that the published data follows (found by fitting its users, 7,007 of 7,007 cells), and so what
published adapters were trained on. `protective` is the same, and a minor never sees Violence, Sexuality, Self-Harm
or Shocking. `reference-prompt` are the rules in the paper's prompt for a language model, read literally ("consider"
bans), which agree with the data on 63 % of the cells.
"""

from typing import NamedTuple

from .errors import PSAError
from .schema import (
    ADULT_AGE,
    CATEGORIES,
    MENTAL_CONDITIONS,
    PHYSICAL_CONDITIONS,
    RELIGIONS,
    age_group,
    check_age,
    check_word,
)

SAGE, PROTECTIVE, REFERENCE_PROMPT = "sage", "protective", "reference-prompt"
RULES = (PROTECTIVE, SAGE, REFERENCE_PROMPT)

_YOUNG = ("infants & toddlers", "children")
_OLD = ("young elderly", "elderly", "long-lived elderly")


class _Bans(NamedTuple):
    """What bans a category: any of these age groups, any religion, any of these conditions."""

    ages: tuple[str, ...] = ()
    religion: bool = False
    physical: tuple[str, ...] = ()
    mental: tuple[str, ...] = ()


_SAGE = {
    "Harassment": _Bans(physical=("intellectual disability",), mental=("sexual assault",)),
    "Hate": _Bans(_YOUNG),
    "Propaganda": _Bans(religion=True, physical=("intellectual disability",), mental=("war",)),
    "Self-Harm": _Bans(_YOUNG, mental=("anxiety", "depression")),
    "Sexuality": _Bans((*_YOUNG, "adolescents"), religion=True, mental=("sexual assault",)),
    "Shocking": _Bans(
        (*_YOUNG, *_OLD), mental=("anxiety", "depression", "major accidents", "natural disasters")
    ),
    "Violence": _Bans(
        (*_YOUNG, *_OLD), mental=("major accidents", "natural disasters", "sexual assault", "war")
    ),
}  # fmt: skip
_PROTECTED_MINORS = frozenset({"Self-Harm", "Sexuality", "Shocking", "Violence"})


def banned_categories(
    rules: str, *, age: int, religion: str, physical_condition: str, mental_condition: str
) -> tuple[str, ...]:
    """The categories that a set of rules bans for such a person, alphabetically.

    Args:
        rules: "sage", "protective" or "reference-prompt".
        age: whole years, 0 to 100.
        religion, physical_condition, mental_condition: words of `psa_core.schema`.

    Raises:
        PSAError: for other rules, or naming the field that is not valid, never its value.
    """
    check_age(age)
    check_word("Religion", religion, RELIGIONS)
    check_word("Physical_Condition", physical_condition, PHYSICAL_CONDITIONS)
    check_word("Mental_Condition", mental_condition, MENTAL_CONDITIONS)
    if rules == REFERENCE_PROMPT:
        banned = _reference_prompt(age, religion, physical_condition, mental_condition)
    elif rules in (SAGE, PROTECTIVE):
        banned = _sage(age, religion, physical_condition, mental_condition)
        if rules == PROTECTIVE and age < ADULT_AGE:
            banned |= _PROTECTED_MINORS
    else:
        raise PSAError(f"There is no such set of rules. There are: {', '.join(RULES)}.")
    return tuple(category for category in CATEGORIES if category in banned)


def _sage(age: int, religion: str, physical_condition: str, mental_condition: str) -> frozenset[str]:
    return frozenset(
        category
        for category, bans in _SAGE.items()
        if age_group(age) in bans.ages
        or (bans.religion and religion != "None")
        or physical_condition in bans.physical
        or mental_condition in bans.mental
    )


def _reference_prompt(age: int, religion: str, physical_condition: str, mental_condition: str) -> frozenset[str]:
    banned: set[str] = set()
    if age < ADULT_AGE or mental_condition != "healthy":
        banned |= {"Sexuality", "Self-Harm", "Violence"}
    if physical_condition != "healthy":
        banned |= {"Harassment", "Shocking"}
    if religion != "None":
        banned |= {"Hate", "Propaganda"}
    return frozenset(banned)
