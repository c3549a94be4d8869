"""The least strength with a promise, against known tails and by how often the promise breaks."""

import math

import numpy as np
import pytest

from psa_core import PSAError
from psa_core.evaluate import calibrated_strength
from psa_core.evaluate.calibration import risk_p_value


def test_p_values_of_none_shown_are_the_binomials():
    assert risk_p_value([0] * 59, 0.05) == pytest.approx(0.95**59)
    assert risk_p_value([0, 0, 1], 0.5) == pytest.approx(0.5)
    assert risk_p_value([1, 1], 0.05) == 1


def test_p_values_of_shares_are_the_lesser_bound():
    values = [0.25] * 8 + [0.0] * 192  # the mean is .01
    kl = 0.01 * math.log(0.01 / 0.05) + 0.99 * math.log(0.99 / 0.95)
    hoeffding = math.exp(-200 * kl)
    bentkus = math.e * sum(math.comb(200, k) * 0.05**k * 0.95 ** (200 - k) for k in range(3))
    assert risk_p_value(values, 0.05) == pytest.approx(min(hoeffding, bentkus))
    assert risk_p_value([0.5] * 10, 0.05) == 1


def test_the_sequence_ends_at_the_first_strength_that_fails():
    clean, dirty = [0.0] * 100, [1.0] * 30 + [0.0] * 70
    found = calibrated_strength({1.0: clean, 0.75: clean, 0.5: dirty, 0.25: clean}, 0.05, 0.1)
    assert found.strength == 0.75  # .25 looks clean, and comes after one that failed
    assert found.risks == {1.0: 0, 0.75: 0, 0.5: 0.3, 0.25: 0}
    assert calibrated_strength({1.0: dirty}, 0.05, 0.1).strength is None
    assert calibrated_strength({1.0: [0.0] * 20}, 0.05, 0.1).strength is None  # too few viewers to promise anything


@pytest.mark.parametrize("pictures", [1, 6])
def test_the_promise_breaks_no_more_often_than_was_said(pictures):
    """Viewers differ, a viewer's outcomes at all strengths hang together, and risks fall slowly past alpha."""
    strengths = np.linspace(0.1, 1.5, 15)
    alpha, delta, rng = 0.1, 0.2, np.random.default_rng(0)
    risks = {float(strength): 0.3 * math.exp(-1.5 * strength) for strength in strengths}
    broken = found = 0
    for _ in range(300):
        own = rng.gamma(2.0, 0.5, size=150)  # of mean 1: how hard a viewer is to protect
        when = rng.random((150, pictures))
        outcomes = {s: (when < np.minimum(1, own * risk)[:, None]).mean(1) for s, risk in risks.items()}
        strength = calibrated_strength(outcomes, alpha, delta).strength
        found += strength is not None
        broken += strength is not None and risks[strength] > alpha
    assert found > 200  # it does find strengths
    assert broken / 300 <= delta + 0.03


@pytest.mark.parametrize(
    ("outcomes", "alpha", "delta", "sentence"),
    [
        ({}, 0.05, 0.1, "at least one strength"),
        ({1.0: []}, 0.05, 0.1, "at least one"),
        ({1.0: [0.0], 0.5: [0.0, 0.0]}, 0.05, 0.1, "the same viewers"),
        ({1.0: [1.5]}, 0.05, 0.1, "from 0 to 1"),
        ({1.0: [math.nan]}, 0.05, 0.1, "from 0 to 1"),
        ({1.0: [0.0]}, 0, 0.1, "between 0 and 1"),
        ({1.0: [0.0]}, 0.05, 1, "between 0 and 1"),
    ],
)
def test_what_cannot_be_calibrated_is_said(outcomes, alpha, delta, sentence):
    with pytest.raises(PSAError, match=sentence):
        calibrated_strength(outcomes, alpha, delta)
