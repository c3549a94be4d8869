"""Figures with 95 % intervals."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..errors import PSAError

_Z = 1.959964  # the normal distribution's 97.5 % point
_FEATURE_DRAWS = 200
_ALIKE = 1e-9  # of the way between the bounds
_ADDED = 2  # groups won, and as many lost, that a difference's variance is measured with
Values = Sequence[float] | np.ndarray
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Figure:
    """A measured value, its 95 % interval, and how many pictures it rests on."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(values: Values, groups: Sequence[Hashable] | None = None) -> Figure:
    """The share of hits with Wilson's interval (1927), for as many pictures as the groups are worth.

    A user's pictures are no independent evidence: n is divided by the design effect (Kish 1965), the
    variance of the share p among the C groups over that of independent pictures, at least 1:

        C / (C - 1) * sum_c (hits_c - p * size_c)^2 / n^2   over   p * (1 - p) / (n - 1)

    Few hits cannot tell how alike a group's pictures are; without any both variances are 0. So the effect is measured
    with two more groups of the usual size, sum_c size_c^2 / n: one of hits alone and one of misses alone, as
    Agresti and Coull (1998) add hits and misses. Where all pictures are alike this takes each group for about one
    picture, the cautious answer. Groups of one picture have the effect 1: Wilson's own interval.

    Args:
        values: True or False for each picture; or a number from 0 to 1, which varies at most as much as a hit, so
            that its interval is rather too wide.
        groups: what each one belongs to, such as its user; without them each picture stands for itself.

    Raises:
        PSAError: where there is nothing to count, or a value is not from 0 to 1.
    """
    numbers, sums, sizes = _by_group(values, groups)
    if not 0 <= numbers.min() <= numbers.max() <= 1:
        raise PSAError("A share is one of values from 0 to 1.")
    value = float(numbers.mean())
    n = len(numbers) / _design_effect(sums, sizes)
    middle, reach = value + _Z**2 / (2 * n), _Z * math.sqrt(value * (1 - value) / n + (_Z / (2 * n)) ** 2)
    low, high = ((middle + side * reach) / (1 + _Z**2 / n) for side in (-1, 1))
    return Figure(value, max(0.0, min(low, value)), min(1.0, max(high, value)), len(numbers))


def mean(values: Values, bounds: tuple[float, float], groups: Sequence[Hashable] | None = None) -> Figure:
    """The mean of numbers with Student's interval over the groups.

    Its variance is that of `share` among the groups, and at least that of independent pictures. Where all values are
    alike, or there is one group, that is not to be told: the interval is the one of a share of the way from one bound
    to the other.

    Args:
        bounds: the least and the greatest value possible; the interval ends there.

    Raises:
        PSAError: where there is nothing to count, or a value is out of bounds.
    """
    least, most = bounds
    numbers, sums, sizes = _by_group(values, groups)
    if not least <= numbers.min() <= numbers.max() <= most:
        raise PSAError(f"This mean is one of values from {least:g} to {most:g}.")
    value = float(numbers.mean())
    if len(sizes) == 1 or np.ptp(numbers) < _ALIKE * (most - least):
        part = share((numbers - least) / (most - least), groups)
        low, high = (least + (most - least) * end for end in (part.low, part.high))
    else:
        variance = max(_variance(sums, sizes), _variance(numbers, np.ones(len(numbers))))
        reach = _student(len(sizes) - 1) * math.sqrt(variance)
        low, high = value - reach, value + reach
    return Figure(value, max(least, min(low, value)), min(most, max(high, value)), len(numbers))


def mean_difference(values: Values, groups: Sequence[Hashable] | None = None) -> Figure:
    """The mean of differences from -1 to 1 within pairs, right also where nearly all are alike.

    Bonett and Price (2012) add a pair won and a pair lost before they take the plain interval of a paired difference.
    Here, as for a `share`, whole groups of the usual size are added, two of each, as Agresti and Coull (1998) add two
    hits and two misses; the interval about the mean of them all is Student's over the groups, and its variance at least
    that of independent pictures.

    Raises:
        PSAError: where there is nothing to compare, or a difference is out of bounds.
    """
    numbers, sums, sizes = _by_group(values, groups)
    if not -1 <= numbers.min() <= numbers.max() <= 1:
        raise PSAError("A difference of shares is one from -1 to 1.")
    value = float(numbers.mean())
    usual = (sizes**2).sum() / sizes.sum()
    added = np.repeat([usual, -usual], _ADDED)
    sums, sizes = np.append(sums, added), np.append(sizes, np.abs(added))
    n, middle = sizes.sum(), sums.sum() / sizes.sum()
    independent = ((numbers**2).sum() + np.abs(added).sum() - n * middle**2) / (n * (n - 1))
    reach = _student(len(sizes) - 1) * math.sqrt(max(_variance(sums, sizes), float(independent)))
    return Figure(value, max(-1.0, min(middle - reach, value)), min(1.0, max(middle + reach, value)), len(numbers))


def win_shares(leads: Values, groups: Sequence[Hashable] | None = None) -> dict[str, Figure]:
    """How often one method serves a viewer better than a rival.

    Args:
        leads: for each prompt and viewer above 0 where the method is the better one, below 0 where the rival is, 0 for
            a tie: such as the difference of their scores.

    Returns:
        `win share`, of all comparisons, where a tie counts half for each side: a `mean_difference`, from 0 to 1. Then
        `wins`, `ties` and `losses`, shares of all comparisons; and before them `win rate`, wins over wins plus losses,
        which is not there where all are ties: a share of the comparisons without a tie, which may be few.

    Raises:
        PSAError: where there is nothing to compare.
    """
    signs = np.sign(np.asarray(leads, np.float64))
    lead = mean_difference(signs, groups)
    value, low, high = ((1 + end) / 2 for end in (lead.value, lead.low, lead.high))
    found = {"win share": Figure(value, low, high, lead.count)}
    decided = np.flatnonzero(signs)
    if len(decided):
        of_decided = None if groups is None else [groups[int(n)] for n in decided]
        found["win rate"] = share(signs[decided] > 0, of_decided)
    return found | {name: share(signs == sign, groups) for name, sign in (("wins", 1), ("ties", 0), ("losses", -1))}


