"""Figures and their intervals, against values known by hand."""

import numpy as np
import pytest

from psa_core import PSAError
from psa_core.evaluate import frechet_distance, frechet_rise, share, win_rate


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
    same, worse = frechet_rise(base, base, real), frechet_rise(base + 0.5, base, real)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert worse.low > 1


def test_nothing_to_measure_is_said():
    with pytest.raises(PSAError, match="at least one"):
        share([])
    with pytest.raises(PSAError, match="as many scores"):
        win_rate([1, 2], [1])
