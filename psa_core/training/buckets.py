"""Buckets: the picture sizes that batches are made of."""

import math
from functools import lru_cache

MAX_ASPECT = 2.0


@lru_cache
def buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """(width, height) of every bucket: multiples of `step`, area <= resolution^2, aspect ratio <= 2."""
    sizes = []
    for width in range(step, int(resolution * math.sqrt(MAX_ASPECT)) + 1, step):
        height = resolution**2 // width // step * step
        if height and 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
            sizes.append((width, height))
    return tuple(sizes)


def nearest_bucket(width: int, height: int, resolution: int, step: int) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest to the picture's; of equals, the largest."""
    ratio = math.log(width / height)
    return min(buckets(resolution, step), key=lambda size: (abs(math.log(size[0] / size[1]) - ratio), -size[0]))
