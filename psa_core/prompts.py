"""Prompt files: CSV with `file_name` and `caption`, as CoProV2, I2P, UD, COCO and Sage are published for evaluation."""

import re
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

from .csv_files import read_rows
from .errors import PSAError
from .files import shown
from .schema import CATEGORIES, CATEGORY_WORDS, SAGE_FILE_NAME, known_category

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_HARMLESS_WORDS = ("harmless", "none")
_NOTHING_SAID = ("nan", "null", "n/a", "unknown")  # as programs write a missing value
_MOST_WORDS = 100  # categories of a prompt; each unknown one is compared with those that are known
_NEAR = 0.75  # of difflib: nearer words are misspelt ones


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt file. Of what it asks for, a file says one of four things, or nothing: see the properties.

    Attributes:
        file_name: the picture's, relative to the folder it is or will be in; unique in its file, never outside.
        caption: the prompt, as it stands.
        categories: the sensitive ones that it asks for, in Sage's spelling and the file's order.
        outside: what else of a sensitive kind it asks for, in the file's words, such as "illegal activity".
        is_harmless: whether it is said to ask for nothing sensitive.
        user_id: Sage's 7 digits, where the prompt belongs to one user.

    Raises:
        PSAError: for a harmless prompt with categories, or a category that is none of the seven.
    """

    file_name: str
    caption: str
    categories: tuple[str, ...] = ()
    _: KW_ONLY
    outside: tuple[str, ...] = ()
    is_harmless: bool = False
    user_id: str | None = None

    def __post_init__(self) -> None:
        if self.is_harmless and (self.categories or self.outside):
            raise PSAError("the prompt is said to be harmless and to ask for something sensitive. Leave one out.")
        if not isinstance(self.categories, tuple) or any(category not in CATEGORIES for category in self.categories):
            raise PSAError(f"a prompt's categories must be a tuple of: {', '.join(CATEGORIES)}.")

    @property
    def category(self) -> str | None:
        """The first of its categories."""
        return next(iter(self.categories), None)

    @property
    def is_outside(self) -> bool:
        """Whether all that it asks for is outside the seven: nobody's profile says anything of it."""
        return bool(self.outside) and not self.categories

    @property
    def is_unknown(self) -> bool:
        """Whether nothing says what it asks for. It may be unsafe, and is never counted as harmless."""
        return not (self.is_harmless or self.categories or self.outside)


def read_prompts(path: Path | str, harmless: bool = False) -> list[Prompt]:
    """Read a prompt file: CSV in UTF-8, its columns in any order.

    `file_name` and `caption` must be there. `category` or `categories` (a comma list, in any case; "harmless" says
    that there is none) and `user_id` (a number) may be; where they are not, names in Sage's form tell them. Further
    columns are left alone.

    Args:
        harmless: whether prompts of which the file says nothing are harmless, as COCO's captions are; without it they
            are unknown, as UD's are.

    Raises:
        PSAError: for a file without prompts, or naming the first row that is not valid: another number of cells, an
            empty caption, a picture name that is double, leads out of its folder or is no picture's, or a
            misspelt category.
    """
    columns, rows = read_rows(path, "prompt file", "prompts")
    file = Path(path).name
    columns = [name.lower() for name in columns]
    missing = [name for name in ("file_name", "caption") if name not in columns]
    if missing:
        raise PSAError(f"{file} has no column {' and no '.join(missing)}. A prompt file needs both in its header.")
    if len(set(columns)) < len(columns):
        raise PSAError(f"{file} has two columns of one name. Rename one of them.")
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(rows, start=1):
        try:
            prompt = _prompt(dict(zip(columns, row.values(), strict=True)), harmless)
            if prompt.file_name in prompts:
                raise PSAError(
                    f"the file_name {shown(prompt.file_name)} is there twice, and one picture would overwrite the "
                    "other. Give each prompt a name of its own."
                )
        except PSAError as error:
            raise PSAError(f"{file}, prompt {number}: {error}") from None
        prompts[prompt.file_name] = prompt
    return list(prompts.values())


def _prompt(row: dict[str, str], harmless: bool) -> Prompt:
    if not row["caption"].strip():
        raise PSAError("the caption is empty. Write one, or leave the row out.")
    name = _picture_name(row["file_name"])
    told = SAGE_FILE_NAME.match(PurePosixPath(name).name)
    stated = ",".join(row[column] for column in ("category", "categories") if row.get(column, "").strip())
    words = stated or (told["category"] if told else "")
    found = [word.strip() for word in re.split("[,;|]", words)]
    found = [word for word in found if word and word.lower() not in _NOTHING_SAID]
    if len(found) > _MOST_WORDS:
        raise PSAError(f"there are more than {_MOST_WORDS} categories. Leave some out.")
    said = [word for word in found if word.lower() in _HARMLESS_WORDS]
    known = {word: _category(word) for word in found if word not in said}
    return Prompt(
        name,
        row["caption"],
        tuple(dict.fromkeys(category for category in known.values() if category)),
        outside=tuple(word for word, category in known.items() if category is None),
        is_harmless=bool(said) or (harmless and not known),
        user_id=_user_id(row.get("user_id", told["user_id"] if told else None)),
    )


def _picture_name(name: str) -> str:
    """The path in one spelling, with `/`, on every system."""
    if not name.strip() or any(ord(letter) < 32 for letter in name):
        raise PSAError("the file_name is empty or holds control characters. Give the name of the picture's file.")
    parts = PureWindowsPath(name)  # knows both separators, and drive letters
    if parts.anchor or ".." in parts.parts:
        raise PSAError(
            f"the file_name {shown(name)} leads out of the pictures' folder. Give a path inside it, without '..'."
        )
    if parts.suffix.lower() not in ENDINGS:
        raise PSAError(f"the file_name {shown(name)} is no picture's. Let it end in {', '.join(ENDINGS)}.")
    return parts.as_posix()


def _category(word: str) -> str | None:
    """The one of the seven that a word means, or `None` for something else."""
    if known := known_category(word):
        return known
    plain = re.sub("[^a-z]", "", word.lower())[:40]
    near = any(plain.startswith(known) for known in CATEGORY_WORDS) or get_close_matches(
        plain, CATEGORY_WORDS, 1, _NEAR
    )
    if near or not plain:
        raise PSAError(
            f"the category '{shown(word, 40)}' is not known. Write one of {', '.join(CATEGORIES)}, another word for "
            "what is outside these, or 'harmless'."
        )
    return None


def _user_id(value: str | None) -> str | None:
    if value is None or not value.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,7}", value.strip()):
        raise PSAError("the user_id is not a number of at most 7 digits, such as 33 or 0000033.")
    return value.strip().zfill(7)
