"""Tables of other people's making: CSV in UTF-8 with a header row."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .errors import PSAError
from .files import existing_file

_LONGEST_LINE = 1 << 20  # characters


def read_rows(path: Path | str, what: str, holds: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns' names, without spaces around them, and a dict from name to cell for each row.

    Args:
        what: how sentences call the file, such as "users file".
        holds: and its rows, such as "users".

    Raises:
        PSAError: for a file that is missing, no CSV, or has no rows; for two columns of one name, or naming the first
            row of another length.
    """
    path = existing_file(path, what)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = [row for row in csv.reader(_lines(file), strict=True) if row]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise PSAError(f"{path.name} is not a CSV file in UTF-8. Export it again.") from error
    if len(table) < 2:
        raise PSAError(f"{path.name} holds no {holds}: it needs a header row and at least one more.")
    columns = [name.strip() for name in table[0]]
    if len(set(columns)) < len(columns):
        raise PSAError(f"{path.name} has two columns of one name. Rename one of them.")
    for number, row in enumerate(table[1:], start=1):
        if len(row) != len(columns):
            raise PSAError(
                f"{path.name}, {holds[:-1]} {number}: the row has more or fewer cells than the header. Put texts with "
                "commas into quotes."
            )
    return columns, [dict(zip(columns, row, strict=True)) for row in table[1:]]


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise csv.Error("a line is longer than any table's")
        yield line
