"""Results as files: JSON, tables as Markdown, and a picture; each says what made it."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import PSAError
from ..files import atomic_path
from .report import Report, to_figure

_LARGEST = 64 << 20  # bytes of a file that may be ours
_MADE_BY = "Made by `psa "  # stands in each of the three files


def check_output(path: Path | str, force: bool = False, more: Sequence[str] = ()) -> Path:
    """Return the results' path, if results can be written to it and beside it; before any work is done.

    Args:
        force: whether to replace files that no results command made.
        more: endings of further pictures beside it, such as "-viewers".

    Raises:
        PSAError: where it is no .json file's, the folder cannot be written to, or there is a file of somebody else's.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise PSAError("The results go into a .json file. Give -o a name such as results.json.")
    for target in (*_files(path), *(_beside(path, ending) for ending in more)):
        if target.is_dir():
            raise PSAError(f"{target} is a folder, and the results go into a file. Give -o another name.")
        if target.exists() and not force and not _is_ours(target):
            raise PSAError(
                f"{target} is there, and no results command of this pack made it. Give -o another name, or --force to "
                "replace it."
            )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PSAError(
            f"The results cannot be written into {path.parent}: {error.strerror}. Give -o a file in a folder of yours."
        ) from error
    return path


def write_results(
    reports: Sequence[Report],
    path: Path,
    made_by: str,
    page: str | None = None,
    more: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Image.Image] | None = None,
    drawn: Sequence[Report] | None = None,
) -> None:
    """Write `path`, and beside it `page` or the tables as .md and the figure as .png; print the tables.

    Args:
        made_by: the command, such as "psa evaluate".
        page: Markdown that holds the line `made_by_line` returns.
        more: what else the JSON says.
        pictures: further ones beside it, by what their names end with.
        drawn: what the figure shows, where that is less than all.

    Raises:
        PSAError: where a file cannot be written.
    """
    line = made_by_line(made_by)
    tables = "\n\n".join([*(report.to_markdown() for report in reports), line])
    found = {"made_by": line, **(more or {}), "reports": [report.to_dict() for report in reports]}
    json_path, markdown_path, picture_path = _files(path)
    for target, text in ((json_path, json.dumps(found, indent=1)), (markdown_path, page or tables)):
        with atomic_path(target) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    marks = PngInfo()
    marks.add_text("Software", line)
    further = {_beside(path, ending): picture for ending, picture in (pictures or {}).items()}
    for target, picture in {picture_path: to_figure(drawn or reports), **further}.items():
        with atomic_path(target) as temporary:
            picture.save(temporary, pnginfo=marks, optimize=True)
    print_progress("")
    print(tables)


def made_by_line(command: str) -> str:
    """The sentence by which a results file is known."""
    return f"{_MADE_BY}{command.removeprefix('psa ')}`."


def print_progress(text: str) -> None:
    """One line that is written over on a terminal; on anything else nothing."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _files(path: Path) -> tuple[Path, Path, Path]:
    return path, path.with_suffix(".md"), path.with_suffix(".png")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.stem}{ending}.png")


def _is_ours(path: Path) -> bool:
    """Whether the file says that a results command made it; it is read no further than that takes."""
    try:
        if path.suffix == ".png":
            with Image.open(path, formats=["PNG"]) as picture:
                return str(picture.info.get("Software", "")).startswith(_MADE_BY)
        return path.stat().st_size <= _LARGEST and _MADE_BY in path.read_text(encoding="utf-8")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
