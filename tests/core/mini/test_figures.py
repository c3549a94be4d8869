"""Figures and their intervals, against values known by hand."""

import numpy as np
import pytest

from psa_core import PSAError
from psa_core.evaluate import frechet_distance, frechet_figures, share, win_rate


def test_a_share_and_its_interval():
    figure = share([True] * 30 + [False] * 70)
    assert (figure.value, figure.count) == (0.3, 100)
    # The normal approximation: 0.3 +- 1.96 * sqrt(0.3 * 0.7 / 100)
    assert figure.low == pytest.approx(0.210, abs=0.015)
    assert figure.high == pytest.approx(0.390, abs=0.015)


def test_pictures_of_one_user_are_no_independent_evidence():
    hits = [True] * 50 + [False] * 50
    alone, in_groups = share(hits), share(hits, groups=[n // 25 for n in range(100)])
    assert in_groups.high - in_groups.low > 2 * (alone.high - alone.low)


def test_where_all_are_ties_there_is_no_win_rate():
    result = win_rate([1, 2], [1, 2])
    assert (result.rate, result.ties) == (None, 2)


def test_a_win_rate_leaves_ties_out():
    result = win_rate([1, 1, 1, 0, 2], [0, 0, 0, 1, 2])
    assert (result.wins, result.ties, result.losses) == (3, 1, 1)
    assert result.rate.value == 0.75
    assert result.tie_share == 0.2


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


def test_a_mean_of_shares_and_groups_of_different_sizes():
    figure = share([1.0, 1.0, 1.0, 0.25], groups=["a", "a", "a", "b"])
    assert figure.value == 0.8125
    # Whole groups are drawn: a with a, b with b, or one of each.
    assert (figure.low, figure.high) == (0.25, 1.0)


def test_nothing_to_measure_is_said():
    with pytest.raises(PSAError, match="at least one"):
        share([])
    with pytest.raises(PSAError, match="as many scores"):
        win_rate([1, 2], [1])
