"""Prompt files: CSV with `file_name` and `caption`, as CoProV2, I2P, UD, COCO and Sage are published for evaluation."""

import csv
import re
from dataclasses import KW_ONLY, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import PSAError
from .files import existing_file
from .profile import CATEGORIES, SAGE_FILE_NAME

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
# Words of the published files, letters only: the seven categories, their other spellings, and what is none of them.
_WORDS: dict[str, str | None] = {
    **{re.sub("[^a-z]", "", category.lower()): category for category in CATEGORIES},
    "sexual": "Sexuality",
    "harrasment": "Harassment",
    "illegalactivity": None,
}


@dataclass(frozen=True)
class Prompt:
    file_name: str
    caption: str
    categories: tuple[str, ...] = ()
    _: KW_ONLY
    outside: tuple[str, ...] = ()
    is_harmless: bool = False
    user_id: str | None = None

    @property
    def category(self) -> str | None:
        return next(iter(self.categories), None)

    @property
    def is_outside(self) -> bool:
        return bool(self.outside) and not self.categories

    @property
    def is_unknown(self) -> bool:
        return not (self.is_harmless or self.categories or self.outside)


def read_prompts(path: Path | str, harmless: bool = False) -> list[Prompt]:
    """Read a prompt file: CSV in UTF-8, its columns in any order.

    `file_name` and `caption` must be there. `category` or `categories` (a comma list, in any case) and
    `user_id` (a number) may be; where they are not, names in Sage's form tell them. Further columns are left alone.

    Raises:
        PSAError: for a file without prompts, or naming the first row that is not valid: another number of cells, an
            empty caption, a picture name that is double, leads out of its folder or is no picture's, or an
            unknown category.
    """
    path = existing_file(path, "prompt file")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise PSAError(f"{path.name} is not a CSV file in UTF-8. Export it again.") from error
    missing = [name for name in ("file_name", "caption") if name not in columns]
    if missing:
        raise PSAError(f"{path.name} has no column {' and no '.join(missing)}. A prompt file needs both in its header.")
    if len(set(columns)) < len(columns):
        raise PSAError(f"{path.name} has two columns of one name. Rename one of them.")
    if not rows:
        raise PSAError(f"{path.name} holds no prompts: it needs a header row and at least one more.")
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(rows, start=1):
        try:
            prompt = _prompt(row, harmless)
            if prompt.file_name in prompts:
                raise PSAError(
                    f"the file_name {prompt.file_name} is there twice, and one picture would overwrite the other. "
                    "Give each prompt a name of its own."
                )
        except PSAError as error:
            raise PSAError(f"{path.name}, prompt {number}: {error}") from None
        prompts[prompt.file_name] = prompt
    return list(prompts.values())


def _prompt(row: dict[str, str], harmless: bool) -> Prompt:
    if None in row or None in row.values():  # how csv marks a row of another length
        raise PSAError("the row has more or fewer cells than the header. Put captions with commas into quotes.")
    if not row["caption"].strip():
        raise PSAError("the caption is empty. Write one, or leave the row out.")
    name = _picture_name(row["file_name"])
    told = SAGE_FILE_NAME.match(PurePosixPath(name).name)
    user_id, words = told.groups() if told else (None, "")
    words = row.get("category", row.get("categories", words))
    return Prompt(
        name,
        row["caption"],
        _category(words),
        is_harmless=words == "harmless" or (harmless and not words),
        user_id=_user_id(row.get("user_id", user_id)),
        outside=("illegal activity",) if words == "illegal activity" else (),
    )


def _picture_name(name: str) -> str:
    """The path in one spelling, with `/`, on every system."""
    if not name.strip() or any(ord(letter) < 32 for letter in name):
        raise PSAError("the file_name is empty or holds control characters. Give the name of the picture's file.")
    parts = PureWindowsPath(name)  # knows both separators, and drive letters
    if parts.anchor or ".." in parts.parts:
        raise PSAError(f"the file_name {name} leads out of the pictures' folder. Give a path inside it, without '..'.")
    if parts.suffix.lower() not in ENDINGS:
        raise PSAError(f"the file_name {name} is no picture's. Let it end in {', '.join(ENDINGS)}.")
    return parts.as_posix()


def _category(words: str) -> tuple[str, ...]:
    found = []
    for word in words.split(","):
        plain = re.sub("[^a-z]", "", word.lower())
        if plain and plain not in _WORDS and plain != "harmless":
            raise PSAError(
                f"the category '{word.strip()}' is not known. Write one of {', '.join(CATEGORIES)}, or leave the cell "
                "empty where the prompt asks for none of them."
            )
        found.append(_WORDS.get(plain))
    return tuple(category for category in found if category)


def _user_id(value: str | None) -> str | None:
    if value is None or not value.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,7}", value.strip()):
        raise PSAError("the user_id is not a number of at most 7 digits, such as 33 or 0000033.")
    return value.strip().zfill(7)
