"""The viewer's profile: what is valid, what the rules say, and that nothing of it leaks."""

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psa_core import LEVELS, PSAError, UserProfile, read_users_csv
from psa_core.rules import RULES, banned_categories
from psa_core.schema import AGE_GROUPS, CATEGORIES, GENDERS, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

ADULT = {"age": 30, "gender": "female"}
HEADER = "Age,Age_Group,Gender,Religion,Physical_Condition,Mental_Condition,Banned_Categories,Allowed_Categories"
ROW = "30,young adults,female,Islam,healthy,healthy,\"['Hate', 'Propaganda']\","
ALLOWED = "\"['Harassment', 'Self-Harm', 'Sexuality', 'Shocking', 'Violence']\""


def sage(**changes) -> dict:
    return {
        "Age": 30,
        "Gender": "female",
        "Religion": "None",
        "Physical_Condition": "healthy",
        "Mental_Condition": "healthy",
    } | changes


@pytest.mark.parametrize(
    ("group", "first", "last"),
    [
        ("infants & toddlers", 0, 3),
        ("children", 4, 12),
        ("adolescents", 13, 19),
        ("young adults", 20, 34),
        ("middle-aged", 35, 59),
        ("young elderly", 60, 74),
        ("elderly", 75, 89),
        ("long-lived elderly", 90, 100),
    ],
)
def test_age_groups(group, first, last):
    assert {UserProfile(age, "male").age_group for age in range(first, last + 1)} == {group}


def test_age_groups_cover_every_age_once():
    assert [age for ages in AGE_GROUPS.values() for age in ages] == list(range(101))


@pytest.mark.parametrize(
    ("fields", "banned"),
    [
        ({}, ()),
        ({"age": 17}, ("Sexuality",)),
        ({"mental_condition": "anxiety"}, ("Self-Harm", "Shocking")),
        ({"physical_condition": "hearing impairment"}, ()),
        ({"religion": "Buddhism"}, ("Propaganda", "Sexuality")),
        ({"age": 5, "physical_condition": "intellectual disability"}, CATEGORIES),
    ],
)
def test_without_a_choice_it_bans_what_the_published_data_does(fields, banned):
    profile = UserProfile(**ADULT | fields)
    assert profile.banned_categories == banned
    assert profile.allowed_categories == tuple(c for c in CATEGORIES if c not in banned)


def test_a_choice_takes_the_place_of_the_rules_and_is_kept_alphabetical():
    assert UserProfile(8, "male", banned_categories=()).banned_categories == ()
    chosen = UserProfile(**ADULT, banned_categories=["Violence", "Hate", "Violence"])
    assert chosen.banned_categories == ("Hate", "Violence")
    assert UserProfile(**ADULT, banned_categories={"Violence", "Hate"}) == chosen


def test_a_real_person_may_be_what_a_sampler_would_not_draw():
    assert UserProfile(3, "male", "Islam", mental_condition="war").age_group == "infants & toddlers"


IMPOSSIBLE = [
    {"age": -1},
    {"age": 101},
    {"age": 200},
    {"age": True},
    {"age": 3.5},
    {"age": math.nan},
    {"age": "zqx"},
    {"age": None},
    {"gender": "zqx"},
    {"gender": None},
    {"gender": "Female"},
    {"religion": "Zoroastrianism"},
    {"religion": None},
    {"religion": ["Islam"]},
    {"religion": "Islam "},
    {"physical_condition": "zqx of the knee"},
    {"mental_condition": "zqx of the mind"},
    {"mental_condition": 7654},
    {"banned_categories": "Violence"},
    {"banned_categories": ("zqx, my own words",)},
    {"banned_categories": ("Hate", None)},
    {"banned_categories": ("hate",)},
    {"banned_categories": (["Hate"],)},
    {"banned_categories": 7654},
    {"banned_categories": {"Violence": False}},
    {"banned_categories": b"Violence"},
    {"user_id": "12345"},
    {"user_id": 1234567},
    {"user_id": "１２３４５６７"},  # noqa: RUF001 - full-width digits, and the check is for plain ones
    {"user_id": "../../7"},
]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=repr)
def test_impossible_profiles_are_refused_without_repeating_them(change):
    with pytest.raises(PSAError) as caught:
        UserProfile(**ADULT | change)
    (value,) = change.values()
    message = str(caught.value)
    assert message.endswith(".")
    if value not in (None, "Violence", b"Violence", "Female", ("hate",)):  # those occur in the list of what is possible
        assert not any(part in message for part in ("zqx", "7654", "Zoro", "200", "-1", "3.5", "True", "nan", "../"))


