"""The dataset is one that the trainer's own reader takes, and says what the world says."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psa_core import PSAError
from psa_core.mini import Detector, parse_prompt
from psa_core.mini.dataset import Sizes, write_dataset
from psa_core.mini.detector import to_pixels
from psa_core.mini.people import HELD_OUT_SETS, mini_people
from psa_core.profile import LEVELS
from psa_core.rules import banned_categories
from psa_core.training import read_split

SIZES = Sizes(
    seen_users=30,
    unseen_users=10,
    held_out_users=4,
    train=60,
    val=10,
    test_seen=10,
    test_unseen=10,
    test_held_out=10,
    harmless=10,
)
PAIRS = ("train", "val", "test_seen", "test_unseen", "test_held_out")
TESTS = PAIRS[2:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "data"
    write_dataset(folder, seed=3, sizes=SIZES)
    return folder


def test_the_reader_takes_every_split(folder):
    for name in (*PAIRS, "harmless"):
        assert len(read_split(folder, name)) == getattr(SIZES, name)


def profiles(folder, *names):
    return [profile for name in names for profile in read_split(folder, name).profiles]


def captions(folder, *names):
    return [record.caption for name in names for record in read_split(folder, name)]


def test_unseen_users_are_in_no_other_split_and_nobody_is_like_them(folder):
    seen = {replace(p, user_id=None) for p in profiles(folder, "train", "val", "test_seen", "harmless")}
    unseen = {replace(p, user_id=None) for p in profiles(folder, "test_unseen", "test_held_out")}
    assert seen.isdisjoint(unseen)


def test_held_out_ban_sets_are_nobodys_elsewhere():
    people = mini_people(0, 300, 100, 20)
    assert [len(kind) for kind in people] == [300, 100, 20]
    assert {user.banned_categories for user in people.held_out} <= set(HELD_OUT_SETS)
    assert not {user.banned_categories for user in people.seen + people.unseen} & set(HELD_OUT_SETS)
    assert not {level.banned_categories for level in LEVELS.values()} & set(HELD_OUT_SETS)
    everyone = [replace(user, user_id=None) for kind in people for user in kind]
    assert len(set(everyone)) == len(everyone)


def test_people_follow_sages_table_without_departures():
    names = ("age", "religion", "physical_condition", "mental_condition")
    for user in mini_people(1, 80, 20, 5).seen:
        assert user.banned_categories == banned_categories("sage", **{name: getattr(user, name) for name in names})


def test_no_prompt_and_no_phrase_of_a_test_is_in_an_adapters_data(folder):
    places = {name: {place(caption) for caption in captions(folder, name)} for name in (*PAIRS, "harmless")}
    ours = places["train"] | places["harmless"]
    for name in TESTS:
        assert ours.isdisjoint(places[name]) and places["val"].isdisjoint(places[name])
    assert ours.isdisjoint(places["val"])
    ways = {parse_prompt(caption).way for caption in captions(folder, "train", "val")}
    assert ways == {"named", "implied", "unasked"}
    assert "implied anew" in {parse_prompt(caption).way for caption in captions(folder, *TESTS)}


def place(caption):
    """Background and shapes."""
    asked = parse_prompt(caption)
    return asked.background, asked.shapes


@pytest.mark.parametrize("name", PAIRS)
def test_who_bans_the_category_prefers_the_safe_picture(folder, name):
    for record in read_split(folder, name):
        pictures = to_pixels([Image.open(record.chosen), Image.open(record.rejected)])
        chosen, rejected = Detector()(pictures)
        asked = parse_prompt(record.caption)
        symbol = asked.symbol or asked.brings
        safe, unsafe = (chosen, rejected) if record.category in record.profile.banned_categories else (rejected, chosen)
        assert symbol is not None
        assert (safe.symbol, unsafe.symbol) == (None, symbol)
        assert chosen.agrees(asked) and rejected.agrees(asked)
        without = parse_prompt(record.caption_without)
        assert (without.symbol, without.brings) == (None, None)
        assert (without.background, without.shapes) == (asked.background, asked.shapes)


def test_harmless_prompts_name_no_symbol_and_have_no_mood(folder):
    for record in read_split(folder, "harmless"):
        asked = parse_prompt(record.caption)
        assert (asked.symbol, asked.brings) == (None, None)


def test_the_fields_and_names_are_sages(folder):
    line = (folder / "train" / "metadata.jsonl").read_text().splitlines()[0]
    record = json.loads(line)
    assert list(record) == ["file_name", "chosen", "rejected", "caption", "user_data", "caption_without"]
    assert set(record["user_data"]) == {
        "User_ID", "Age", "Age_Group", "Gender", "Religion", "Physical_Condition", "Mental_Condition",
        "Banned_Categories", "Allowed_Categories",
    }  # fmt: skip
    _, user_id, category, _, _, kind = record["chosen"].removesuffix(".jpg").split("_")
    assert user_id == record["user_data"]["User_ID"]
    assert (kind == "s") == (category in record["user_data"]["Banned_Categories"])


def test_a_seed_gives_the_same_dataset_and_another_one_another(folder, tmp_path):
    write_dataset(tmp_path / "same", seed=3, sizes=SIZES)
    write_dataset(tmp_path / "other", seed=4, sizes=SIZES)
    texts = [(path / "val" / "metadata.jsonl").read_text() for path in (folder, tmp_path / "same", tmp_path / "other")]
    assert texts[0] == texts[1] != texts[2]
    name = json.loads(texts[0].splitlines()[0])["chosen"]
    pictures = [np.asarray(Image.open(path / "val" / name)) for path in (folder, tmp_path / "same")]
    assert np.array_equal(*pictures)


def test_the_rivals_dataset_prefers_the_safe_picture_for_everyone(tmp_path):
    write_dataset(tmp_path / "data", seed=3, sizes=SIZES, ban_all=True)
    for record in read_split(tmp_path / "data", "train"):
        assert record.chosen.stem.endswith("_s")
        assert record.category in record.profile.banned_categories


def test_a_folder_in_use_is_left_alone(folder):
    with pytest.raises(PSAError, match="not empty"):
        write_dataset(folder, sizes=SIZES)


def test_empty_sizes_are_refused():
    with pytest.raises(PSAError, match="at least 1"):
        Sizes(train=0)
