"""Pictures: the one way in which a file becomes pixels, and pixels as Pillow's images or as tensors.

Training, evaluation, thumbnails and the demo read through here, so that all of them see the same picture:

- upright, as its EXIF orientation says; a tag that makes no sense says nothing
- as 8-bit RGB: of 16 bits the upper 8, floating-point values from 0 to 1; colour profiles are not applied
- what is transparent stands on white
- the first frame of an animation, the first page of several

Only the formats of `FORMATS` are opened, whatever a file is named: Pillow knows others, for which it starts programs.
"""

import io
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .errors import PSAError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""What their files are commonly called."""
MAX_PIXELS = 2**26
"""Larger pictures are refused before they are decoded; the environment variable PSA_MAX_PIXELS sets another limit."""
_LARGEST_JPEG = 2**28  # bytes; of `MAX_PIXELS` at best quality it takes half of that
_MOST_SEGMENTS, _MOST_SCANS = 10_000, 100  # programs write some 10 scans; libtiff takes 100, too
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # what else follows this byte is pixels, or filling
_START_OF_PICTURE, _END_OF_PICTURE, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_LARGE = 2**22  # pixels from which threads take turns
_REMEMBERED = 1 << 16  # files that were checked
_one_large_picture = threading.Lock()
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(path: Path, least: tuple[int, int] | None = None, content: bytes | None = None) -> Image.Image:
    """Read a picture whole, as the module says: RGB, upright, without any metadata.

    Args:
        least: for a thumbnail: a JPEG may then be read at a fraction of its size, not below this (width, height).
        content: the file's bytes, where they were read before; the file is not opened then.

    Raises:
        PSAError: with its name, where it is damaged, too large, of another format or no picture.
    """
    with _opened(path, f"{path.name} in {path.parent} cannot be read: it", content) as image:
        if least:
            image.draft("RGB", least)
        return _upright(image)


def check_picture(path: Path) -> None:
    """Read a picture to its last byte, a JPEG at low resolution; raises as `open_picture` does.

    Threads may call it: large pictures wait for each other, so that memory does not grow with the threads.
    """
    with _opened(path, path.name) as image:
        image.draft("RGB", (64, 64))
        with _in_turn(image):
            _upright(image)


class PictureChecks:
    """`check_picture` for a list whose lines may name one file many times: it is read once. Threads may call it."""

    def __init__(self) -> None:
        self._problems: dict[tuple[Any, ...], str | None] = {}

    def __call__(self, path: Path) -> None:
        """Raises as `check_picture` does."""
        try:
            stat = path.stat()
        except OSError:
            return check_picture(path)
        key = (stat.st_dev, stat.st_ino or path, stat.st_size, stat.st_mtime_ns)
        problem = self._problems.get(key, "")
        if problem == "":
            problem = _problem(path)
            if len(self._problems) >= _REMEMBERED:
                self._problems.clear()
            self._problems[key] = problem
        if problem is not None:
            raise PSAError(problem)


def _problem(path: Path) -> str | None:
    try:
        check_picture(path)
    except PSAError as error:
        return str(error)
    return None


def thumbnail(path: Path, side: int) -> Image.Image:
    """As `open_picture`, no larger than `side` x `side`. Threads may call it, as `check_picture`."""
    with _opened(path, f"{path.name} in {path.parent} cannot be read: it") as image, _in_turn(image):
        picture = _upright(image)
        picture.thumbnail((side, side))
        return picture


def _in_turn(image: Image.Image) -> Any:
    return _one_large_picture if image.width * image.height > _LARGE else nullcontext()


def picture_size(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """(width, height) of the picture that `open_picture` reads; raises as it does."""
    with _opened(path, f"{path.name} in {path.parent} cannot be read: it", content) as image:
        if image.format == "TIFF":  # Pillow may turn it as it loads, and then does not say so before
            image.load()
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def write_picture(image: Image.Image, path: Path, **options: Any) -> None:
    """Write `image` in the format that the path's ending names, with Pillow's `options` for it.

    Pillow itself takes no notice where a full disk cuts a JPEG off.

    Raises:
        OSError: where the file cannot be written whole.
    """
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[path.suffix.lower()], **options)
    path.write_bytes(buffer.getvalue())


def pixel_batches(groups: Sequence[Sequence[Path]], at_most: int) -> Iterator[slice]:
    """Slices of `groups`, pictures that are looked at together: in order, of at most so many groups, and of
    `MAX_PIXELS` in all their files where they are several.

    Only the pictures' headers are read; raises as `open_picture` does.
    """
    start, pixels, held = 0, 0, set[Path]()
    for number, group in enumerate(groups):
        sizes = {path: _pixels(path) for path in group}
        own = sum(sizes[path] for path in sizes.keys() - held)
        if number > start and (number - start == at_most or (own and pixels + own > MAX_PIXELS)):
            yield slice(start, number)
            start, pixels, held, own = number, 0, set(), sum(sizes.values())
        pixels += own
        held |= sizes.keys()
    if start < len(groups):
        yield slice(start, len(groups))


def open_groups(groups: Sequence[Sequence[Path]]) -> list[list[Image.Image]]:
    """The pictures of each group, as `open_picture` reads them; each file is read once."""
    opened = {path: open_picture(path) for path in dict.fromkeys(path for group in groups for path in group)}
    return [[opened[path] for path in group] for group in groups]


def _pixels(path: Path) -> int:
    with _opened(path, f"{path.name} in {path.parent} cannot be read: it") as image:
        return image.width * image.height


def cover(
    image: Image.Image,
    size: tuple[int, int],
    place: tuple[float, float],
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> tuple[Image.Image, tuple[int, int], tuple[int, int]]:
    """Resize a picture to cover `size` (width, height) and crop it at `place`, shares of the slack in x and y.

    Only what stays is computed: however long and thin a picture is, memory goes by `size`.

    Returns:
        The picture, (width, height) of the whole that it is a part of, and its (left, top) there.

    Raises:
        PSAError: for a picture so thin that the whole would be over 16 million pixels long.
    """
    width, height = size
    scale = max(width / image.width, height / image.height)
    whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if max(whole) > 2**24:  # beyond that a float32, in which Pillow counts, has no place for every pixel
        raise PSAError(f"{image.width} x {image.height} pixels are too long and thin for {width} x {height}.")
    left, top = (round((all_ - part) * share) for all_, part, share in zip(whole, size, place, strict=True))
    across, down = image.width / whole[0], image.height / whole[1]
    right, bottom = min((left + width) * across, image.width), min((top + height) * down, image.height)
    box = (left * across, top * down, right, bottom)
    return image.resize(size, resample, box=box), whole, (left, top)


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size -> (B, 3, H, W) float32 in [0, 1].

    Raises:
        PSAError: where there is none, or their sizes differ.
    """
    if len({image.size for image in images}) != 1:
        raise PSAError("A batch takes at least one picture, and all of one size. Bring them to one size first.")
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1], of any float dtype and on any device -> RGB pictures; values outside are clipped.

    Raises:
        PSAError: for another shape.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise PSAError(f"Pictures have the shape (pictures, 3, height, width); these have {tuple(pixels.shape)}.")
    scaled = (pixels.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(array) for array in scaled.permute(0, 2, 3, 1).contiguous().numpy()]


