"""Ways in which files are broken or hostile."""

import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path


class Touch:
    """An object whose unpickling makes a file: the proof that code ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def hostile_pickle(marker: Path, **around: object) -> bytes:
    return pickle.dumps({**around, "payload": Touch(marker)})


def cuts(size: int, count: int = 60) -> list[int]:
    """Lengths to truncate a file of `size` bytes to: every early one, then evenly to the last byte."""
    return sorted({*range(1, min(size, 24)), *(size * i // count for i in range(1, count)), size - 1})


def flipped(content: bytes, count: int, seed: int, within: int | None = None) -> Iterator[bytes]:
    """`content` with 1 to 8 random bytes changed, `count` times; in its first `within` bytes where given."""
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(within or len(content))] ^= rng.randrange(1, 256)
        yield bytes(damaged)