def test_bans_from_a_generator_are_refused_not_lost():
    with pytest.raises(PSAError):
        UserProfile(**ADULT, banned_categories=(c for c in ["Hate"]))


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, lambda profile: str({"profile": [profile]})])
def test_no_text_form_shows_a_field(show):
    for profile in LEVELS.values():
        text = show(profile)
        written = profile.to_dict()
        values = [str(written[field]) for field in written if not field.endswith("_Categories")]
        assert not any(value in text for value in [*values, *CATEGORIES])


def test_profiles_are_immutable_values():
    profile = LEVELS["L3"]
    for field in ("age", "banned_categories", "new_field"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(profile, field, 1)
    with pytest.raises(TypeError):
        LEVELS["L3"] = LEVELS["L0"]  # type: ignore[index]
    same = UserProfile.from_dict(profile.to_dict())
    assert same == profile
    assert len({same, profile, copy.deepcopy(profile), pickle.loads(pickle.dumps(profile))}) == 1
    assert profile != LEVELS["L4"]


@pytest.mark.parametrize("level", LEVELS)
def test_dict_round_trip_through_json(level):
    profile = LEVELS[level]
    assert UserProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_dict_round_trip_without_user_id():
    profile = UserProfile(**ADULT)
    assert "User_ID" not in profile.to_dict()
    assert UserProfile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize("missing", [None, math.nan, ""])
def test_a_missing_value_as_religion_means_none(missing):
    assert UserProfile.from_dict(sage(Religion=missing)).religion == "None"


def test_numbers_in_the_forms_that_files_give_them():
    assert UserProfile.from_dict(sage(Age="18")).age == UserProfile.from_dict(sage(Age=18.0)).age == 18
    assert UserProfile.from_dict(sage(User_ID=797)).user_id == "0000797"
    for written in ("797", "0797", 797.0):  # as a spreadsheet saves it, and a reader of a column with gaps
        assert UserProfile.from_dict(sage(User_ID=written)).user_id == "0000797"


def test_printed_lists_and_other_tools_fields_are_read():
    profile = UserProfile.from_dict(sage(Banned_Categories="['Violence', 'Hate']", Cluster_ID=3))
    assert profile.banned_categories == ("Hate", "Violence")


@pytest.mark.parametrize(
    "text", ["['Hate', 'Violence']", '["Violence","Hate"]', "('Hate', 'Violence',)", " {'Violence', 'Hate'} "]
)
def test_the_printed_forms_of_a_list(text):
    assert UserProfile.from_dict(sage(Banned_Categories=text)).banned_categories == ("Hate", "Violence")


@pytest.mark.parametrize("text", ["[]", "()", " [ ] "])
def test_the_printed_forms_of_an_empty_list(text):
    assert UserProfile.from_dict(sage(Age=5, Banned_Categories=text)).banned_categories == ()


@pytest.mark.parametrize("rules", RULES)
def test_a_profile_may_name_the_rules_it_follows(rules):
    boy = UserProfile.from_dict(sage(Age=15, Rules=rules))
    expected = banned_categories(
        rules, age=15, religion="None", physical_condition="healthy", mental_condition="healthy"
    )
    assert boy.banned_categories == expected == UserProfile(15, "male").with_rules(rules).banned_categories
    assert UserProfile.from_dict(boy.to_dict()) == boy


PROFILES = st.builds(
    UserProfile,
    st.integers(0, 100),
    st.sampled_from(GENDERS),
    st.sampled_from(RELIGIONS),
    st.sampled_from(PHYSICAL_CONDITIONS),
    st.sampled_from(MENTAL_CONDITIONS),
    st.none() | st.sets(st.sampled_from(CATEGORIES)),
    st.none() | st.from_regex(r"[0-9]{7}", fullmatch=True),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(PROFILES)
def test_every_profile_comes_back_from_json_and_from_printed_lists(profile):
    fields = profile.to_dict()
    assert UserProfile.from_dict(json.loads(json.dumps(fields))) == profile
    assert UserProfile.from_dict({name: str(value) for name, value in fields.items()}) == profile


@given(PROFILES, st.dictionaries(st.sampled_from(sorted(LEVELS["L0"].to_dict())) | st.text(), VALUES))
def test_any_mapping_is_a_profile_or_a_sentence(profile, changes):
    try:
        read = UserProfile.from_dict({**profile.to_dict(), **changes})
    except PSAError as error:
        assert "\n" not in str(error) and error.__cause__ is None
    else:
        assert UserProfile.from_dict(read.to_dict()) == read


BAD_DICTS = [
    {},
    {"Age": 3},
    {key: value for key, value in sage().items() if key != "Religion"},
    [],
    None,
    "zqx",
    sage(Age="zqx"),
    sage(Age="-1"),
    sage(Age="18.5"),
    sage(Age=math.inf),
    sage(Religion=[]),
    sage(Age_Group="zqx"),
    sage(Age_Group="children"),
    sage(Age_Group=None),
    sage(Banned_Categories="zqx"),
    sage(Banned_Categories=""),
    sage(Banned_Categories=math.nan),
    sage(Banned_Categories="__import__('os').system('zqx')"),
    sage(Banned_Categories="{[]: 1}"),
    sage(Banned_Categories="[" * 5000),
    sage(Banned_Categories="[" + "'Hate'," * 700_000 + "]"),
    sage(Banned_Categories="['Hate' 'Violence']"),
    sage(Banned_Categories="['Hate\\x20']"),
    sage(Banned_Categories="[Hate]"),
    sage(Banned_Categories={"Hate": True}),
    sage(Allowed_Categories=["Hate"]),
    sage(Allowed_Categories=[["Hate"]]),
    sage(Allowed_Categories=[*CATEGORIES, "zqx"]),
    sage(banned_categories=["Hate"]),
    sage(**{"Banned Categories": ["Hate"]}),
    sage(age=18),
    sage(Rules="zqx"),
    sage(Rules=["sage"]),
    sage(rules="sage"),
    sage(Rules="sage", Banned_Categories=[]),
    sage(User_ID=True),
    sage(User_ID=-5),
    sage(User_ID=10**5000),
    sage(Age=10**5000),
    sage(Age_Group=[["zqx"]]),
    sage(User_ID="zqx"),
    sage(User_ID="12345678"),
    sage(User_ID="7.5"),
    sage(User_ID=7.5),
    sage(User_ID=""),
]


@pytest.mark.parametrize("data", BAD_DICTS, ids=range(len(BAD_DICTS)))
def test_bad_dicts_are_refused_without_repeating_them(data):
    with pytest.raises(PSAError) as caught:
        UserProfile.from_dict(data)
    assert "zqx" not in str(caught.value)
    assert caught.value.__cause__ is None  # a traceback shows causes too


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_csv_rows_are_numbered(tmp_path):
    users = read_users_csv(write(tmp_path / "users.csv", "\ufeff" + HEADER, ROW + ALLOWED, ROW + ALLOWED))
    assert [user.user_id for user in users] == ["0000001", "0000002"]
    assert users[0].religion == "Islam"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([HEADER], "no users"),
        ([HEADER, ROW + ALLOWED, "30,young adults,female,Zoroastrianism,healthy,healthy,[],[]"], "user 2"),
        ([HEADER, ROW + ALLOWED, ROW.rsplit(",", 4)[0]], "user 2"),  # cut off before the bans: no rules in their place
        ([HEADER, ROW + ALLOWED + ",more"], "user 1"),
        (["Gender,Age", "female,30"], "user 1"),
    ],
)
def test_a_bad_csv_is_refused_naming_file_and_row(tmp_path, lines, says):
    with pytest.raises(PSAError, match=says) as caught:
        read_users_csv(write(tmp_path / "people.csv", *lines))
    assert "people.csv" in str(caught.value)
    assert "Zoro" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00bad", b"Age\n\x80", b'"' + b"x" * 200_000])
def test_a_file_that_is_no_csv_is_refused(tmp_path, content):
    (tmp_path / "people.csv").write_bytes(content)
    with pytest.raises(PSAError, match=r"people\.csv"):
        read_users_csv(tmp_path / "people.csv")


@pytest.mark.parametrize("path", ["absent.csv", "a\0b.csv", ".", "x" * 5000])
def test_a_path_without_a_file_is_refused(tmp_path, path):
    with pytest.raises(PSAError):
        read_users_csv(f"{tmp_path}/{path}")


@pytest.mark.parametrize("field", ["Banned_Category", "banned", "Bans", "ban categories", "BANNED-CATEGORIES"])
def test_another_name_for_what_is_banned_is_refused(field):
    """Passed over, it would leave the rules to say who sees what."""
    data = UserProfile(**ADULT).to_dict()
    del data["Banned_Categories"]
    with pytest.raises(PSAError, match="Write it as Banned_Categories"):
        UserProfile.from_dict(data | {field: ["Hate"]})
    assert UserProfile.from_dict(data | {"Band": "x", "Bank": "y"}).banned_categories is not None
