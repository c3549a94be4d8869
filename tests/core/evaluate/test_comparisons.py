"""Differences of methods and steps of levels: known values, invariants, and how often intervals hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psa_core import PSAError
from psa_core.evaluate import mean_difference, paired_difference, step_up, win_shares

PAIRS = st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 5)), min_size=1, max_size=60)


@given(PAIRS)
def test_a_difference_lies_in_its_interval_and_has_a_width(pairs):
    values, groups = [float(value) for value, _ in pairs], [group for _, group in pairs]
    figure, mirrored = mean_difference(values, groups), mean_difference([-value for value in values], groups)
    assert -1 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.high - figure.low > 0.01
    assert (-mirrored.high, -mirrored.low) == pytest.approx((figure.low, figure.high), abs=1e-12)


@given(PAIRS)
def test_ties_count_half(pairs):
    values, groups = [value for value, _ in pairs], [group for _, group in pairs]
    found = win_shares(values, groups)
    assert found["win share"].value == pytest.approx(found["wins"].value + found["ties"].value / 2)
    assert next(iter(found)) == "win share"
    swapped = win_shares([-value for value in values], groups)["win share"]
    assert 1 - swapped.high == pytest.approx(found["win share"].low)


def test_where_nothing_differs_the_interval_is_about_that_of_as_many_independent_pairs():
    figure = paired_difference([True] * 100, [True] * 100)
    assert figure.value == 0 and figure.low == -figure.high
    assert figure.high == pytest.approx(1 - 0.025 ** (1 / 100), rel=0.15)  # where no win in 100 has a chance of 2.5 %
    clustered = paired_difference([True] * 100, [True] * 100, [number // 10 for number in range(100)])
    assert clustered.high > 3 * figure.high


def test_pairing_tells_what_two_separate_shares_cannot():
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    second = np.where(hard, rng.random(400) < 0.05, True)
    first = second | (hard & (rng.random(400) < 0.1))
    assert paired_difference(first, second).low > 0
    assert paired_difference(first, rng.permutation(second)).low < 0


def coverage(differ, lead, alike, users=40, samples=250):
    """How often an interval holds the truth; with chance `alike` all of a user's pictures are one draw."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(samples):
        sizes = rng.integers(1, 9, size=users)
        groups = np.repeat(np.arange(users), sizes)

        def draws(count):
            return (rng.random(count) < differ) * np.where(rng.random(count) < lead, 1.0, -1.0)

        values = np.where((rng.random(users) < alike)[groups], draws(users)[groups], draws(len(groups)))
        figure = mean_difference(values, groups)
        held += figure.low <= differ * (2 * lead - 1) <= figure.high
    return held / samples


@pytest.mark.parametrize("alike", [0, 0.5, 1])
@pytest.mark.parametrize(("differ", "lead"), [(0, 0.5), (0.02, 1), (0.1, 0.8), (0.5, 0.5), (1, 1), (1, 0.98)])
def test_95_of_100_intervals_hold_the_true_difference(differ, lead, alike):
    assert coverage(differ, lead, alike) >= 0.92  # the seed is fixed; 250 samples at .95 have a standard error of .014


def test_a_step_is_tested_on_the_pairs_that_differ():
    before, after = [False] * 3 + [True] * 97, [True] * 3 + [True] * 97
    assert step_up(before, after) == (type(step_up(before, after)))(3, 0, 0.125)
    assert step_up(after, before).p_value == 1
    assert step_up([True], [True]).p_value == 1  # nothing differs


def test_many_steps_are_counted_exactly():
    ups, downs = 1300, 1200
    before = [False] * ups + [True] * downs
    found = step_up(before, [not shown for shown in before])
    z = (ups - 0.5 - 1250) / math.sqrt(2500 / 4)  # the normal distribution's, with the correction for continuity
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: paired_difference([], []), "at least one"),
        (lambda: paired_difference([1, 0], [1]), "as many pictures"),
        (lambda: paired_difference([2, 0], [1, 0]), "from 0 to 1"),
        (lambda: paired_difference([math.nan], [1]), "from 0 to 1"),
        (lambda: mean_difference([1.5]), "from -1 to 1"),
        (lambda: step_up([], []), "at least one"),
        (lambda: step_up([True], [True, False]), "as many of each"),
    ],
)
def test_what_cannot_be_compared_is_said(ask, sentence):
    with pytest.raises(PSAError, match=sentence):
        ask()
