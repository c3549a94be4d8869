"""Each pair with many users: the records that the rule makes, and what it refuses."""

import shutil

import pytest

from psa_core.dataset import read_split
from psa_core.dataset.answers import Answer, picture_name, scene_id
from psa_core.dataset.every_user import EveryUserSplit
from psa_core.errors import PSAError
from psa_core.mini.dataset import Sizes, write_dataset
from psa_core.review import AnswerBook

SIZES = Sizes(12, 2, train=6, val=1, test_seen=1, test_unseen=1, harmless=2, held_out_users=1, test_held_out=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "data"
    write_dataset(folder, seed=3, sizes=SIZES)
    return folder


def test_each_pair_goes_with_each_user_by_rule(data):
    split = read_split(data, "train")
    every = EveryUserSplit(split)
    assert len(every) == split.scenes * split.users == len(list(every))
    for number, record in enumerate(every):
        assert record.profile == split.profiles[number % split.users]
        assert record.safe_chosen == (record.category in record.profile.banned_categories)
        own = split[number // split.users]
        assert {record.chosen, record.rejected} == {own.chosen, own.rejected} and record.caption == own.caption


@pytest.fixture
def answered(data, tmp_path):
    """The same with answers by hand: the first two pairs are taken out, of the third the other picture is chosen."""
    folder = shutil.copytree(data, tmp_path / "answered")
    split = read_split(folder, "train")
    for number, word in enumerate(("bad", "bad", "right")):
        scene, bans = split.scene(number), split[number].profile.banned_categories
        names = [picture_name(path, folder) for path in scene.pictures]
        AnswerBook(folder).add(Answer(scene_id(scene, folder), bans, *names, word))
    return folder


@pytest.mark.parametrize("folder", ["data", "answered"])
def test_its_numbers_say_what_its_records_say(folder, request):
    split = read_split(request.getfixturevalue(folder), "train")
    every = EveryUserSplit(split)
    assert every.scenes == len(split) == (6 if folder == "data" else 4)
    scenes, users, swapped = every.examples()
    for number, record in enumerate(every):
        scene = every.scene(int(scenes[number]))
        assert (record.chosen, record.rejected) == scene.pictures[:: -1 if swapped[number] else 1]
        assert record.profile == every.profiles[users[number]] and record.caption == scene.caption
    assert sum(every.categories.values()) == len(every)


def test_a_users_own_records_are_among_them(data):
    split = read_split(data, "train")
    every = EveryUserSplit(split)
    number = {profile: place for place, profile in enumerate(split.profiles)}
    for place, record in enumerate(split):
        assert every[place * split.users + number[record.profile]] == record


def test_records_that_do_not_tell_what_they_show_are_refused(data):
    harmless = read_split(data, "harmless")
    with pytest.raises(PSAError, match=r"2 of 2 records of the split 'harmless' do not tell"):
        EveryUserSplit(harmless)


@pytest.mark.parametrize("index", [-1, 72])
def test_there_is_no_record_beyond_the_last(data, index):
    every = EveryUserSplit(read_split(data, "train"))
    assert len(every) <= 72
    with pytest.raises(IndexError):
        every[index]
