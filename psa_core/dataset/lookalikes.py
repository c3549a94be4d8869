"""Pictures that look alike: perceptual hashes, compared by buckets, so that time grows with the pictures and no faster.

Two of the 64-bit hashes that differ in at most `DISTANCE` bits are equal in one of `DISTANCE + 1` bands at least
(Manku, Jain and Das Sarma 2007), so only those of one bucket are compared; and of these each with the next few alone.
"""

import numpy as np
from PIL import Image

from ..extras import require

DISTANCE = 3  # bits of 64
_BANDS, _BITS = DISTANCE + 1, 16
_NEIGHBOURS = 32  # compared with each hash of a bucket: more matter only where whole buckets look alike


def require_imagehash() -> None:
    """Raises PSAError, saying how to get them, where what this module needs is not there."""
    require("check", "Finding pictures that look alike", "imagehash", "scipy")


def picture_hash(image: Image.Image) -> int:
    """The 64 bits of a picture's perceptual hash (`imagehash.phash`)."""
    from imagehash import phash

    bits = phash(image).hash.reshape(-1)
    return int(np.packbits(bits).view(np.uint64)[0])


def groups(hashes: np.ndarray) -> np.ndarray:
    """(N,) uint64 -> (N,) which group of pictures that look alike each is in, numbered from 0.

    Linear in N but for sorting. Whoever looks like a third one is in its group, too.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distinct, which = np.unique(hashes, return_inverse=True)
    first, second = _alike(distinct)
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(distinct),) * 2)
    return connected_components(links, directed=False)[1][which.reshape(-1)]


def _alike(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of pairs of distinct hashes that differ in at most `DISTANCE` bits."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BITS)).astype(np.uint16)
        order = np.lexsort((hashes, keys))
        for offset in range(1, min(_NEIGHBOURS, len(hashes) - 1) + 1):
            near, far = order[:-offset], order[offset:]
            together = keys[near] == keys[far]
            if not together.any():
                break
            near, far = near[together], far[together]
            close = _ones(hashes[near] ^ hashes[far]) <= DISTANCE
            found.append((near[close], far[close]))
    first, second = zip(*found, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _ones(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set (as in Warren, Hacker's Delight, 5-1)."""
    fives, threes, nibbles = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    pairs = values - ((values >> np.uint64(1)) & fives)
    fours = (pairs & threes) + ((pairs >> np.uint64(2)) & threes)
    bytes_ = (fours + (fours >> np.uint64(4))) & nibbles
    return (bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)
