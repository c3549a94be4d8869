"""Each pair with many users: the records that the rule makes, and what it refuses."""

from collections import Counter

import pytest

from psa_core.dataset import read_split
from psa_core.dataset.every_user import EveryUserSplit
from psa_core.errors import PSAError
from psa_core.mini.dataset import Sizes, write_dataset

SIZES = Sizes(12, 2, train=6, val=1, test_seen=1, test_unseen=1, harmless=2, held_out_users=1, test_held_out=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "data"
    write_dataset(folder, seed=3, sizes=SIZES)
    return folder


def test_each_pair_goes_with_users_by_rule(data):
    split = read_split(data, "train")
    every = EveryUserSplit(split)
    assert len(every) == split.scenes * split.users == len(list(every))
    for number, record in enumerate(every):
        assert record.profile in split.profiles
        assert record.safe_chosen == (record.category in record.profile.banned_categories)
        own = split[number // split.users]
        assert {record.chosen, record.rejected} == {own.chosen, own.rejected} and record.caption == own.caption


def test_its_numbers_say_what_its_records_say(data):
    every = EveryUserSplit(read_split(data, "train"))
    scenes, users, swapped = every.examples()
    for number, record in enumerate(every):
        pictures = every.scene(int(scenes[number])).pictures
        assert (record.chosen, record.rejected) == (pictures[::-1] if swapped[number] else pictures)
        assert record.profile == every.profiles[users[number]]
    assert sum(every.categories.values()) == len(every)


def test_who_bans_it_and_who_does_not_come_up_alike_and_so_do_their_ban_sets(data):
    split = read_split(data, "train")
    every = EveryUserSplit(split)
    for scene in range(split.scenes):
        records = [every[scene * split.users + turn] for turn in range(split.users)]
        category = records[0].category
        for bans in (True, False):
            own = [r.profile.banned_categories for r in records if (category in r.profile.banned_categories) == bans]
            there = {u.banned_categories for u in split.profiles if (category in u.banned_categories) == bans}
            counts = Counter(own)
            assert not there or abs(len(own) - split.users / 2) <= 1 or len(own) == split.users
            assert not own or max(counts[each] for each in there) - min(counts[each] for each in there) <= 1


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
