"""Reading a Sage split: checked once, then streamed record by record.

On disk: `{split}/metadata.jsonl`, one JSON object a line with `file_name`, `chosen`, `rejected` (paths relative to
the split's folder), `caption` and `user_data` (a profile in Sage's spelling). The published records do not say what
their users ban: `users.csv` does, or else the rules that reproduce it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..encoders.stored import StoredEncoder
from ..errors import PSAError
from ..files import existing_file, inside
from ..pictures import check_picture
from ..profile import UserProfile
from ..schema import SAGE_FILE_NAME, known_category
from ..users import by_id, read_users

_CHUNK = 256  # lines checked at a time: memory stays constant however long the file is
_READERS = 4  # threads
_NAMED = 3  # contradictions that a note names
_DERIVED, _JOINED, _CONTRADICTED = "derived", "joined", "contradicted"
_COMPARED = ("age", "gender", "religion", "physical_condition", "mental_condition")


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
        """The category that the picture's file name tells: in Sage's spelling, or another word of the data's own."""
        match = SAGE_FILE_NAME.match(self.chosen.name)
        return known_category(match["category"]) or match["category"] if match else None

    @property
    def contradicts(self) -> bool:
        """Whether, by its file's name, the safe picture was chosen for who bans nothing of it, or the unsafe one."""
        match = SAGE_FILE_NAME.match(self.chosen.name)
        category = match and known_category(match["category"])
        if not match or not match["kind"] or not category:
            return False
        return (match["kind"] == "s") != (category in self.profile.banned_categories)


@dataclass(frozen=True, eq=False, repr=False)
class SageSplit:
    """A checked split. Records are read from the file when asked for; only their offsets are kept.

    `profiles` are the distinct ones, in order of appearance; `categories` says how many records each
    category has; `skipped` has a sentence for each record left out by `skip_bad`. `bans` counts the records whose
    users' bans were `derived` by the rules `sage` or `joined` from a users file, and those whose chosen picture's
    name has `contradicted` them; `notes` says so in sentences.
    """

    folder: Path
    offsets: np.ndarray
    lines: np.ndarray
    profiles: list[UserProfile]
    categories: Counter[str]
    skipped: list[str]
    bans: Counter[str]
    notes: list[str]
    _reader: "_Reader"

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
            return self._reader.parse(file.readline(), int(self.lines[index]))[0]

    def __iter__(self) -> Iterator[SageRecord]:
        return (self[index] for index in range(len(self)))


def read_split(
    folder: Path | str,
    name: str,
    skip_bad: bool = False,
    embeddings: Path | str | None = None,
    users: Path | str | None = None,
) -> SageSplit:
    """Check every record of a split, pictures included (each is decoded at low resolution), and index it.

    Args:
        folder: the dataset's folder, which holds the splits' folders.
        name: `train`, `val`, `test_seen`, `test_unseen`, or another folder there.
        skip_bad: leave bad records out and list them in `skipped`; otherwise the first one raises.
        embeddings: a folder of `{User_ID}.npy` that must then hold each record's user.
        users: Sage's `users.csv`, which then says, by User_ID, what each record's user bans. Without it, and where
            a record does not say so itself, the rules `sage` do.

    Raises:
        PSAError: naming line and file of the first bad record, or a split that is missing or empty.
    """
    split = Path(folder) / name
    metadata = existing_file(split / "metadata.jsonl", f"metadata of the split '{name}'")
    reader = _Reader(split, Path(folder), None if users is None else by_id(read_users(users)))
    stored = _Stored(embeddings)
    offsets, lines, skipped = [], [], []
    contradicting: list[int] = []
    seen: dict[bytes, int] = {}
    profiles: dict[UserProfile, None] = {}
    categories: Counter[str] = Counter()
    bans: Counter[str] = Counter()
    for offset, line, outcome in _checked(metadata, reader):
        problem = outcome if isinstance(outcome, str) else _duplicate(outcome[0], seen) or stored.problem(outcome[0])
        if isinstance(outcome, str) or problem:
            sentence = f"{name}/metadata.jsonl, line {line}: {problem}"
            if not skip_bad:
                raise PSAError(sentence)
            skipped.append(sentence)
            continue
        record, origin = outcome
        offsets.append(offset)
        lines.append(line)
        profiles[record.profile] = None
        if record.category:
            categories[record.category] += 1
        if origin:
            bans[origin] += 1
        if record.contradicts:
            bans[_CONTRADICTED] += 1
            contradicting = [*contradicting, line][:_NAMED]
    if not offsets:
        left_out = f" ({len(skipped)} bad records were left out)" if skipped else ""
        raise PSAError(f"The split '{name}' in {folder} has no usable record{left_out}. Check its metadata.jsonl.")
    return SageSplit(
        split,
        np.array(offsets, np.int64),
        np.array(lines, np.int64),
        list(profiles),
        categories,
        skipped,
        bans,
        _notes(name, len(offsets), bans, contradicting),
        reader,
    )