def frechet_distance(features: np.ndarray, real_features: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (n, D), as FID has it:
    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`.

    Raises:
        PSAError: for features of different sizes, or fewer than 2 rows.
    """
    if features.ndim != 2 or real_features.ndim != 2 or features.shape[1] != real_features.shape[1]:
        raise PSAError("A Frechet distance needs two sets of features of one size.")
    return _DistanceTo(real_features)(features)


def frechet_figures(
    features: Mapping[Name, np.ndarray],
    real_features: np.ndarray,
    base: Name | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[Name, tuple[Figure, Figure | None]]:
    """Each method's Frechet distance to real pictures, and its rise over the base method's, as a share of that.

    Intervals are the bootstrap's: a Frechet distance is no mean. Row i of every method's features (n, D) belongs to the
    same prompt and noise, and whole groups are drawn, of all methods together. A drawn set repeats pictures, which
    moves every distance up; so the intervals are those of the draws about their mean, laid about the value. The real
    pictures are taken as they are.

    Args:
        base: the method that the others are compared with; it has no rise of its own.
        groups: what row i belongs to, such as its user; without them each row is drawn for itself.

    Raises:
        PSAError: as `frechet_distance` does, where methods have different numbers of pictures, and for groups of
            another number.
    """
    if len({part.shape for part in features.values()}) > 1:
        raise PSAError("Frechet distances are compared over as many pictures of one method as of another.")
    measure = _DistanceTo(real_features)
    count = len(next(iter(features.values())))
    members = list(_members(np.zeros(count), groups))
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(members), size=len(members)) for _ in range(_FEATURE_DRAWS))
    draws = [np.arange(count), *(np.concatenate([members[number] for number in numbers]) for numbers in drawn)]
    distances = {name: np.array([measure(part[rows]) for rows in draws]) for name, part in features.items()}
    before = distances.get(base) if base is not None else None
    figures: dict[Name, tuple[Figure, Figure | None]] = {}
    for name, values in distances.items():
        rises = before is not None and name != base and (before > 0).all()
        figures[name] = (_centred(values, count), _centred(values / before - 1, count) if rises else None)
    return figures


class _DistanceTo:
    """The Frechet distance of features to one set of real ones, whose matrix root is computed once."""

    def __init__(self, real_features: np.ndarray) -> None:
        self.mean, self.covariance = _moments(real_features)
        values, vectors = np.linalg.eigh(self.covariance)
        self.root = vectors * np.sqrt(values.clip(0)) @ vectors.T

    def __call__(self, features: np.ndarray) -> float:
        mean, covariance = _moments(features)
        offset = mean - self.mean
        # tr((S1 S2)^(1/2)) by the symmetric form S2^(1/2) S1 S2^(1/2), which has the same eigenvalues.
        cross = np.sqrt(np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(0)).sum()
        return float(offset @ offset + np.trace(covariance) + np.trace(self.covariance) - 2 * cross)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(features) < 2:
        raise PSAError("A Frechet distance needs at least 2 pictures of each kind.")
    return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], -1)


def _centred(values: np.ndarray, count: int) -> Figure:
    """The first value, with the interval of the others about their mean."""
    low, high = values[0] + np.percentile(values[1:], [2.5, 97.5]) - values[1:].mean()
    return Figure(float(values[0]), float(low), float(high), count)


def _by_group(values: Values, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, their sum in each group, how many are in each)."""
    numbers = np.asarray(values, np.float64)
    parts = [numbers[rows] for rows in _members(numbers, groups)]
    return numbers, np.array([part.sum() for part in parts]), np.array([float(len(part)) for part in parts])


def _members(numbers: np.ndarray, groups: Sequence[Hashable] | None) -> Iterable[np.ndarray]:
    """Which rows are in each group."""
    if len(numbers) == 0 or (groups is not None and len(groups) != len(numbers)):
        raise PSAError("A figure needs at least one picture, and a group for each where groups are given.")
    rows: dict[Hashable, list[int]] = {}
    for number, group in enumerate(range(len(numbers)) if groups is None else groups):
        rows.setdefault(group, []).append(number)
    return map(np.array, rows.values())


def _variance(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Of sum over size, as at least 2 groups tell it."""
    count, n = len(sizes), sizes.sum()
    return float(count / (count - 1) * ((sums - sums.sum() / n * sizes) ** 2).sum() / n**2)


def _design_effect(sums: np.ndarray, sizes: np.ndarray) -> float:
    usual = (sizes**2).sum() / sizes.sum()
    sums, sizes = np.append(sums, [usual, 0.0]), np.append(sizes, [usual, usual])
    n, value = sizes.sum(), sums.sum() / sizes.sum()
    return max(1.0, _variance(sums, sizes) / (value * (1 - value) / (n - 1)))


def _student(freedom: int) -> float:
    """The 97.5 % point of Student's distribution (Abramowitz and Stegun 26.7.5): right to 1 % from 2 degrees on."""
    z, f = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * f)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * f**4)
    )
