"""The files of a data set in the compact form: each picture pair once, and who belongs to a split with it.

```
dataset.json                what made it, written first; in the end also how many lines each list has
users.jsonl                 a profile in Sage's spelling a line, with `Splits`, the splits that it belongs to
pictures/                   {id}_shows.jpg and {id}_without.jpg, or {id}_scene.jpg of a harmless scene
pairs.jsonl                 a `PicturePair` a line
{split}/pairs.jsonl         {"pair": id}: with each of the split's users, the choice by rule; or
                            {"pair": id, "user": User_ID, "chosen": "shows" | "without"}: with that user alone
judged.jsonl                where a judge says who prefers which: its answers, as `answers` has them
```
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PSAError
from ..files import is_text, own_file
from ..json_lines import numbered, write_objects
from ..json_text import is_json, parse_json
from ..profile import UserProfile
from ..schema import CATEGORIES

FORMAT = "psa-dataset-1"
DESCRIPTION, USERS, PAIRS, PICTURES = "dataset.json", "users.jsonl", "pairs.jsonl", "pictures"
SHOWS, WITHOUT = "shows", "without"
HARMLESS = "harmless"
"""The split of scenes without a concept."""
RULE, JUDGE, BY_HAND = "rule", "judge", "by hand"
LABELS = (RULE, JUDGE, BY_HAND)
_ID = re.compile("[0-9a-f]{16}")
_LONGEST_LINE = 1 << 16  # bytes
MAX_DESCRIPTION = 1 << 24
"""Bytes of `dataset.json`, which names every concept that is held out."""
NOT_STATED = "not stated"
"""A licence that nobody gave."""


@dataclass(frozen=True)
class PicturePair:
    """Two pictures of one scene, drawn from one seed, of which one shows a concept.

    Attributes:
        id: 16 hex digits, from the content.
        category: one of the seven, or `None` for a harmless scene; then both pictures are one.
        concept, asked, made_by: as in `PromptPair`.
        shows, without: the prompts; an imported pair may lack the second (""). The first is the caption.
        seed: of the noise that both were drawn from; `None` for imported pictures.
        pictures: of `shows` and of `without`, relative to the data set's folder.
        label: how the chosen picture is found: one of `LABELS`.
        set_aside: why the pair is no part of any split; `None` where it is one.
    """

    id: str
    category: str | None
    concept: str
    asked: str
    shows: str
    without: str
    made_by: str
    seed: int | None
    pictures: tuple[str, str]
    label: str = RULE
    set_aside: str | None = None

    def line(self) -> dict[str, Any]:
        return {**vars(self), "pictures": dict(zip((SHOWS, WITHOUT), self.pictures, strict=True))}

    @classmethod
    def of_line(cls, data: Any) -> "PicturePair":
        """Raises PSAError for anything that `line` does not give."""
        names = list(cls.__dataclass_fields__)
        if not isinstance(data, dict) or set(data) != set(names):
            raise PSAError(f"this is not a pair, a JSON object with these fields: {', '.join(names)}.")
        texts = ("concept", "asked", "shows", "without", "made_by")
        if not all(_text(data[name]) for name in texts) or not data["shows"]:
            raise PSAError(f"the pair's {', '.join(texts)} must be texts.")
        if not isinstance(data["id"], str) or not _ID.fullmatch(data["id"]):
            raise PSAError("the pair's id must be 16 hex digits.")
        if data["category"] is not None and data["category"] not in CATEGORIES:
            raise PSAError(f"the pair's category must be null or one of: {', '.join(CATEGORIES)}.")
        if data["label"] not in LABELS or not (data["set_aside"] is None or _text(data["set_aside"])):
            raise PSAError(f"the pair's label must be one of {', '.join(LABELS)}, and set_aside null or a text.")
        pictures = data["pictures"]
        if not isinstance(pictures, dict) or set(pictures) != {SHOWS, WITHOUT}:
            raise PSAError("the pair's pictures must be an object with the paths 'shows' and 'without'.")
        if data["seed"] is not None and type(data["seed"]) is not int:
            raise PSAError("the pair's seed must be a whole number or null.")
        return cls(**{**data, "pictures": (pictures[SHOWS], pictures[WITHOUT])})


def read_description(folder: Path) -> dict[str, Any]:
    """`dataset.json`, whose `format` is ours.

    Raises:
        PSAError: where there is none, or one that this version does not read.
    """
    path = own_file(folder, DESCRIPTION, "description of the data set (dataset.json)")
    data = description_of_any_form(path)
    if data is None or data.get("format") != FORMAT:
        raise PSAError(f"{path} is damaged, or of a version that is not read here. Put a copy of it back.")
    return data


def description_of_any_form(path: Path) -> dict[str, Any] | None:
    """`dataset.json` as it is, ours or not; `None` where it is no JSON object, or larger than `MAX_DESCRIPTION`."""
    try:
        if path.stat().st_size > MAX_DESCRIPTION:
            return None
        data = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def numbered_lines(path: Path, what: str, root: Path | None = None) -> Iterator[tuple[int, int, Any]]:
    """(line number, offset in bytes, JSON value or PSAError) for each line that is not blank; `root` as `inside` has
    it."""
    try:
        with open(own_file(path.parent, path.name, what, root), "rb") as file:
            for number, offset, text in numbered(file, _LONGEST_LINE):
                yield number, offset, _value(text)
    except OSError as error:
        raise PSAError(f"{path} cannot be read: {error.strerror}.") from error


def read_users(folder: Path) -> list[tuple[UserProfile, tuple[str, ...]]]:
    """The data set's users, each with the splits that it belongs to.

    Raises:
        PSAError: naming the first line that is not a user's.
    """
    users, seen = [], set()
    for number, _, data in numbered_lines(folder / USERS, "file of the data set's users"):
        try:
            if isinstance(data, PSAError):
                raise data
            profile = UserProfile.from_dict(data)
            splits = data.get("Splits")
            if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
                raise PSAError("'Splits' must be a list of splits' names.")
            if profile.user_id is None or profile.user_id in seen:
                raise PSAError("each user needs a User_ID of their own.")
        except PSAError as error:
            raise PSAError(f"{USERS}, line {number}: {error}") from None
        seen.add(profile.user_id)
        users.append((profile, tuple(splits)))
    return users


def write_users(folder: Path, users: Iterable[tuple[UserProfile, Sequence[str]]]) -> None:
    write_objects(folder / USERS, ({**profile.to_dict(), "Splits": list(splits)} for profile, splits in users))


def _value(text: bytes) -> Any:
    if len(text) > _LONGEST_LINE:
        return PSAError(f"it is longer than {_LONGEST_LINE >> 10} KiB. Put the file back as it was written.")
    try:
        return parse_json(text, once=True)
    except ValueError:
        return PSAError("this is not valid JSON, or has a name twice. Put the file back as it was written.")


def _text(value: Any) -> bool:
    return isinstance(value, str) and is_text(value)


def lines_in(path: Path) -> int:
    """How many lines a list has, with a last one that lacks its end alone; raises PSAError where it cannot be read."""
    count, last = 0, b""
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_LONGEST_LINE):
                count += chunk.count(b"\n")
                last = (last + chunk).rpartition(b"\n")[2][-_LONGEST_LINE:]
    except OSError as error:
        raise PSAError(f"{path} cannot be read: {error.strerror}.") from error
    return count + is_json(last)


def lines_written(description: Mapping[str, Any], name: str) -> int | None:
    """How many lines a data set's list was written with; `None` where nothing says it."""
    lists = description.get("lists")
    count = lists.get(name) if isinstance(lists, dict) else None
    return count if isinstance(count, int) else None
