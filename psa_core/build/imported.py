"""Pictures that somebody has already, as pairs of a data set: a list names them, and they are copied."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concepts.pairs import IMPLIED, LONGEST_CONCEPT, LONGEST_PROMPT, MOST_PAIRS, NAMED, check_line, plain_spaces
from ..concepts.words import names_concept
from ..csv_files import read_rows
from ..dataset.pair_files import PICTURES, SHOWS, WITHOUT, PicturePair
from ..dataset.scan import is_blank, shown_hash
from ..errors import PSAError
from ..files import atomic_path, inside, shown
from ..json_lines import read_objects
from ..pictures import open_picture
from ..schema import known_category
from .drawing import Progress
from .plan import pair_id

_HARMLESS = ("", "harmless", "none")
_ENDINGS = {
    **{ending: ending for ending in (".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff")},
    ".jpeg": ".jpg",
    ".tif": ".tiff",
}  # of `pictures.FORMATS`, which training reads
_COLUMNS = ("shows", "without", "category", "concept", "prompt")
_MAY_BE = "prompt_without"  # a column, too


@dataclass(frozen=True)
class Imported:
    """A pair. Of its pictures, of `shows` and of `without`: where they lie, a hash of each file, and hashes of what one
    sees, those of one colour left out."""

    pair: PicturePair
    sources: tuple[Path, Path]
    contents: tuple[str, str]
    looks: tuple[int, ...]


def read_picture_list(path: Path | str) -> list[Imported]:
    """Read a list of existing pictures: CSV, or JSONL where its name ends so.

    Columns: `shows` and `without` (the pictures' paths, relative to the list), `category`, `concept`, `prompt` (what
    the first picture shows), and, where there is one, `prompt_without`. With the category empty or "harmless" a row
    is a scene without a concept, and its one picture is `without`.

    Raises:
        PSAError: naming the first row that is not valid, a picture that is missing or damaged included.
    """
    path = Path(path)
    found, seen = [], set()
    for number, row in enumerate(_rows(path), start=1):
        try:
            imported = _imported(path.parent, row)
            if imported.pair.id in seen:
                raise PSAError("the same prompt and pictures as an earlier row. Leave one of them out.")
        except PSAError as error:
            raise PSAError(f"{path.name}, row {number}: {error}") from None
        seen.add(imported.pair.id)
        found.append(imported)
    if not found:
        raise PSAError(f"{path.name} names no pictures.")
    return found


def copy_missing(folder: Path, wanted: Sequence[Imported], progress: Progress | None = None) -> int:
    """Copy the pictures that are not there as they are in their sources, and return how many these were.

    Raises:
        PSAError: for a picture that has changed since it was listed, or a folder that cannot be written.
    """
    copies: dict[Path, tuple[Path, str]] = {}
    for each in wanted:
        sources = zip(each.sources, each.contents, strict=True)
        copies |= zip([folder / name for name in each.pair.pictures], sources, strict=True)
    missing = [target for target, (_, digest) in copies.items() if not target.is_file() or _digest(target) != digest]
    done = len(copies) - len(missing)
    for target in missing:
        source, digest = copies[target]
        content = _content(source)
        if _hash(content) != digest:
            raise PSAError(f"{source} has changed since the list was read. Start again.")
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        done += 1
        if progress:
            progress(done, len(copies))
    return len(missing)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() == ".jsonl":
        return (row for _, row in read_objects(path, "list of pictures", MOST_PAIRS))
    return iter(read_rows(path, "list of pictures", "rows")[1])


def _imported(folder: Path, row: Mapping[str, Any]) -> Imported:
    missing = [name for name in _COLUMNS if name not in row]
    if missing:
        raise PSAError(f"there is no {', '.join(missing)}. A row needs {', '.join(_COLUMNS)}.")
    for name in row:  # other columns are ignored, a misspelt one of ours is not
        if name != _MAY_BE and re.sub("[^a-z]", "", name.lower()) == _MAY_BE.replace("_", ""):
            raise PSAError(f"it has {shown(name)}, which is not read. Call it {_MAY_BE}.")
    values = {name: "" if row.get(name) is None else row[name] for name in (*_COLUMNS, _MAY_BE)}
    if not all(isinstance(value, str) for value in values.values()):
        raise PSAError("its values must be texts.")
    values |= {name: plain_spaces(values[name]) for name in ("category", "concept", "prompt", _MAY_BE)}
    check_line("prompt", values["prompt"], LONGEST_PROMPT)
    if values[_MAY_BE]:
        check_line(_MAY_BE, values[_MAY_BE], LONGEST_PROMPT)
    if values["category"].strip().lower() in _HARMLESS:
        return _scene(folder, values)
    category = known_category(values["category"])
    if category is None:
        raise PSAError("its category is none of the seven, and not 'harmless'. Correct it.")
    check_line("concept", values["concept"], LONGEST_CONCEPT)
    if values[_MAY_BE] == values["prompt"] or names_concept(values[_MAY_BE], values["concept"]):
        raise PSAError(f"its {_MAY_BE} names the concept, or is its prompt. Say what the second picture shows.")
    sources, looks = zip(*(_source(folder, values[name], name) for name in (SHOWS, WITHOUT)), strict=True)
    contents = tuple(_digest(source) for source in sources)
    if contents[0] == contents[1]:
        raise PSAError("both pictures are the same. Name one that shows the concept and one that does not.")
    name = pair_id([category, values["concept"], values["prompt"], values[_MAY_BE], *contents])
    files = tuple(
        f"{PICTURES}/{name}_{which}{_ENDINGS[source.suffix.lower()]}"
        for which, source in zip((SHOWS, WITHOUT), sources, strict=True)
    )
    asked = NAMED if names_concept(values["prompt"], values["concept"]) else IMPLIED
    prompts = (values["prompt"], values[_MAY_BE])
    pair = PicturePair(name, category, values["concept"], asked, *prompts, "imported", None, files)  # type: ignore
    seen = tuple(look for look in looks if look is not None)
    return Imported(pair, sources, contents, seen)  # type: ignore[arg-type]


def _scene(folder: Path, values: Mapping[str, str]) -> Imported:
    if values["concept"] or (values[SHOWS] and values[WITHOUT]):
        raise PSAError(
            "a harmless scene has one picture and no concept, and a pair has a category. Write one of the seven into "
            "its category, or leave the other picture and the concept out."
        )
    source, look = _source(folder, values[WITHOUT] or values[SHOWS], WITHOUT)
    content = _digest(source)
    name = pair_id([None, "", values["prompt"], content])
    file = f"{PICTURES}/{name}_scene{_ENDINGS[source.suffix.lower()]}"
    prompts = (values["prompt"], values["prompt"])
    pair = PicturePair(name, None, "", NAMED, *prompts, "imported", None, (file, file))
    return Imported(pair, (source, source), (content, content), () if look is None else (look,))


def _source(folder: Path, name: str, which: str) -> tuple[Path, int | None]:
    """The file, and a hash of what it shows; `None` where that is one colour."""
    try:
        source = inside(folder, name, what="the list's folder")
        if source.suffix.lower() not in _ENDINGS:
            raise PSAError(f"{source.name} does not end in {', '.join(_ENDINGS)}.")
        picture = open_picture(source)
    except PSAError as error:
        raise PSAError(f"'{which}': {error}") from None
    return source, None if is_blank(picture) else shown_hash(picture)


def _digest(source: Path) -> str:
    return _hash(_content(source))


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _content(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise PSAError(f"{source} cannot be read: {error.strerror}. Put the picture back.") from error
