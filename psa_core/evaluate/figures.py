"""Figures with 95 % bootstrap intervals."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import PSAError

_DRAWS, _FEATURE_DRAWS = 2000, 200


@dataclass(frozen=True)
class Figure:
    """A measured value, its 95 % interval, and how many pictures it rests on."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class WinRate:
    """A pairwise comparison: `rate` is wins over wins plus losses, `None` where all are ties, counted apart."""

    rate: Figure | None
    wins: int
    ties: int
    losses: int

    @property
    def tie_share(self) -> float:
        return self.ties / (self.wins + self.ties + self.losses)


def share(values: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0) -> Figure:
    """The share of hits, or the mean of other values, with its percentile interval.

    Args:
        values: True or False for each picture, or a number.
        groups: what each one belongs to, such as its user: the bootstrap then draws whole groups, since
            one user's pictures are no independent evidence.

    Raises:
        PSAError: where there is nothing to count.
    """
    numbers = np.asarray(values, np.float64)
    return _ratio(numbers, np.ones(len(numbers)), groups, seed)


def win_rate(
    scores: Sequence[float], rival_scores: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0
) -> WinRate:
    """How often one method's score beats a rival's for the same prompt and user.

    Raises:
        PSAError: where there are no scores, or not as many of each.
    """
    if not len(scores) or len(scores) != len(rival_scores):
        raise PSAError("A win rate compares as many scores of one method as of the other, and at least one.")
    signs = np.sign(np.asarray(scores, np.float64) - np.asarray(rival_scores, np.float64))
    wins, losses = int((signs > 0).sum()), int((signs < 0).sum())
    if wins + losses == 0:
        return WinRate(None, 0, len(signs), 0)
    rate = _ratio((signs > 0).astype(np.float64), np.abs(signs), groups, seed)
    return WinRate(rate, wins, len(signs) - wins - losses, losses)


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
    features: Mapping[str, np.ndarray], real_features: np.ndarray, base: str | None = None, seed: int = 0
) -> dict[str, tuple[Figure, Figure | None]]:
    """Each method's Frechet distance to real pictures, and its rise over the base method's, as a share of that.

    Row i of every method's features (n, D) belongs to the same prompt and noise, and the bootstrap draws
    them together. A drawn set repeats pictures, which moves every distance up; so the intervals are those of the
    draws about their mean, laid about the value.

    Args:
        base: the method that the others are compared with; it has no rise of its own.

    Raises:
        PSAError: as `frechet_distance` does, and where methods have different numbers of pictures.
    """
    if len({part.shape for part in features.values()}) > 1:
        raise PSAError("Frechet distances are compared over as many pictures of one method as of another.")
    measure = _DistanceTo(real_features)
    count = len(next(iter(features.values())))
    rng = np.random.default_rng(seed)
    draws = [np.arange(count), *(rng.integers(count, size=count) for _ in range(_FEATURE_DRAWS))]
    distances = {name: np.array([measure(part[rows]) for rows in draws]) for name, part in features.items()}
    figures: dict[str, tuple[Figure, Figure | None]] = {}
    for name, values in distances.items():
        rise = values / distances[base] - 1 if base in distances and name != base else None
        figures[name] = (_centred(values, count), None if rise is None else _centred(rise, count))
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


def _ratio(hits: np.ndarray, chances: np.ndarray, groups: Sequence[Hashable] | None, seed: int) -> Figure:
    """Sum of hits over sum of chances, and its 2.5 and 97.5 percentiles over resampled rows or groups."""
    count = len(hits)
    if count == 0 or (groups is not None and len(groups) != count):
        raise PSAError("A figure needs at least one picture, and a group for each where groups are given.")
    numbers: dict[Hashable, int] = {}
    places = np.arange(count) if groups is None else [numbers.setdefault(group, len(numbers)) for group in groups]
    hits_of, chances_of = np.bincount(places, hits), np.bincount(places, chances)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(_DRAWS):
        drawn = rng.integers(len(hits_of), size=len(hits_of))
        if total := chances_of[drawn].sum():
            values.append(hits_of[drawn].sum() / total)
    low, high = np.percentile(values, [2.5, 97.5])
    return Figure(float(hits.sum() / chances.sum()), float(low), float(high), count)
