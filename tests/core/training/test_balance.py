"""Which users a scene is learned with: both answers in turn, and all ban sets alike."""

from collections import Counter

import numpy as np
import pytest

from psa_core.dataset import Examples
from psa_core.mini.people import mini_people
from psa_core.schema import CATEGORIES
from psa_core.training.balance import balanced

USERS = mini_people(4, 90, 1, 1).seen
BANS = np.array([[name in user.banned_categories for name in CATEGORIES] for user in USERS])


def by_rule(categories):
    """Every user with a scene of each category."""
    scenes = np.repeat(np.arange(len(categories), dtype=np.int32), len(USERS))
    users = np.tile(np.arange(len(USERS), dtype=np.int32), len(categories))
    return Examples(scenes, users, BANS[users, np.array(categories)[scenes]])


@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_both_answers_come_in_turn_and_all_ban_sets_of_each_come_alike(category):
    users, swapped = balanced(by_rule([category]), USERS)[1:]
    assert (swapped[::2] != swapped[1::2]).all()
    assert (swapped == BANS[users, category]).all()
    for answer in (True, False):
        counts = Counter(USERS[user].banned_categories for user in users[swapped == answer])
        assert set(counts) == {USERS[user].banned_categories for user in np.flatnonzero(BANS[:, category] == answer)}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_each_scene_keeps_its_number_of_examples_and_its_own_ones():
    categories = [3, 0, 3, 5]
    before = by_rule(categories)
    mixed = np.random.default_rng(1).permutation(len(before.scenes))
    after = balanced(Examples(*(part[mixed] for part in before)), USERS)
    assert (np.bincount(after.scenes) == len(USERS)).all()
    assert set(zip(*map(np.ndarray.tolist, after), strict=True)) <= set(
        zip(*map(np.ndarray.tolist, before), strict=True)
    )


def test_scenes_of_one_example_or_one_answer_are_left_as_they_are():
    alone = Examples(np.arange(5, dtype=np.int32), np.arange(5, dtype=np.int32), np.array([True, False] * 2 + [True]))
    assert all(np.array_equal(*parts) for parts in zip(alone, balanced(alone, USERS), strict=True))
    users = np.arange(len(USERS), dtype=np.int32)
    agreed = balanced(Examples(np.zeros_like(users), users, np.ones(len(users), bool)), USERS)
    assert agreed.swapped.all() and len(agreed.users) == len(users)
