"""Figures and their intervals, against values known by hand, invariants, and how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psa_core import PSAError
from psa_core.evaluate import frechet_distance, frechet_figures, mean, share, win_shares

Z = 1.959964


def wilson(hits, count):
    """Wilson (1927), formula 4, written out in another way than the module's."""
    a, b, c = count + Z**2, -(2 * hits + Z**2), hits**2 / count
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 36, 0.0, 0.0964), (36, 36, 0.9036, 1.0), (0, 1, 0, 0.7935)]
)
def test_a_share_of_none_or_all_has_wilsons_width(hits, count, low, high):
    figure = share([True] * hits + [False] * (count - hits))
    assert (figure.low, figure.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert figure.low <= figure.value <= figure.high and figure.count == count


# What a user's pictures look like: how many there are, and how many of them are hits.
USERS = st.lists(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=40
)


def pictures(users):
    values = [float(number < hits) for hits, size in users for number in range(size)]
    return values, [user for user, (_, size) in enumerate(users) for _ in range(size)]


@given(USERS)
def test_an_interval_holds_its_value_within_0_and_1_and_has_a_width(users):
    values, groups = pictures(users)
    for figure in (share(values, groups), mean(values, (0, 1), groups), *win_shares(values, groups).values()):
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.high - figure.low > 0.001


@given(USERS)
def test_more_users_of_the_same_kind_narrow_it(users):
    values, groups = pictures(users)
    one, four = share(values, groups), share(*pictures(users * 4))
    assert four.high - four.low < one.high - one.low


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_one_picture_a_user_is_plain_wilson(sample):
    hits, count = sample
    values = [True] * hits + [False] * (count - hits)
    expected = pytest.approx(wilson(hits, count), abs=1e-9)
    assert (share(values).low, share(values).high) == expected
    assert (share(values, range(count)).low, share(values, range(count)).high) == expected


@given(USERS)
def test_pictures_of_users_are_never_worth_more_than_independent_ones(users):
    values, groups = pictures(users)
    of_users, plain = share(values, groups), share(values)
    assert of_users.low <= plain.low + 1e-12 and of_users.high >= plain.high - 1e-12


@given(USERS, st.randoms())
def test_neither_order_nor_the_names_of_users_matter(users, random):
    values, groups = pictures(users)
    mixed = list(zip(values, groups, strict=True))
    random.shuffle(mixed)
    again = share([value for value, _ in mixed], [f"user {group}" for _, group in mixed])
    figure = share(values, groups)
    assert (again.low, again.high) == pytest.approx((figure.low, figure.high), abs=1e-9)


@given(USERS)
def test_hits_and_misses_are_mirrors(users):
    values, groups = pictures(users)
    figure, other = share(values, groups), share([1 - value for value in values], groups)
    assert (1 - other.high, 1 - other.low) == pytest.approx((figure.low, figure.high), abs=1e-9)


def test_where_all_are_alike_a_user_counts_for_about_one_picture():
    figure, plain = share([False] * 400, [number // 10 for number in range(400)]), share([False] * 40)
    assert figure.high == pytest.approx(plain.high, rel=0.1)
    assert figure.high > 5 * share([False] * 400).high


def coverage(rate, alike, seed, users=60):
    """How often an interval holds the true share, over 400 samples of users with 1 to 9 pictures each.

    `alike` says how alike a user's pictures are, from 0 to 1: their intraclass correlation.
    """
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(400):
        sizes = rng.integers(1, 10, size=users)
        if alike in (0, 1) or rate in (0, 1):
            own = np.full(users, rate) if alike < 1 else (rng.random(users) < rate).astype(float)
        else:
            own = rng.beta(rate * (1 / alike - 1), (1 - rate) * (1 / alike - 1), size=users)
        hits = rng.binomial(sizes, own)
        figure = share(*pictures(list(zip(hits, sizes, strict=True))))
        held += figure.low <= rate <= figure.high
    return held / 400


@pytest.mark.parametrize("alike", [0, 0.3, 1])
@pytest.mark.parametrize("rate", [0, 0.02, 0.5, 1])
def test_95_of_100_intervals_hold_the_true_share(rate, alike):
    # The seed is fixed; 400 samples at .95 have a standard error of .011. Resampled intervals hold .02 in 60 to 80 %.
    assert coverage(rate, alike, seed=1) >= 0.92


def test_pictures_of_one_user_are_no_independent_evidence():
    hits = [True] * 50 + [False] * 50
    alone, in_groups = share(hits), share(hits, groups=[n // 25 for n in range(100)])
    assert in_groups.high - in_groups.low > 2 * (alone.high - alone.low)


def test_a_mean_is_students_over_its_groups():
    values = [30.0, 31.0, 29.0, 32.0, 33.0, 28.0]
    figure = mean(values, (-100, 100))
    reach = 2.5706 * np.std(values, ddof=1) / math.sqrt(6)  # Student's 97.5 % point for 5 degrees of freedom
    assert (figure.value, figure.low, figure.high) == pytest.approx((30.5, 30.5 - reach, 30.5 + reach), abs=2e-3)
    # Each value twice, of the same user: no more evidence than once.
    twice = mean(values * 2, (-100, 100), [*range(6), *range(6)])
    assert (twice.low, twice.high) == pytest.approx((figure.low, figure.high), abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.data())
def test_a_mean_holds_its_value_within_its_bounds_and_has_a_width(values, data):
    groups = [data.draw(st.integers(0, 4)) for _ in values]
    figure = mean(values, (-100, 100), groups)
    assert -100 <= figure.low <= figure.value <= figure.high <= 100
    assert figure.high > figure.low


def test_where_all_are_ties_there_is_no_win_rate():
    found = win_shares([0, 0])
    assert "win rate" not in found and found["ties"].value == 1


def test_a_win_rate_leaves_ties_out():
    found = win_shares([1, 1, 1, -1, 0], ["a", "a", "b", "b", "c"])
    assert {name: figure.value for name, figure in found.items()} == {
        "win share": 0.7, "win rate": 0.75, "wins": 0.6, "ties": 0.2, "losses": 0.2,
    }  # fmt: skip
    assert (found["win rate"].count, found["wins"].count) == (4, 5)


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(200_000, 2)) @ np.diag([1.0, 2.0])
    second = rng.normal(size=(200_000, 2)) @ np.diag([3.0, 2.0]) + [1.0, 0.0]
    # |m1 - m2|^2 = 1, and for commuting covariances sum (s1 - s2)^2 = (1 - 3)^2 = 4
    assert frechet_distance(first, second) == pytest.approx(5.0, rel=0.02)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)


def test_the_rise_is_zero_for_the_same_pictures_and_grows_with_a_shift():
    rng = np.random.default_rng(1)
    real, base = rng.normal(size=(400, 3)), rng.normal(size=(400, 3)) + 0.5
    figures = frechet_figures({"base": base, "same": base, "worse": base + 0.5}, real, "base")
    (distance, none), (same, no_rise), (worse, rise) = figures.values()
    assert none is None
    assert distance == same and distance.value == pytest.approx(frechet_distance(base, real))
    assert (no_rise.value, no_rise.low, no_rise.high) == (0.0, 0.0, 0.0)
    assert rise.low > 1 and rise.value == pytest.approx(worse.value / distance.value - 1)


def test_a_users_pictures_are_drawn_together():
    rng = np.random.default_rng(3)
    features, real = np.repeat(rng.normal(size=(15, 2)) + 2, 10, axis=0), rng.normal(size=(500, 2))
    alone, grouped = (
        frechet_figures({"psa": features}, real, groups=groups)["psa"][0]
        for groups in (None, [number // 10 for number in range(150)])
    )
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_a_frechet_interval_holds_its_value_though_repeats_move_every_draw_up():
    rng = np.random.default_rng(2)
    features, real = rng.normal(size=(60, 20)), rng.normal(size=(500, 20))
    draws = [frechet_distance(features[rng.integers(60, size=60)], real) for _ in range(20)]
    ((distance, _),) = frechet_figures({"base": features}, real).values()
    assert min(draws) > distance.value  # a percentile interval would lie beside the value
    assert distance.low < distance.value < distance.high


def test_distances_over_different_numbers_of_pictures_are_not_compared():
    real = np.zeros((4, 2))
    with pytest.raises(PSAError, match="as many pictures"):
        frechet_figures({"base": np.zeros((4, 2)), "psa": np.zeros((3, 2))}, real, "base")


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: share([]), "at least one"),
        (lambda: share([1, 0], ["a"]), "a group for each"),
        (lambda: win_shares([]), "at least one"),
        (lambda: share([0.5, 1.5]), "from 0 to 1"),
        (lambda: share([float("nan")]), "from 0 to 1"),
        (lambda: mean([101.0], (-100, 100)), "from -100 to 100"),
    ],
)
def test_what_cannot_be_measured_is_said(ask, sentence):
    with pytest.raises(PSAError, match=sentence):
        ask()
