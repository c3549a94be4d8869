"""Virtual people follow Sage's shares and rules, and are the same for the same seed."""

import csv
import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from psa_core import LEVELS, PSAError, read_users_csv
from psa_core.population import (
    SHARES,
    accepted_shares,
    is_realistic,
    propose_person,
    sample_person,
    sample_user,
    sample_users,
)
from psa_core.rules import REFERENCE_PROMPT, RULES, banned_categories
from psa_core.schema import AGE_GROUPS, CATEGORIES, age_group
from psa_core.users import read_users, write_users

DRAWS = 100_000
SAMPLING_ERRORS = 5.0  # standard ones; beyond them lies one share in two million


@pytest.fixture(scope="module")
def proposals():
    rng = np.random.default_rng(7)
    return [propose_person(rng) for _ in range(DRAWS)]


def shares_of(people) -> dict[str, Counter]:
    fields = ("Age_Group", "Gender", "Religion", "Physical_Condition", "Mental_Condition")
    return {
        field: Counter(word for word in words)
        for field, words in zip(fields, zip(*((age_group(p.age), *p[1:]) for p in people), strict=True), strict=True)
    }


def assert_follows(people, shares) -> None:
    found = shares_of(people)
    for field, words in shares.items():
        assert sum(words.values()) == pytest.approx(1)
        assert set(found[field]) <= set(words)
        for word, share in words.items():
            error = (share * (1 - share) / len(people)) ** 0.5
            assert abs(found[field][word] / len(people) - share) < SAMPLING_ERRORS * error, (field, word)


def test_proposals_follow_the_papers_shares(proposals):
    assert_follows(proposals, SHARES)
    assert SHARES["Age_Group"]["infants & toddlers"] == 0.05 and SHARES["Religion"]["None"] == 0.3
    ages = Counter(person.age for person in proposals)
    for group, years in AGE_GROUPS.items():
        share = SHARES["Age_Group"][group] / len(years)
        error = (share * (1 - share) / DRAWS) ** 0.5
        assert all(abs(ages[age] / DRAWS - share) < SAMPLING_ERRORS * error for age in years)


def test_accepted_people_follow_the_shares_that_enumeration_gives(proposals):
    accepted = [person for person in proposals if is_realistic(person)]
    assert_follows(accepted, accepted_shares())
    assert accepted_shares()["Age_Group"]["infants & toddlers"] == pytest.approx(0.008, abs=0.0005)
    rng = np.random.default_rng(7)  # whom the sampler gives are those same ones
    assert [sample_person(rng) for _ in range(1000)] == accepted[:1000]


def test_nobody_is_unrealistic():
    """The rules of the method's description, written out anew."""
    for user in sample_users(20_000, seed=1):
        if user.age <= 3:
            assert user.mental_condition in ("healthy", "natural disasters")
        if user.age <= 12:
            assert user.mental_condition not in ("war", "sexual assault")
        assert user.mental_condition != "war" or user.age >= 18
        assert user.mental_condition not in ("major accidents", "depression", "anxiety") or user.age >= 5
        assert user.religion == "None" or user.age >= 8


def test_the_same_seed_gives_the_same_users_however_many():
    users = sample_users(50, seed=3)
    assert sample_users(50, seed=3) == users
    assert sample_users(20, seed=3) == users[:20]
    assert sample_users(30, seed=3, first_id=21) == users[20:]
    assert sample_users(50, seed=4) != users
    assert [user.user_id for user in users[:2]] == ["0000001", "0000002"]


@pytest.mark.parametrize("rules", RULES)
def test_bans_follow_the_rules_and_departures_leave_the_people_alone(rules):
    users = sample_users(2000, seed=5, rules=rules)
    for user in users[:200]:
        fields = {name: getattr(user, name) for name in ("age", "religion", "physical_condition", "mental_condition")}
        assert user.banned_categories == banned_categories(rules, **fields)
    departed = sample_users(2000, seed=5, rules=rules, departures=0.2)
    assert [user.with_rules(rules) for user in departed] == users
    cells = len(users) * len(CATEGORIES)
    changed = sum(len({*a.banned_categories} ^ {*b.banned_categories}) for a, b in zip(users, departed, strict=True))
    assert abs(changed / cells - 0.2) < SAMPLING_ERRORS * (0.2 * 0.8 / cells) ** 0.5
    opposite = sample_users(20, seed=5, rules=rules, departures=1)
    assert all(a.banned_categories == b.allowed_categories for a, b in zip(users, opposite, strict=False))


