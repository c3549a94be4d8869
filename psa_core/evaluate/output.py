"""Results as files: JSON, tables as Markdown, and a picture; each says what made it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import PSAError
from ..files import atomic_path
from ..outputs import check_folder, check_not_there, made_by_line, made_by_marks, says_made_by
from .report import Report, to_figure


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
        check_not_there(target, force, says_made_by, "no results command of this pack made it")
    check_folder(path.parent)
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
    marks = made_by_marks(line)
    further = {_beside(path, ending): picture for ending, picture in (pictures or {}).items()}
    for target, picture in {picture_path: to_figure(drawn or reports), **further}.items():
        with atomic_path(target) as temporary:
            picture.save(temporary, pnginfo=marks, optimize=True)
    print_progress("")
    print(tables)


def print_progress(text: str) -> None:
    """One line that is written over on a terminal; on anything else nothing."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _files(path: Path) -> tuple[Path, Path, Path]:
    return path, path.with_suffix(".md"), path.with_suffix(".png")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.stem}{ending}.png")
