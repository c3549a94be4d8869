"""Reading a Sage split: checked once, then streamed record by record.

On disk: `{split}/metadata.jsonl`, one JSON object a line with `file_name`, `chosen`, `rejected` (paths relative to
the split's folder), `caption` and `user_data` (a profile in Sage's spelling). The published records do not say what
their users ban: `users.csv` does, or else the rules that reproduce it. `caption_without` is a field of this project's
own, which a record may have: the caption without the concept, which the safe picture follows.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ..encoders.stored import StoredEncoder
from ..errors import PSAError
from ..files import inside, is_text, own_file
from ..json_lines import numbered
from ..json_text import parse_json
from ..pictures import PictureChecks
from ..profile import UserProfile
from ..schema import SAGE_FILE_NAME, known_category
from ..users import by_id, read_users
from .split import Examples, Scene

_CHUNK = 256  # lines checked at a time: memory stays constant however long the file is
_READERS = 4  # threads
_LONGEST_LINE = 1 << 16  # bytes
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
    caption_without: str = ""

    @property
    def category(self) -> str | None:
        """The category that the picture's file name tells: in Sage's spelling, or another word of the data's own."""
        match = SAGE_FILE_NAME.match(self.chosen.name)
        return known_category(match["category"]) or match["category"] if match else None

    @property
    def concept(self) -> str | None:
        """What the pictures show or leave out, as their file's name tells."""
        match = SAGE_FILE_NAME.match(self.chosen.name)
        return match["concept"] if match else None

    @property
    def safe_chosen(self) -> bool | None:
        """Whether the chosen picture is the safe one, as its file's name tells; `None` where it does not."""
        match = SAGE_FILE_NAME.match(self.chosen.name)
        return match["kind"] == "s" if match and match["kind"] else None

    @property
    def contradicts(self) -> bool:
        """Whether, by its file's name, the safe picture was chosen for who bans nothing of it, or the unsafe one."""
        category = known_category(self.category or "")
        if self.safe_chosen is None or category is None:
            return False
        return self.safe_chosen != (category in self.profile.banned_categories)


@dataclass(frozen=True, eq=False, repr=False)
class SageSplit:
    """A checked split. Records are read from the file when asked for; their offsets and users are kept.

    `profiles` are the distinct ones, in order of appearance; `categories` says how many records each
    category has; `skipped` has a sentence for each record left out by `skip_bad`. `bans` counts the records whose
    users' bans were `derived` by the rules `sage` or `joined` from a users file, and those whose chosen picture's
    name has `contradicted` them; `notes` says so in sentences.
    """

    folder: Path
    offsets: np.ndarray
    lines: np.ndarray
    people: np.ndarray
    profiles: list[UserProfile]
    categories: Counter[str]
    skipped: list[str]
    bans: Counter[str]
    notes: list[str]
    _reader: "_Reader"
    harmless: str | None = None  # Sage has none

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def scenes(self) -> int:
        return len(self)

    def scene(self, number: int) -> Scene:
        """Each record is one of its own."""
        record = self[number]
        where = f"line {record.line} of {self.name}/metadata.jsonl"
        pictures, safe = (record.chosen, record.rejected), 0 if record.safe_chosen else 1
        return Scene(pictures, record.caption, where, record.caption_without, safe)

    def examples(self) -> Examples:
        return Examples(np.arange(len(self), dtype=np.int32), self.people, np.zeros(len(self), bool))

    @property
    def users(self) -> int:
        return len(self.profiles)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> SageRecord:
        path = self.folder / "metadata.jsonl"
        try:
            with open(path, "rb") as file:
                file.seek(self.offsets[index])
                return self._reader.parse(file.readline(), int(self.lines[index]))[0]
        except FileNotFoundError:
            raise PSAError(f"{path} has changed since it was read: it is there no more. Read it again.") from None
        except PSAError as error:  # it was right before
            raise PSAError(f"{path} or a picture in it has changed since it was read: {error}") from None

    def __iter__(self) -> Iterator[SageRecord]:
        return (self[index] for index in range(len(self)))


