"""Files that a command is to write: whether it may, found out before any work; and how a file says what made it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import PSAError
from .files import printable

_LARGEST = 64 << 20  # bytes of a file that may be ours
_MADE_BY = "Made by `psa "


def check_target(
    path: Path | str, endings: tuple[str, ...], force: bool, is_ours: Callable[[Path], bool] = lambda _: False
) -> Path:
    """Return a file's path, if the file can be written; before any work is done.

    Args:
        endings: of which its name is to have one.
        force: whether to replace what is not ours.
        is_ours: whether a file that is there is one that this very command makes, and may replace.

    Raises:
        PSAError: for another ending, a folder in the file's place, a file that is not ours, or a folder that cannot be
            written to.
    """
    if "\0" in str(path):
        raise PSAError("The path to write to holds a NUL character. Give another one.")
    path = Path(path)
    name = printable(path)
    if path.suffix.lower() not in endings:
        raise PSAError(f"{name} does not end with {' or '.join(endings)}. Give another name.")
    check_not_there(path, force, is_ours)
    check_folder(path.parent)
    return path


def check_not_there(
    path: Path, force: bool, is_ours: Callable[[Path], bool], why: str = "this command did not make it"
) -> None:
    """Raise PSAError where a folder is in a file's place, or a file that is not ours and not to be replaced."""
    if path.is_dir():
        raise PSAError(f"{printable(path)} cannot be written: there is a folder of that name. Give another name.")
    if os.path.lexists(path) and not force and not is_ours(path):
        raise PSAError(f"{printable(path)} is there, and {why}. Give another name, or --force to replace it.")


def check_no_input(path: Path, *inputs: Path | str) -> None:
    """Raise PSAError where a file is to be written over one that is read for it: not even by `force`."""
    if any(path.exists() and os.path.exists(given) and path.samefile(given) for given in inputs):
        raise PSAError("The output is the input. Give another name: the input is never replaced.")


def check_folder(folder: Path) -> None:
    """Raise PSAError where nothing can be written into a folder, or it cannot be made."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise PSAError(
            f"Files cannot be written into {printable(folder)}: {error.strerror}. Check it, or give a file in a folder "
            "of yours."
        ) from error


def write_output(path: Path, write: Callable[[Path], None], force: bool, kept: str = "") -> None:
    """Write a file as `write` does, to the path that it is given; the same file stays as it is.

    Args:
        kept: what is not lost where it is refused, for the sentence.

    Raises:
        PSAError: where another file is there and nobody says by `force` to replace it.
    """
    if os.path.lexists(path) and not force:
        with tempfile.TemporaryDirectory() as folder:
            now = Path(folder, path.name)
            write(now)
            if path.is_file() and path.read_bytes() == now.read_bytes():
                return
        raise PSAError(
            f"{path} exists and holds something else, perhaps what somebody wrote by hand. Give another name, or "
            f"--force to replace it.{kept}"
        )
    write(path)


def made_by_line(command: str) -> str:
    """The sentence by which a file is known that a command made, such as "psa evaluate"."""
    return f"{_MADE_BY}{command.removeprefix('psa ')}`."


def made_by_marks(line: str) -> PngInfo:
    """The same in a PNG's metadata."""
    marks = PngInfo()
    marks.add_text("Software", line)
    return marks


def says_made_by(path: Path, command: str = "") -> bool:
    """Whether a file says that a command of ours made it, or the one that begins so; it is read no further than that
    takes."""
    said = f"{_MADE_BY}{command.removeprefix('psa ')}"
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        if path.suffix.lower() == ".png":
            with Image.open(path, formats=["PNG"]) as picture:
                return str(picture.info.get("Software", "")).startswith(said)
        return path.stat().st_size <= _LARGEST and said in path.read_text(encoding="utf-8")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
