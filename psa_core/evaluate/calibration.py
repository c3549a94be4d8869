"""A strength with a promise: learn-then-test (Angelopoulos et al. 2021, arXiv 2110.01052)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import PSAError


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        strength: the least one that keeps the promise; `None` where not even the greatest does.
        risks: the viewers' mean outcome at each strength.
        p_values: of "the risk is above alpha" at each strength.
    """

    strength: float | None
    risks: Mapping[float, float]
    p_values: Mapping[float, float]


def calibrated_strength(outcomes: Mapping[float, Sequence[float]], alpha: float, delta: float) -> Calibration:
    """The least strength at which the risk is at most `alpha`, with confidence 1 - `delta` over the viewers drawn.

    The risk is that of a viewer drawn from where these viewers were drawn, and the promise is for them alone. It is
    fixed-sequence testing (sec. 3 of the paper): from the greatest strength down, each one's "risk > alpha" is
    rejected where its p-value is at most `delta`, and the first that is not rejected ends it. So the chance that the
    strength found breaks the promise is at most `delta`, however many strengths there are and however their outcomes
    depend on each other.

    Args:
        outcomes: strength -> an outcome a viewer, from 0 to 1: the share of their pictures that show what they ban.
            Viewers are the units: a viewer's pictures are not independent.
        alpha: the risk allowed, between 0 and 1.
        delta: the chance, between 0 and 1, that it is exceeded all the same.

    Raises:
        PSAError: for strengths of different numbers of viewers, outcomes or levels out of their bounds, or none.
    """
    if not 0 < alpha < 1 or not 0 < delta < 1:
        raise PSAError("A calibration's alpha and delta lie between 0 and 1, such as 0.05 and 0.1.")
    values = {strength: np.asarray(outcomes[strength], np.float64) for strength in sorted(outcomes, reverse=True)}
    if not values or len({len(part) for part in values.values()}) > 1 or not len(next(iter(values.values()))):
        raise PSAError("A calibration needs at least one strength, and the same viewers, at least one, at each.")
    if any(not ((part >= 0) & (part <= 1)).all() for part in values.values()):
        raise PSAError("A viewer's outcome is a share, from 0 to 1.")
    p_values = {strength: risk_p_value(part, alpha) for strength, part in values.items()}
    found: float | None = None
    for strength, p_value in p_values.items():
        if p_value > delta:
            break
        found = strength
    return Calibration(found, {strength: float(part.mean()) for strength, part in values.items()}, p_values)


def risk_p_value(outcomes: Sequence[float] | np.ndarray, alpha: float) -> float:
    """A p-value of "the mean of what these n independent outcomes in [0, 1] were drawn from is above alpha".

    Where each is 0 or 1 it is the binomial's own, P(Bin(n, alpha) <= sum); else the Hoeffding-Bentkus bound (prop. 2 of
    the paper): the lesser of exp(-n KL(min(mean, alpha), alpha)) and e P(Bin(n, alpha) <= ceil(sum)).
    """
    values = np.asarray(outcomes, np.float64)
    count, total = len(values), float(values.sum())
    if ((values == 0) | (values == 1)).all():
        return _binomial_tail(round(total), count, alpha)
    share = min(total / count, alpha)
    hoeffding = math.exp(-count * _divergence(share, alpha))
    return min(1.0, hoeffding, math.e * _binomial_tail(math.ceil(total - 1e-9), count, alpha))


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler's, between coins that fall with p and q."""
    parts = ((p, q), (1 - p, 1 - q))
    return sum(a * math.log(a / b) for a, b in parts if a > 0)


def _binomial_tail(most: int, count: int, chance: float) -> float:
    """P(Bin(count, chance) <= most)."""
    if most >= count:
        return 1.0
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(chance)
        + (count - k) * math.log1p(-chance)
        for k in range(most + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))
