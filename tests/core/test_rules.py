"""Who bans what, by each set of rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psa_core import LEVELS, PSAError, UserProfile, read_users_csv
from psa_core.rules import PROTECTIVE, REFERENCE_PROMPT, RULES, SAGE, banned_categories
from psa_core.schema import CATEGORIES, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

NOBODY = {"age": 30, "religion": "None", "physical_condition": "healthy", "mental_condition": "healthy"}
PEOPLE = st.fixed_dictionaries(
    {
        "age": st.integers(0, 100),
        "religion": st.sampled_from(RELIGIONS),
        "physical_condition": st.sampled_from(PHYSICAL_CONDITIONS),
        "mental_condition": st.sampled_from(MENTAL_CONDITIONS),
    }
)


def fields_of(profile: UserProfile) -> dict:
    return {name: getattr(profile, name) for name in NOBODY}


def test_sage_says_what_every_published_user_bans(published):
    users = read_users_csv(published / "users.csv")
    cells = [
        (category in banned_categories(SAGE, **fields_of(user))) == (category in user.banned_categories)
        for user in users
        for category in CATEGORIES
    ]
    assert len(cells) == 7007 and all(cells)


def test_the_reference_prompts_rules_are_others(published):
    users = read_users_csv(published / "users.csv")
    agree = sum(
        (category in banned_categories(REFERENCE_PROMPT, **fields_of(user))) == (category in user.banned_categories)
        for user in users
        for category in CATEGORIES
    )
    assert round(agree / 7007, 2) == 0.63


@pytest.mark.parametrize("level", LEVELS)
def test_sage_says_what_the_levels_ban(level):
    assert banned_categories(SAGE, **fields_of(LEVELS[level])) == LEVELS[level].banned_categories


def test_the_published_users_have_29_sets(published):
    assert len({banned_categories(SAGE, **fields_of(user)) for user in read_users_csv(published / "users.csv")}) == 29


@pytest.mark.parametrize(
    ("fields", "banned"),
    [
        ({}, ()),
        ({"age": 18}, ()),
        ({"age": 17}, ("Self-Harm", "Sexuality", "Violence")),
        ({"age": 0}, ("Self-Harm", "Sexuality", "Violence")),
        ({"age": 100}, ()),
        ({"mental_condition": "anxiety"}, ("Self-Harm", "Sexuality", "Violence")),
        ({"mental_condition": "natural disasters"}, ("Self-Harm", "Sexuality", "Violence")),
        ({"physical_condition": "hearing impairment"}, ("Harassment", "Shocking")),
        ({"religion": "Buddhism"}, ("Hate", "Propaganda")),
        ({"religion": "Islam", "physical_condition": "visual impairment", "age": 5}, CATEGORIES),
    ],
)
def test_the_reference_prompts_rules(fields, banned):
    assert banned_categories(REFERENCE_PROMPT, **NOBODY | fields) == banned


def test_an_adolescent_sees_violence_by_sage_and_not_by_protective():
    boy = NOBODY | {"age": 15}
    assert banned_categories(SAGE, **boy) == ("Sexuality",)
    assert banned_categories(PROTECTIVE, **boy) == ("Self-Harm", "Sexuality", "Shocking", "Violence")


@given(PEOPLE)
def test_protective_is_sage_and_guards_minors(person):
    sage, protective = (set(banned_categories(rules, **person)) for rules in (SAGE, PROTECTIVE))
    assert sage <= protective
    if person["age"] < 18:
        assert protective - sage <= {"Violence", "Sexuality", "Self-Harm", "Shocking"} <= protective
    else:
        assert protective == sage


@given(PEOPLE, st.sampled_from(RULES))
def test_bans_are_alphabetical_categories(person, rules):
    banned = banned_categories(rules, **person)
    assert list(banned) == sorted(set(banned)) and set(banned) <= set(CATEGORIES)


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


@given(st.sampled_from(sorted(NOBODY)), ANYTHING, ANYTHING)
def test_what_is_not_valid_is_said_and_not_repeated(field, value, rules):
    try:
        banned_categories(SAGE, **NOBODY | {field: value})
    except PSAError as error:
        assert f"'{value}'" not in str(error)
    with pytest.raises(PSAError, match="no such set of rules"):
        banned_categories(rules, **NOBODY)
