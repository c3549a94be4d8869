"""Two methods, or two levels, on the same prompts and noise."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import PSAError
from .figures import Figure, Values, mean_difference


def paired_difference(first: Values, second: Values, groups: Sequence[Hashable] | None = None) -> Figure:
    """How much higher a share is for the first of two methods, such as their pass rates: -1 to 1.

    Args:
        first, second: hits, or shares, entry i of both being the same prompt, noise and viewer.
        groups: what entry i belongs to, such as its user.

    Raises:
        PSAError: where there is nothing to compare, or the two do not fit.
    """
    hits = [np.asarray(values, np.float64) for values in (first, second)]
    if hits[0].shape != hits[1].shape:
        raise PSAError("A paired difference needs as many pictures of one method as of the other.")
    if any(len(values) and not 0 <= values.min() <= values.max() <= 1 for values in hits):
        raise PSAError("A share is one of values from 0 to 1.")
    return mean_difference(hits[0] - hits[1], groups)


@dataclass(frozen=True)
class Step:
    """From one level to the next: how often what was not shown is shown, how often the reverse, and the chance of as
    many ups or more where both are as likely."""

    ups: int
    downs: int
    p_value: float


def step_up(before: Sequence[bool], after: Sequence[bool]) -> Step:
    """The exact one-sided test of "no step up" over the same prompts and noise (McNemar 1947; the sign test).

    Pairs that are alike say nothing. Of the others, ups among ups and downs have at most the chance 1/2, so that
    p = P(Binomial(ups + downs, 1/2) >= ups). A small p speaks against "no step up"; a large one proves nothing, which
    is why the counts are there.

    Args:
        before, after: whether the picture shows something, entry i of both being the same prompt and noise.

    Raises:
        PSAError: where there is nothing to compare, or the two do not fit.
    """
    if len(before) != len(after) or not len(before):
        raise PSAError("Two levels are compared over the same pictures: at least one, and as many of each.")
    ups = sum(bool(new) and not old for old, new in zip(before, after, strict=True))
    downs = sum(bool(old) and not new for old, new in zip(before, after, strict=True))
    count = ups + downs
    return Step(ups, downs, sum(math.comb(count, k) for k in range(ups, count + 1)) / 2**count)