@dataclass(frozen=True, repr=False)
class _Reader:
    """Reads lines of a split's metadata: its folder, the data set's own, and the users file's people by User_ID."""

    split: Path
    root: Path
    people: Mapping[str, UserProfile] | None

    def check(self, text: bytes, line: int) -> tuple[SageRecord, str] | str:
        """The record with its pictures decoded and where its bans are from, or what is wrong with it."""
        try:
            record, origin = self.parse(text, line)
            for path in (record.chosen, record.rejected):
                check_picture(path)
        except PSAError as error:
            return str(error)
        return record, origin

    def parse(self, text: bytes, line: int) -> tuple[SageRecord, str]:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):  # other bytes than UTF-8 and numbers of 5,000 digits among them
            raise PSAError("this is not valid JSON. Write the record again, as one JSON object on one line.") from None
        if not isinstance(data, dict):
            raise PSAError("this is not a JSON object with the fields chosen, rejected, caption and user_data.")
        missing = [name for name in ("chosen", "rejected", "caption", "user_data") if name not in data]
        if missing:
            raise PSAError(f"the record lacks {', '.join(missing)}. Add it, or leave the record out.")
        if not isinstance(data["caption"], str) or not _is_text(data["caption"]):
            raise PSAError("the record's caption is not text. Correct it.")
        try:
            profile, origin = self._profile(data["user_data"])
        except PSAError as error:
            raise PSAError(f"in user_data: {error}") from None
        chosen, rejected = (self._picture(data[name], name) for name in ("chosen", "rejected"))
        return SageRecord(line, chosen, rejected, data["caption"], profile), origin

    def _profile(self, data: object) -> tuple[UserProfile, str]:
        """The record's user, and where what the user bans is from: `derived`, `joined`, or the record itself ("")."""
        profile = UserProfile.from_dict(data)  # type: ignore[arg-type]  # which says that it is none
        stated = isinstance(data, dict) and data.get("Banned_Categories") is not None
        if self.people is None:
            return profile, "" if stated else _DERIVED
        if profile.user_id is None:
            raise PSAError("there is no User_ID, by which users are found in the users file. Add it.")
        known = self.people.get(profile.user_id)
        if known is None:
            raise PSAError("the users file has no such User_ID. Add the user there, or leave the record out.")
        compared = (*_COMPARED, "banned_categories") if stated else _COMPARED
        differing = [name for name in compared if getattr(profile, name) != getattr(known, name)]
        if differing:
            names = ", ".join(name.replace("_", " ") for name in differing)
            raise PSAError(f"the record and the users file do not agree on this user's {names}. Correct one of them.")
        return known, "" if stated else _JOINED

    def _picture(self, relative: object, what: str) -> Path:
        try:
            return inside(self.split, relative, self.root, "the split's folder")
        except PSAError as error:
            raise PSAError(f"'{what}': {error}") from None


class _Stored:
    """Whether users' embeddings are in a folder, looked at once a user."""

    def __init__(self, folder: Path | str | None) -> None:
        self._encoder = None if folder is None else StoredEncoder(folder)
        self._problems: dict[str | None, str | None] = {}

    def problem(self, record: SageRecord) -> str | None:
        user_id = record.profile.user_id
        if self._encoder is not None and user_id not in self._problems:
            try:
                self._encoder.encode([record.profile])
                self._problems[user_id] = None
            except PSAError as error:
                self._problems[user_id] = str(error)
        return self._problems.get(user_id)


def _checked(metadata: Path, reader: _Reader) -> Iterator[tuple[int, int, tuple[SageRecord, str] | str]]:
    """(offset, line number, what `_Reader.check` says) for each line."""
    with open(metadata, "rb") as file, ThreadPoolExecutor(_READERS) as pool:
        numbered = _lines(file)
        while chunk := list(islice(numbered, _CHUNK)):
            outcomes = pool.map(lambda item: reader.check(item[2], item[1]), chunk)
            yield from ((offset, line, outcome) for (offset, line, _), outcome in zip(chunk, outcomes, strict=True))


def _lines(file) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    for number, text in enumerate(file, start=1):
        if text.strip():
            yield offset, number, text
        offset += len(text)


def _notes(name: str, count: int, bans: Counter[str], contradicting: list[int]) -> list[str]:
    notes = []
    if bans[_DERIVED]:
        notes.append(
            f"{name}: {bans[_DERIVED]} of {count} records do not say what their users ban: the rules 'sage' say it."
        )
    if bans[_JOINED]:
        notes.append(f"{name}: what the users of {bans[_JOINED]} of {count} records ban is from the users file.")
    if bans[_CONTRADICTED]:
        notes.append(
            f"{name}: in {bans[_CONTRADICTED]} of {count} records the chosen picture's name (_s safe, _u unsafe) "
            f"contradicts what the user bans: line {', '.join(map(str, contradicting))}"
            f"{' and others' if bans[_CONTRADICTED] > len(contradicting) else ''}."
        )
    return notes


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _duplicate(record: SageRecord, seen: dict[bytes, int]) -> str | None:
    identity = (str(record.chosen), str(record.rejected), record.caption, json.dumps(record.profile.to_dict()))
    key = hashlib.blake2b("\0".join(identity).encode(), digest_size=12).digest()
    first = seen.setdefault(key, record.line)
    if first == record.line:
        return None
    return f"the same record as line {first} ({record.chosen.name}). Remove one of the two."
