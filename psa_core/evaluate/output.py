"""Results as files: JSON, tables as Markdown, and a picture."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import PSAError
from ..files import atomic_path
from .report import Report, to_figure


def check_output(path: Path | str) -> Path:
    """Return the results' path; raise PSAError unless it is a .json file's."""
    path = Path(path)
    if path.suffix != ".json":
        raise PSAError("The results go into a .json file. Give -o a name such as results.json.")
    return path


def write_results(reports: Sequence[Report], path: Path, page: str | None = None) -> None:
    """Write `path`, and beside it `page` or the tables as .md and the figure as .png; print the tables.

    Raises:
        PSAError: where a file cannot be written.
    """
    tables = "\n\n".join(report.to_markdown() for report in reports)
    found = reports[0].to_dict() if len(reports) == 1 else [report.to_dict() for report in reports]
    for target, text in ((path, json.dumps(found, indent=1)), (path.with_suffix(".md"), page or tables)):
        with atomic_path(target) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_path(path.with_suffix(".png")) as temporary:
        to_figure(reports).save(temporary)
    print_progress("")
    print(tables)


def print_progress(text: str) -> None:
    """One line that is written over on a terminal; on anything else nothing."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
