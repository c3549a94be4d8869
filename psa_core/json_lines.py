"""Lists in files of one JSON object a line (JSONL), in UTF-8."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .errors import PSAError
from .files import atomic_path, existing_file
from .json_text import parse_json

_LONGEST_LINE = 1 << 18  # bytes


def numbered(file: BinaryIO, longest: int) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, offset in bytes, line) for each line that is not blank; of one of more than `longest` bytes,
    one byte more than that, whatever it holds."""
    number = offset = 0
    while line := file.readline(longest + 1):
        number += 1
        if line.strip() or len(line) > longest:
            yield number, offset, line
        offset += len(line)
        while len(line) > longest and not line.endswith(b"\n") and (rest := file.readline(longest)):
            offset += len(rest)
            if rest.endswith(b"\n"):
                break


def read_objects(path: Path | str, what: str, most: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object); empty lines and a byte order mark are passed over.

    Args:
        what: how sentences call the file, such as "users file".
        most: how many objects it may hold.

    Raises:
        PSAError: for a file that is missing or holds more, or naming the first line that is longer than 256 KiB or no
            JSON object.
    """
    path = existing_file(path, what)
    count = 0
    try:
        with open(path, "rb") as file:
            for number, _, line in numbered(file, _LONGEST_LINE):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                    if line in (b"\n", b"\r\n", b""):  # the mark was all
                        continue
                count += 1
                if count > most:
                    raise PSAError(f"{path.name} has more than {most} lines. Make several files of it.")
                yield number, _object(line, f"{path.name}, line {number}")
    except OSError as error:
        raise PSAError(f"The {what} {path.name} cannot be read: {error.strerror}. Check it.") from error


def write_objects(path: Path | str, objects: Iterable[Mapping[str, Any]], mode: int | None = None) -> None:
    """Write objects atomically, a line each; equal ones give the same bytes. `mode` as in `atomic_path`."""
    with atomic_path(path, mode) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for data in objects:
            file.write(json.dumps(data, ensure_ascii=False) + "\n")


def _object(line: bytes, place: str) -> dict[str, Any]:
    if len(line) > _LONGEST_LINE:
        raise PSAError(f"{place}: it is longer than {_LONGEST_LINE >> 10} KiB. Check the file.")
    try:
        data = parse_json(line.decode(), once=True)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise PSAError(f"{place}: it is not a JSON object in UTF-8, each name once. Write one a line.")
    return data
