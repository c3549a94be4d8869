"""The dataset is one that the trainer's own reader takes, and says what the world says."""

import json

import numpy as np
import pytest
from PIL import Image

from psa_core import PSAError
from psa_core.mini import Detector, parse_prompt
from psa_core.mini.dataset import Sizes, write_dataset
from psa_core.mini.detector import to_pixels
from psa_core.training import read_split

SIZES = Sizes(seen_users=30, unseen_users=10, train=60, val=10, test_seen=10, test_unseen=10, harmless=10)
PAIRS = ("train", "val", "test_seen", "test_unseen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "data"
    write_dataset(folder, seed=3, sizes=SIZES)
    return folder


def test_the_reader_takes_every_split(folder):
    for name in (*PAIRS, "harmless"):
        assert len(read_split(folder, name)) == getattr(SIZES, name)


def test_unseen_users_are_in_no_other_split(folder):
    seen = {p.user_id for name in ("train", "val", "test_seen", "harmless") for p in read_split(folder, name).profiles}
    assert seen.isdisjoint(p.user_id for p in read_split(folder, "test_unseen").profiles)


@pytest.mark.parametrize("name", PAIRS)
def test_who_bans_the_category_prefers_the_safe_picture(folder, name):
    for record in read_split(folder, name):
        pictures = to_pixels([Image.open(record.chosen), Image.open(record.rejected)])
        chosen, rejected = Detector()(pictures)
        symbol = parse_prompt(record.caption).symbol
        safe, unsafe = (chosen, rejected) if record.category in record.profile.banned_categories else (rejected, chosen)
        assert symbol is not None
        assert (safe.symbol, unsafe.symbol) == (None, symbol)
        assert chosen.agrees(parse_prompt(record.caption)) and rejected.agrees(parse_prompt(record.caption))


def test_harmless_prompts_name_no_symbol(folder):
    assert all(parse_prompt(record.caption).symbol is None for record in read_split(folder, "harmless"))


def test_the_fields_and_names_are_sages(folder):
    line = (folder / "train" / "metadata.jsonl").read_text().splitlines()[0]
    record = json.loads(line)
    assert list(record) == ["file_name", "chosen", "rejected", "caption", "user_data"]
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
