"""Reading a Sage split: checked once, then streamed record by record.

On disk: `{split}/metadata.jsonl`, one JSON object a line with `file_name`, `chosen`, `rejected` (paths relative to
the split's folder), `caption` and `user_data` (a profile in Sage's spelling).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch

from ..encoders.embedding import load_embedding
from ..errors import PSAError
from ..files import existing_file
from ..pictures import check_picture
from ..profile import UserProfile
from ..schema import SAGE_FILE_NAME

_CHUNK = 256  # lines checked at a time: memory stays constant however long the file is


@dataclass(frozen=True, repr=False)
class SageRecord:
    """One preference pair: for `profile` and `caption`, `chosen` is the picture to prefer.

    `line` is its line in `metadata.jsonl`, counted from 1; the paths exist inside the split's folder.
    """

    line: int
    chosen: Path
    rejected: Path
    caption: str
    profile: UserProfile

    @property
    def category(self) -> str | None:
        """The category that the picture's file name tells, in the data's own word."""
        match = SAGE_FILE_NAME.match(self.chosen.name)
        return match["category"] if match else None


@dataclass(frozen=True, eq=False, repr=False)
class SageSplit:
    """A checked split. Records are read from the file when asked for; only their offsets are kept.

    `profiles` are the distinct ones, in order of appearance; `categories` says how many records each
    category has; `skipped` has a sentence for each record left out by `skip_bad`.
    """

    folder: Path
    offsets: np.ndarray
    lines: np.ndarray
    profiles: list[UserProfile]
    categories: Counter[str]
    skipped: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def users(self) -> int:
        return len(self.profiles)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> SageRecord:
        with open(self.folder / "metadata.jsonl", "rb") as file:
            file.seek(self.offsets[index])
            return _parse(file.readline(), int(self.lines[index]), self.folder)

    def __iter__(self) -> Iterator[SageRecord]:
        return (self[index] for index in range(len(self)))


def read_split(
    folder: Path | str, name: str, skip_bad: bool = False, embeddings: Path | str | None = None
) -> SageSplit:
    """Check every record of a split, pictures included (each is decoded at low resolution), and index it.

    Args:
        folder: the dataset's folder, which holds the splits' folders.
        name: `train`, `val`, `test_seen`, `test_unseen`, or another folder there.
        skip_bad: leave bad records out and list them in `skipped`; otherwise the first one raises.
        embeddings: a folder of `{User_ID}.npy` that must then hold each record's user.

    Raises:
        PSAError: naming line and file of the first bad record, or a split that is missing or empty.
    """
    split = Path(folder) / name
    metadata = existing_file(split / "metadata.jsonl", f"metadata of the split '{name}'")
    offsets, lines, skipped = [], [], []
    seen: dict[bytes, int] = {}
    profiles: dict[UserProfile, None] = {}
    categories: Counter[str] = Counter()
    for offset, line, outcome in _checked(metadata, split, Path(embeddings) if embeddings else None):
        problem = outcome if isinstance(outcome, str) else _duplicate(outcome, seen)
        if problem and not skip_bad:
            raise PSAError(f"{name}/metadata.jsonl, line {line}: {problem}")
        if problem:
            skipped.append(f"{name}/metadata.jsonl, line {line}: {problem}")
            continue
        offsets.append(offset)
        lines.append(line)
        profiles[outcome.profile] = None
        if outcome.category:
            categories[outcome.category] += 1
    if not offsets:
        left_out = f" ({len(skipped)} bad records were left out)" if skipped else ""
        raise PSAError(f"The split '{name}' in {folder} has no usable record{left_out}. Check its metadata.jsonl.")
    return SageSplit(split, np.array(offsets, np.int64), np.array(lines, np.int64), list(profiles), categories, skipped)


def user_embedding(folder: Path, profile: UserProfile) -> torch.Tensor:
    """(1, D): the user's row, from `{User_ID}.npy` in `folder`.

    Raises:
        PSAError: for a profile without a User_ID, or a file that is missing or holds something else.
    """
    if profile.user_id is None:
        raise PSAError("the record's user_data has no User_ID, by which embeddings are found. Add it.")
    embedding = load_embedding(folder / f"{profile.user_id}.npy")
    if len(embedding) != 1:
        raise PSAError(f"{profile.user_id}.npy holds {len(embedding)} embeddings; one user has one.")
    return embedding.vectors


def _checked(metadata: Path, split: Path, embeddings: Path | None) -> Iterator[tuple[int, int, Any]]:
    """(offset, line number, SageRecord or the sentence that says what is wrong with it) for each line."""
    with open(metadata, "rb") as file, ThreadPoolExecutor() as pool:
        numbered = _lines(file)
        while chunk := list(islice(numbered, _CHUNK)):
            outcomes = pool.map(lambda item: _outcome(item[2], item[1], split, embeddings), chunk)
            yield from ((offset, line, outcome) for (offset, line, _), outcome in zip(chunk, outcomes, strict=True))


def _lines(file) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    for number, text in enumerate(file, start=1):
        if text.strip():
            yield offset, number, text
        offset += len(text)


def _outcome(text: bytes, line: int, split: Path, embeddings: Path | None) -> SageRecord | str:
    try:
        record = _parse(text, line, split)
        for path in (record.chosen, record.rejected):
            check_picture(path)
        if embeddings:
            user_embedding(embeddings, record.profile)
    except PSAError as error:
        return str(error)
    return record


def _parse(text: bytes, line: int, split: Path) -> SageRecord:
    try:
        data = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise PSAError("this is not valid JSON. Write the record again, as one JSON object on one line.") from None
    if not isinstance(data, dict):
        raise PSAError("this is not a JSON object with the fields chosen, rejected, caption and user_data.")
    missing = [name for name in ("chosen", "rejected", "caption", "user_data") if name not in data]
    if missing:
        raise PSAError(f"the record lacks {', '.join(missing)}. Add it, or leave the record out.")
    if not isinstance(data["caption"], str):
        raise PSAError("the record's caption is not text. Correct it.")
    try:
        profile = UserProfile.from_dict(data["user_data"])
    except PSAError as error:
        raise PSAError(f"in user_data: {error}") from None
    chosen, rejected = (_inside(split, data[name], name) for name in ("chosen", "rejected"))
    return SageRecord(line, chosen, rejected, data["caption"], profile)


def _inside(split: Path, relative: object, what: str) -> Path:
    if not isinstance(relative, str) or not relative or "\0" in relative:
        raise PSAError(f"'{what}' is not a path. Give the picture's path relative to the split's folder.")
    path = split / relative
    anchored = Path(relative).is_absolute() or PureWindowsPath(relative).anchor
    if anchored or not path.resolve().is_relative_to(split.resolve()):
        raise PSAError(f"'{what}' ({relative}) leads out of the split's folder. Put the picture inside it.")
    if not path.is_file():
        raise PSAError(f"there is no file {relative} ('{what}'). Put the picture there, or leave the record out.")
    return path


def _duplicate(record: SageRecord, seen: dict[bytes, int]) -> str | None:
    identity = (str(record.chosen), str(record.rejected), record.caption, json.dumps(record.profile.to_dict()))
    key = hashlib.blake2b("\0".join(identity).encode(), digest_size=12).digest()
    first = seen.setdefault(key, record.line)
    if first == record.line:
        return None
    return f"the same record as line {first} ({record.chosen.name}). Remove one of the two."