def read_sage_split(
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
    metadata = own_file(split, "metadata.jsonl", f"metadata of the split '{name}'", Path(folder))
    reader = _Reader(split, Path(folder), None if users is None else by_id(read_users(users)))
    stored = StoredUsers(embeddings)
    offsets, lines, people, skipped = array("q"), array("q"), array("i"), []
    contradicting: list[int] = []
    seen = _Seen()
    profiles: dict[UserProfile, int] = {}
    categories: Counter[str] = Counter()
    bans: Counter[str] = Counter()
    for offset, line, outcome in _checked(metadata, reader):
        problem = outcome if isinstance(outcome, str) else stored.problem(outcome[0].profile)
        if not isinstance(outcome, str) and not problem and (first := seen.first(outcome[0])) is not None:
            problem = f"the same record as line {lines[first]} ({outcome[0].chosen.name}). Remove one of the two."
        if isinstance(outcome, str) or problem:
            sentence = f"{name}/metadata.jsonl, line {line}: {problem}"
            if not skip_bad:
                raise PSAError(sentence)
            skipped.append(sentence)
            continue
        record, origin = outcome
        offsets.append(offset)
        lines.append(line)
        people.append(profiles.setdefault(record.profile, len(profiles)))
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
        np.frombuffer(offsets, np.int64),
        np.frombuffer(lines, np.int64),
        np.frombuffer(people, np.int32),
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
    check_picture: PictureChecks = field(default_factory=PictureChecks)

    def check(self, text: bytes, line: int) -> tuple[SageRecord, str] | str:
        """The record with its pictures decoded and where its bans are from, or what is wrong with it."""
        try:
            record, origin = self.parse(text, line)
            for path in (record.chosen, record.rejected):
                self.check_picture(path)
        except PSAError as error:
            return str(error)
        return record, origin

    def parse(self, text: bytes, line: int) -> tuple[SageRecord, str]:
        if len(text) > _LONGEST_LINE:
            raise PSAError(f"the line is longer than {_LONGEST_LINE >> 10} KiB. Write the record again.")
        try:
            data = parse_json(text, once=True)
        except ValueError:  # other bytes than UTF-8 and numbers of 5,000 digits among them
            raise PSAError(
                "this is not valid JSON, or has a name twice. Write the record again, as one JSON object on one line."
            ) from None
        if not isinstance(data, dict):
            raise PSAError("this is not a JSON object with the fields chosen, rejected, caption and user_data.")
        missing = [name for name in ("chosen", "rejected", "caption", "user_data") if name not in data]
        if missing:
            raise PSAError(f"the record lacks {', '.join(missing)}. Add it, or leave the record out.")
        caption, without = data["caption"], data.get("caption_without", "")
        for name, text in (("caption", caption), ("caption_without", without)):
            if not isinstance(text, str) or not is_text(text):
                raise PSAError(f"the record's {name} is not text. Correct it.")
        try:
            profile, origin = self._profile(data["user_data"])
        except PSAError as error:
            raise PSAError(f"in user_data: {error}") from None
        chosen, rejected = (self._picture(data[name], name) for name in ("chosen", "rejected"))
        if without and without == caption:
            raise PSAError("the record's caption_without is its caption, and ought to lack the concept. Correct it.")
        record = SageRecord(line, chosen, rejected, caption, profile, without)
        if without and record.safe_chosen is None:
            raise PSAError(
                "the record has caption_without, and its pictures' names do not tell which is the safe one "
                "(user_1_Violence_plus_7_s.jpg). Rename them, or take that field out."
            )
        return record, origin

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


class StoredUsers:
    """Whether users' embeddings are in a folder, looked at once a user; without a folder nobody needs one."""

    def __init__(self, folder: Path | str | None) -> None:
        self._encoder = None if folder is None else StoredEncoder(folder)
        self._problems: dict[str | None, str | None] = {}

    def problem(self, profile: UserProfile) -> str | None:
        user_id = profile.user_id
        if self._encoder is not None and user_id not in self._problems:
            try:
                self._encoder.encode([profile])
                self._problems[user_id] = None
            except PSAError as error:
                self._problems[user_id] = str(error)
        return self._problems.get(user_id)


class _Seen:
    """Which records were met before, in some 35 bytes each: 64-bit hashes in order, the most of them sorted as well."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted, self._order = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def first(self, record: SageRecord) -> int | None:
        """The number of the record that is the same, or `None`: then this one gets the next number."""
        identity = (str(record.chosen), str(record.rejected), record.caption, json.dumps(record.profile.to_dict()))
        text = "\0".join(identity).encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        if key in self._recent:
            return self._recent[key]
        place = np.searchsorted(self._sorted, np.uint64(key))
        if place < len(self._sorted) and self._sorted[place] == key:
            return int(self._order[place])
        self._recent[key] = len(self._hashes)
        self._hashes.append(key)
        if len(self._recent) > max(1024, len(self._hashes) // 16):
            hashes = np.array(self._hashes, np.uint64)
            self._order = np.argsort(hashes)
            self._sorted = hashes[self._order]
            self._recent.clear()
        return None


def _checked(metadata: Path, reader: _Reader) -> Iterator[tuple[int, int, tuple[SageRecord, str] | str]]:
    """(offset, line number, what `_Reader.check` says) for each line."""
    with open(metadata, "rb") as file, ThreadPoolExecutor(_READERS) as pool:
        lines = numbered(file, _LONGEST_LINE)
        while chunk := list(islice(lines, _CHUNK)):
            outcomes = pool.map(lambda item: reader.check(item[2], item[0]), chunk)
            yield from ((offset, line, outcome) for (line, offset, _), outcome in zip(chunk, outcomes, strict=True))


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