class _UnclearError(Exception):
    """Pixels of which nothing says what they look like."""


@contextmanager
def _opened(path: Path, subject: str, content: bytes | None = None) -> Iterator[Image.Image]:
    """The opened file, not yet decoded; what goes wrong in the block becomes a sentence that begins with `subject`."""
    most = _max_pixels()
    try:
        if content is None and not os.path.isfile(path):  # a pipe would never end
            raise PSAError(f"{subject} is no file. Check its path.")
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > most:
                raise Image.DecompressionBombError
            if image.format in ("JPEG", "MPO") and image.fp and not _has_few_scans(image.fp):
                raise PSAError(f"{subject} takes too long to decode: it holds very many scans. Save it anew.")
            yield image
    except PSAError:
        raise
    except _UnclearError as error:
        raise PSAError(f"{subject} {error} Save it with 8 or 16 bits.") from None
    except UnidentifiedImageError:
        raise PSAError(
            f"{subject} is not a picture of a kind that is read here ({', '.join(FORMATS)}). Copy or make it again."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PSAError(
            f"{subject} is too large: pictures of up to {most:,} pixels are read. Make it smaller, or set the "
            f"environment variable PSA_MAX_PIXELS (default {MAX_PIXELS})."
        ) from None
    except Exception as error:  # decoders meet damaged bytes with many kinds of exception
        raise PSAError(f"{subject} is truncated or damaged ({type(error).__name__}). Copy or make it again.") from None


def _has_few_scans(file: IO[bytes]) -> bool:
    """Whether a JPEG goes over its pixels no more often than any program's does: a scan may take ten bytes."""
    here, size = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(0)
    content = file.read(min(size, _LARGEST_JPEG) + 1)  # no more: all of it is reserved first
    file.seek(here)
    place = scans = 0
    for _ in range(_MOST_SEGMENTS):
        marker = _MARKER.search(content, place)
        if marker is None or marker[0] == _END_OF_PICTURE:
            return len(content) <= _LARGEST_JPEG
        place = marker.end()
        if marker[0] != _START_OF_PICTURE:
            place += int.from_bytes(content[place : place + 2], "big")
        scans += marker[0] == _SCAN
        if scans > _MOST_SCANS:
            return False
    return False


def _max_pixels() -> int:
    text = os.environ.get("PSA_MAX_PIXELS", "").strip()
    if not text:
        return MAX_PIXELS
    hard = 2 * (Image.MAX_IMAGE_PIXELS or 2**31)  # where Pillow itself refuses
    if not text.isdecimal() or len(text) > 12 or not 0 < int(text) <= hard:
        raise PSAError(f"PSA_MAX_PIXELS is to be a number of pixels, from 1 to {hard}; {MAX_PIXELS} is the default.")
    return int(text)


def _upright(image: Image.Image) -> Image.Image:
    _scale_transparent_colour(image)
    image.load()  # Pillow may turn a TIFF here, and take its tag away
    turn = _TURNS.get(_orientation(image))
    picture = _as_rgb(image)
    picture = picture if turn is None else picture.transpose(turn)
    picture.info = {}
    return picture


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the tags are damaged, which is no fault of the pixels
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _scale_transparent_colour(image: Image.Image) -> None:
    """Bring the one colour that a PNG names as transparent from the file's own bits to the 8 that Pillow decodes to."""
    tiles, colour = getattr(image, "tile", None), image.info.get("transparency")
    bits = tiles[0][3] if tiles else None  # how they are packed in the file
    if bits == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif bits in ("L;2", "L;4") and isinstance(colour, int):
        image.info["transparency"] = colour * (85 if bits == "L;2" else 17)


def _as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB on white, from any mode that `FORMATS` come in."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if isinstance(transparent, int):
            grey.paste(255, mask=Image.fromarray(values == transparent))
        return grey.convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise _UnclearError("holds floating-point values outside 0 to 1.")
        scaled = values * 255
        del values  # beside it and its picture a third of their size would be too much memory
        return Image.fromarray(scaled.round(out=scaled).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        raise _UnclearError("holds 32-bit whole numbers, and nothing says which one is white.")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = Image.new("RGB", image.size, "white")
    layer = image.convert("RGBA")
    picture.paste(layer, mask=layer)
    return picture
