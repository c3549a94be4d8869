"""Where two pictures of one prompt and noise differ."""

from typing import NamedTuple

import torch

from ..errors import PSAError
from ..plots.differences import LEAST, difference


class Change(NamedTuple):
    """Of one picture: the share of its pixels that changed, and the share of those that lie outside the place; `None`
    where nothing changed."""

    changed: float
    outside: float | None


def changes(before: torch.Tensor, after: torch.Tensor, places: torch.Tensor, least: float = LEAST) -> list[Change]:
    """What changed from picture to picture, and how much of it outside where it should.

    A pixel has changed where `difference` is more than `least`.

    Args:
        before, after: (B, 3, H, W) in [0, 1].
        places: (B, H, W), true where a change is meant, such as on the symbol that is to go.

    Raises:
        PSAError: where the shapes do not fit.
    """
    if before.ndim != 4 or before.shape != after.shape or places.shape != (len(before), *before.shape[2:]):
        raise PSAError(
            "Changes need two batches of pictures of one shape (B, 3, H, W), and a place (H, W) for each; these have "
            f"{tuple(before.shape)}, {tuple(after.shape)} and {tuple(places.shape)}."
        )
    changed = difference(before, after) > least
    counts, outside = changed.flatten(1).sum(1).tolist(), (changed & ~places.bool()).flatten(1).sum(1).tolist()
    pixels = before[0, 0].numel() if len(before) else 1
    return [Change(all_ / pixels, out / all_ if all_ else None) for all_, out in zip(counts, outside, strict=True)]