@pytest.mark.parametrize(
    "given",
    [
        {"count": 0},
        {"count": 10_000_000},
        {"count": 2.0},
        {"count": True},
        {"seed": "x"},
        {"rules": "mine"},
        {"departures": 1.5},
        {"departures": float("nan")},
        {"departures": "x"},
        {"first_id": -1},
        {"first_id": 9_999_999},
    ],
)
def test_what_makes_no_users_is_refused(given):
    with pytest.raises(PSAError):
        sample_users(**{"count": 2, "seed": 0, **given})


def test_the_mini_worlds_first_people_are_as_they_were():
    """The sampler's draws are those that the first edition's adapters were trained for."""
    users = [sample_user(np.random.default_rng(n), n, REFERENCE_PROMPT, 0.37) for n in range(500)]
    assert digest(users) == "09caad8b501cfdb8e92fffff36810a13cb74a1fd73a9b28658784ee0bb6a9d60"


def digest(users) -> str:
    return hashlib.sha256(json.dumps([user.to_dict() for user in users]).encode()).hexdigest()


@pytest.mark.parametrize("name", ["users.csv", "users.jsonl", "users.JSONL"])
def test_users_come_back_from_their_file(tmp_path, name):
    users = [*sample_users(300, seed=2, departures=0.3), *LEVELS.values()]
    write_users(tmp_path / name, users)
    assert read_users(tmp_path / name) == users
    if name == "users.csv":
        assert read_users_csv(tmp_path / name) == users


def test_the_columns_are_the_references_with_none_as_a_word(tmp_path):
    write_users(tmp_path / "users.csv", [LEVELS["L1"]])
    with open(tmp_path / "users.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "User_ID": "0000797",
        "Age": "35",
        "Age_Group": "middle-aged",
        "Gender": "male",
        "Religion": "None",
        "Physical_Condition": "hearing impairment",
        "Mental_Condition": "major accidents",
        "Banned_Categories": "['Shocking', 'Violence']",
        "Allowed_Categories": "['Harassment', 'Hate', 'Propaganda', 'Self-Harm', 'Sexuality']",
    }


def test_published_users_are_written_as_they_were_read(tmp_path, published):
    write_users(tmp_path / "users.csv", read_users_csv(published / "users.csv"))
    ours, theirs = (
        [{key: value for key, value in row.items() if key != "User_ID"} for row in csv.DictReader(file.open())]
        for file in (tmp_path / "users.csv", published / "users.csv")
    )
    assert ours == theirs


@pytest.mark.parametrize("line", ["{", "[]", json.dumps({"Age": 30}), json.dumps(LEVELS["L1"].to_dict() | {"Age": -1})])
def test_a_bad_line_of_users_is_named(tmp_path, line):
    path = tmp_path / "users.jsonl"
    path.write_text(json.dumps(LEVELS["L0"].to_dict()) + "\n" + line + "\n")
    with pytest.raises(PSAError, match=r"users\.jsonl, (line|user) 2"):
        read_users(path)


def test_users_without_a_name_or_a_kind_of_file_are_refused(tmp_path):
    from dataclasses import replace

    with pytest.raises(PSAError, match="User_ID"):
        write_users(tmp_path / "users.csv", [replace(LEVELS["L1"], user_id=None)])
    with pytest.raises(PSAError, match=r"\.jsonl"):
        write_users(tmp_path / "users.txt", [LEVELS["L1"]])
    with pytest.raises(PSAError, match="at least one"):
        write_users(tmp_path / "users.csv", [])
    assert [*tmp_path.iterdir()] == []
