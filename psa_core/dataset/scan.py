"""One look at every scene and every picture of a data set, keeping some bytes for each."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ..pictures import open_picture, pixel_batches
from ..profile import UserProfile
from ..spelling import plain_text
from .lookalikes import picture_hash
from .split import PairSplit, Scene

OnProgress = Callable[[int, int], None]
"""Called with (scenes or pictures looked at, of how many)."""

_THREADS, _TOGETHER, _CHUNK = 4, 64, 1024


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """What the S scenes and U users of a split say that have a record: answers may have taken others out.

    `scenes` (S,) are their numbers in the split. Of hashes: `prompts` (S, 2), of the caption and of the one without the
    concept, or the caption again, as `plain_text` has them; `pictures` (S, 2), of the files; `users` (U,), of the
    User_ID or else the profile. `per_user` (U,) are their records. `counts` has the records by category, concept, and
    whether the safe picture was chosen; `None` is not known.
    """

    split: PairSplit
    scenes: np.ndarray
    prompts: np.ndarray
    pictures: np.ndarray
    users: np.ndarray
    per_user: np.ndarray
    counts: Counter[tuple[str | None, str | None, bool | None]]

    def scene(self, row: int) -> Scene:
        """The split's own, by its place among the S."""
        return self.split.scene(int(self.scenes[row]))


@dataclass(frozen=True, eq=False, repr=False)
class Pictures:
    """What P distinct picture files show.

    `files` (P,) are the files' hashes, sorted; the others are in their order: `pixels` hash what they show; `looks`
    are perceptual hashes, or `None` where nobody asked; `sides` are the shorter ones, in pixels; `blank` says where
    all pixels are alike.
    """

    files: np.ndarray
    pixels: np.ndarray
    looks: np.ndarray | None
    sides: np.ndarray
    blank: np.ndarray

    def of(self, scan: Scan) -> np.ndarray:
        """(S, 2): which of them each of a scan's pictures is."""
        return np.searchsorted(self.files, scan.pictures)


def scan_scenes(split: PairSplit, progress: OnProgress | None = None) -> Scan:
    """Read a split's scenes once, and one record of each."""
    examples = split.examples()
    records = np.bincount(examples.scenes, minlength=split.scenes)
    swapped = np.bincount(examples.scenes[examples.swapped], minlength=split.scenes)
    first = np.full(split.scenes, -1, np.int64)
    first[examples.scenes[::-1]] = np.arange(len(examples.scenes))[::-1]
    scenes = np.flatnonzero(records)
    prompts, pictures = np.empty((len(scenes), 2), np.uint64), np.empty((len(scenes), 2), np.uint64)
    counts: Counter[tuple[str | None, str | None, bool | None]] = Counter()
    for row, number in enumerate(scenes.tolist()):
        scene, record = split.scene(number), split[int(first[number])]
        prompts[row] = [_hash(plain_text(text)) for text in (scene.caption, scene.plain or scene.caption)]
        pictures[row] = [_hash(str(path)) for path in scene.pictures]
        safe = record.safe_chosen
        other = None if safe is None else not safe
        as_here = swapped[number] if examples.swapped[first[number]] else records[number] - swapped[number]
        counts[record.category, record.concept, safe] += int(as_here)
        counts[record.category, record.concept, other] += int(records[number] - as_here)
        if progress:
            progress(row + 1, len(scenes))
    per_user = np.bincount(examples.users, minlength=len(split.profiles))
    users = [_hash(_identity(profile)) for profile, count in zip(split.profiles, per_user, strict=True) if count]
    return Scan(split, scenes, prompts, pictures, np.array(users, np.uint64), per_user[per_user > 0], +counts)


def scan_pictures(scans: Sequence[Scan], with_looks: bool, progress: OnProgress | None = None) -> Pictures:
    """Decode each picture of several splits once.

    Raises:
        PSAError: for one that cannot be read any more.
    """
    files, first = np.unique(np.concatenate([scan.pictures.reshape(-1) for scan in scans]), return_index=True)
    order = np.argsort(first)
    pixels, looks = np.zeros(len(files), np.uint64), np.zeros(len(files), np.uint64)
    sides, blank = np.zeros(len(files), np.uint32), np.zeros(len(files), bool)
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        every = _paths(scans, first[order])
        while paths := list(islice(every, _CHUNK)):
            for some in pixel_batches([[path] for path in paths], _TOGETHER):
                here = order[done : done + some.stop - some.start]
                found = pool.map(lambda path: _look(path, with_looks), paths[some])
                for place, (content, look, side, even) in zip(here, found, strict=True):
                    pixels[place], looks[place], sides[place], blank[place] = content, look, side, even
                done += len(here)
                if progress:
                    progress(done, len(files))
    return Pictures(files, pixels, looks if with_looks else None, sides, blank)


def _paths(scans: Sequence[Scan], places: np.ndarray) -> Iterator[Path]:
    """The paths at ascending places in all scans' pictures, one scan after the other."""
    number, before = 0, 0
    for place in map(int, places):
        while place - before >= scans[number].pictures.size:
            before += scans[number].pictures.size
            number += 1
        scene, side = divmod(place - before, 2)
        yield scans[number].scene(scene).pictures[side]


def _look(path: Path, with_looks: bool) -> tuple[int, int, int, bool]:
    """(hash of the pixels, perceptual hash, shorter side, whether all pixels are alike)"""
    image = open_picture(path)
    content = shown_hash(image)
    return content, picture_hash(image) if with_looks else 0, min(image.size), is_blank(image)


def shown_hash(image: Image.Image) -> int:
    """64 bits of what a picture shows, an RGB one of `open_picture`, however its file holds it."""
    return _hash(np.asarray(image).tobytes() + str(image.size).encode())


def is_blank(image: Image.Image) -> bool:
    """Whether all pixels are alike."""
    return all(low == high for low, high in image.getextrema())  # type: ignore[misc]  # RGB has a pair a channel


def _identity(profile: UserProfile) -> str:
    return profile.user_id or json.dumps(profile.to_dict())


def _hash(content: str | bytes) -> int:
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
