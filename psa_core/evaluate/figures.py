"""Figures with 95 % percentile bootstrap intervals."""

from collections.abc import Callable, Hashable, Sequence
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


def share(hits: Sequence[bool], groups: Sequence[Hashable] | None = None, seed: int = 0) -> Figure:
    """The share of hits.

    Args:
        groups: what each one belongs to, such as its user: the bootstrap then draws whole groups, since
            one user's pictures are no independent evidence.

    Raises:
        PSAError: where there is nothing to count.
    """
    values = np.asarray(hits, np.float64)
    return _bootstrapped(lambda rows: float(values[rows].mean()), len(values), groups, seed, _DRAWS)


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

    def rate(rows: np.ndarray) -> float:
        won, lost = (signs[rows] > 0).sum(), (signs[rows] < 0).sum()
        return float(won / (won + lost)) if won + lost else float("nan")

    figure = _bootstrapped(rate, len(signs), groups, seed, _DRAWS)
    return WinRate(figure, wins, len(signs) - wins - losses, losses)


def frechet_distance(features: np.ndarray, real_features: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (n, D), as FID has it:
    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`.

    Raises:
        PSAError: for features of different sizes, or fewer than 2 rows.
    """
    if features.ndim != 2 or real_features.ndim != 2 or features.shape[1] != real_features.shape[1]:
        raise PSAError("A Frechet distance needs two sets of features of one size.")
    if min(len(features), len(real_features)) < 2:
        raise PSAError("A Frechet distance needs at least 2 pictures of each kind.")
    means = features.mean(0) - real_features.mean(0)
    first, second = (np.cov(part, rowvar=False).reshape(part.shape[1], -1) for part in (features, real_features))
    # tr((S1 S2)^(1/2)) by the symmetric form S1^(1/2) S2 S1^(1/2), which has the same eigenvalues.
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * cross)


def frechet_rise(features: np.ndarray, base_features: np.ndarray, real_features: np.ndarray, seed: int = 0) -> Figure:
    """How much farther from real pictures a method's are than the base model's, as a share of the base's distance.

    Row i of `features` and of `base_features` (n, D) belongs to the same prompt and noise, and the
    bootstrap draws them together.
    """
    if len(features) != len(base_features):
        raise PSAError("The rise of a Frechet distance compares as many pictures of the method as of the base model.")

    def rise(rows: np.ndarray) -> float:
        base = frechet_distance(base_features[rows], real_features)
        return frechet_distance(features[rows], real_features) / base - 1

    return _bootstrapped(rise, len(features), None, seed, _FEATURE_DRAWS)


def _bootstrapped(
    statistic: Callable[[np.ndarray], float], count: int, groups: Sequence[Hashable] | None, seed: int, draws: int
) -> Figure:
    """`statistic` of all rows, and its 2.5 and 97.5 percentiles over resampled rows or groups."""
    if count == 0 or (groups is not None and len(groups) != count):
        raise PSAError("A figure needs at least one picture, and a group for each where groups are given.")
    rng = np.random.default_rng(seed)
    members: dict[Hashable, list[int]] = {}
    for row in range(count):
        members.setdefault(row if groups is None else groups[row], []).append(row)
    rows = [np.array(part) for part in members.values()]
    values = [
        statistic(np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])) for _ in range(draws)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Figure(statistic(np.arange(count)), float(low), float(high), count)
