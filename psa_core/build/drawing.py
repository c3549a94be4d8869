"""Drawing what is not there yet: what is there is never drawn again, and a batch is kept whole or not at all."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..dataset.pair_files import PICTURES, PicturePair
from ..errors import PSAError
from ..files import atomic_path, sweep_parts
from ..generate.run import is_whole

_DRAWN = ".drawn-"  # a batch on its way into its files
_LARGEST = 1 << 28  # bytes of a picture
# What zipfile raises for one, by what is damaged: methods and flags that it does not know, ends that are not there.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OSError, ValueError)
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}

Progress = Callable[[int, int], None]
"""Called with (pictures there, of how many); it may raise to stop."""


class Drawer(Protocol):
    """Draws pictures: each a function of its prompt and seed, and of the model and settings behind it."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]: ...


@dataclass(frozen=True)
class Job:
    """A picture to draw."""

    path: Path
    prompt: str
    seed: int


def jobs(folder: Path, pairs: Sequence[PicturePair]) -> list[Job]:
    """The pictures of `pairs`: of each the one that shows, then the one without, from the same seed."""
    return [
        Job(folder / name, prompt, pair.seed or 0)
        for pair in pairs
        for name, prompt in dict(zip(pair.pictures, (pair.shows, pair.without), strict=True)).items()
    ]


def batched(wanted: Sequence[Job], size: int) -> list[list[Job]]:
    """Which are drawn together follows from `wanted` alone: rounding depends on it, and a run that was stopped anywhere
    and goes on is to end with the same bytes."""
    return [list(wanted[start : start + size]) for start in range(0, len(wanted), size)]


def draw_missing(
    batches: Sequence[Sequence[Job]], open_drawer: Callable[[], Drawer], progress: Progress | None = None
) -> int:
    """Draw the jobs' pictures that are not there whole, each batch together, and return how many these were.

    Args:
        open_drawer: called only where there is something to draw.

    Raises:
        PSAError: as the drawer does, or for a folder that cannot be written. What was drawn stays.
    """
    missing = [[job for job in batch if not is_whole(job.path)] for batch in batches]
    total, lacking = sum(map(len, batches)), sum(map(len, missing))
    done, drawer = total - lacking, None
    if progress:
        progress(done, total)
    for batch, lacks in zip(batches, missing, strict=True):
        if not lacks:
            continue
        drawer = drawer or open_drawer()
        pictures = drawer.draw([job.prompt for job in batch], [job.seed for job in batch])
        if len(pictures) != len(batch):
            raise PSAError(f"{len(pictures)} pictures were drawn of {len(batch)} prompts. Draw with another model.")
        _keep({job: picture for job, picture in zip(batch, pictures, strict=True) if job in lacks})
        done += len(lacks)
        if progress:
            progress(done, total)
    return lacking


def finish_batches(folder: Path, pairs: Sequence[PicturePair]) -> None:
    """Put the pictures of batches whose process was killed on the way into their files.

    What is no such batch, or damaged, is removed: its pictures are drawn again.
    """
    pictures = folder / PICTURES
    sweep_parts(pictures)
    ours = {Path(name).name for pair in pairs for name in pair.pictures}
    for archive in sorted(pictures.glob(f"{_DRAWN}*")):
        if archive.is_dir() and not archive.is_symlink():
            continue
        if stat.S_ISREG(archive.lstat().st_mode):
            for name, content in _kept(archive, ours):
                if not is_whole(pictures / name):
                    _write(pictures / name, content)
        archive.unlink()


def _kept(archive: Path, ours: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The archive's files of these names, as `_keep` packs them: as they are, so that they unpack to no more."""
    with suppress(*_DAMAGED), zipfile.ZipFile(archive) as packed:
        for name, entry in {entry.filename: entry for entry in packed.infolist()}.items():
            is_stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
            if name in ours and is_stored and entry.file_size <= _LARGEST:
                try:
                    content = packed.read(entry)
                except _DAMAGED:
                    continue
                yield name, content


def _keep(drawn: dict[Job, Image.Image]) -> None:
    """Write pictures so that a kill at any moment leaves all of them to be had, or none."""
    encoded = {job.path: _encoded(picture) for job, picture in drawn.items()}
    first = next(iter(encoded))
    if len(encoded) == 1:
        return _write(first, encoded[first])
    archive = first.parent / f"{_DRAWN}{first.stem}"
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for path, content in encoded.items():
            packed.writestr(zipfile.ZipInfo(path.name), content)
    for path, content in encoded.items():
        _write(path, content)
    archive.unlink()


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, **_JPEG)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
