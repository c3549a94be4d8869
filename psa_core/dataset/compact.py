"""Reading a split in the compact form: P picture pairs and U users are P x U records, made as they are read.

Record i is pair i // U with user i % U. Their number costs no memory: kept are some bytes a pair and the users.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EmptySplitError, PSAError
from ..files import inside, shown
from ..json_text import parse_json
from ..pictures import PictureChecks
from ..profile import UserProfile
from ..schema import CATEGORIES
from .answers import JUDGED, has_judges_answers
from .pair_files import (
    HARMLESS,
    JUDGE,
    PAIRS,
    SHOWS,
    USERS,
    WITHOUT,
    PicturePair,
    lines_in,
    lines_written,
    numbered_lines,
    read_description,
    read_users,
)
from .sage import SageRecord, StoredUsers
from .split import MOST_RECORDS, Examples, Scene

_READERS, _CHUNK = 4, 256  # threads that check pictures, and pairs at a time


@dataclass(frozen=True, repr=False)
class PairRecord(SageRecord):
    """A record of a picture pair, of whose pictures `safe` is without the concept; `line` is its number in the split,
    counted from 1."""

    pair: PicturePair = field(kw_only=True)
    safe: Path = field(kw_only=True)

    @property
    def category(self) -> str | None:
        return self.pair.category

    @property
    def concept(self) -> str | None:
        return self.pair.concept or None

    @property
    def safe_chosen(self) -> bool | None:
        """Whether the picture without the concept is chosen; `None` for a harmless scene."""
        return self.chosen == self.safe if self.pair.category else None

    @property
    def contradicts(self) -> bool:
        if self.safe_chosen is None:
            return False
        return self.safe_chosen != (self.pair.category in self.profile.banned_categories)


@dataclass(frozen=True, eq=False, repr=False)
class CompactSplit:
    """A checked split in the compact form; see `PairSplit`.

    `offsets` (S,) are its pairs' places in `pairs.jsonl`, `category_ids` (S,) their categories' numbers, -1 for none.
    The first `by_rule` pairs belong to each of `profiles`; `answers` are the records of the others, as `Examples`.
    """

    folder: Path
    offsets: np.ndarray
    category_ids: np.ndarray
    by_rule: int
    answers: Examples
    profiles: list[UserProfile]
    categories: Counter[str]
    skipped: list[str]
    notes: list[str]
    harmless: str | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def users(self) -> int:
        return len(self.profiles)

    @property
    def scenes(self) -> int:
        return len(self.offsets)

    def __len__(self) -> int:
        return self.by_rule * self.users + len(self.answers.scenes)

    def __getitem__(self, index: int) -> SageRecord:
        if not 0 <= index < len(self):
            raise IndexError(index)
        ruled = self.by_rule * self.users
        if index < ruled:
            scene, user = divmod(int(index), self.users)
            swapped = self._swapped(scene, user)
        else:
            scene, user, swapped = (part[index - ruled] for part in self.answers)
        return self._record(self._pair(scene), int(index) + 1, self.profiles[user], bool(swapped))

    def __iter__(self) -> Iterator[SageRecord]:
        """As by number, each pair read once."""
        for scene in range(self.by_rule):
            pair = self._pair(scene)
            for user, profile in enumerate(self.profiles):
                yield self._record(pair, scene * self.users + user + 1, profile, bool(self._swapped(scene, user)))
        yield from (self[index] for index in range(self.by_rule * self.users, len(self)))

    def scene(self, number: int) -> Scene:
        pair = self._pair(number)
        return Scene(_pictures(self.folder.parent, pair), pair.shows, f"pair {pair.id} of {PAIRS}", _plain(pair))

    def examples(self) -> Examples:
        scenes = np.repeat(np.arange(self.by_rule, dtype=np.int32), self.users)
        users = np.tile(np.arange(self.users, dtype=np.int32), self.by_rule)
        parts = Examples(scenes, users, self._swapped(scenes, users)), self.answers
        return Examples(*(np.concatenate(of) for of in zip(*parts, strict=True)))

    def _swapped(self, scenes: Any, users: Any) -> Any:
        """By rule: whether the picture that shows the concept is chosen."""
        return ~self._bans[users, self.category_ids[scenes]]

    @cached_property
    def _bans(self) -> np.ndarray:
        """(users, categories and one more): who bans what. The last stands for none: there is one picture alone."""
        rows = [[category in user.banned_categories for category in CATEGORIES] for user in self.profiles]
        return np.array([[*row, True] for row in rows], bool)

    def _pair(self, scene: int) -> PicturePair:
        return _read_pair(self.folder.parent, self.offsets[scene])

    def _record(self, pair: PicturePair, line: int, profile: UserProfile, swapped: bool) -> PairRecord:
        first, second = _pictures(self.folder.parent, pair)
        chosen, rejected = (second, first) if swapped else (first, second)
        return PairRecord(line, chosen, rejected, pair.shows, profile, _plain(pair), pair=pair, safe=first)


def read_compact_split(
    folder: Path | str, name: str, skip_bad: bool = False, embeddings: Path | str | None = None
) -> CompactSplit:
    """Check every pair of a split, its pictures included (each is decoded once), and its users.

    Args and errors: as `read_split`'s.
    """
    root = Path(folder)
    description = read_description(root)
    if description.get("labels") == JUDGE and not has_judges_answers(root, description):
        raise PSAError(
            f"Who prefers which picture in {folder} a judge said, and {JUDGED} is not there, or not all of it. Put it "
            "back, or build the data set again with the same settings."
        )
    bad = _Bad(skip_bad)
    users, profiles = _users(root, name, StoredUsers(embeddings), bad)
    index = _PairIndex(root, bad)
    ruled, answered = _members(root / name, name, users, index, bad)
    numbers, first = np.unique(np.array(answered.scenes, np.int64), return_inverse=True)
    rows = np.concatenate([np.array(ruled, np.int64), numbers])
    whole, categories = _checked(root, index, rows, bad)
    renumbered = (np.cumsum(whole) - 1).astype(np.int32)
    by_rule = int(whole[: len(ruled)].sum())
    scenes = len(ruled) + first
    kept = whole[scenes] if len(scenes) else np.zeros(0, bool)
    people, swapped = np.array(answered.users, np.int32)[kept], np.array(answered.swapped, np.int8)[kept]
    if by_rule * len(profiles) > MOST_RECORDS:
        raise PSAError(
            f"The split '{name}' in {folder} stands for {by_rule * len(profiles):,} records, and more than "
            f"{MOST_RECORDS:,} are not read. Take pairs or users out."
        )
    if not by_rule:  # who is in no record is nobody of this split
        used, people = np.unique(people, return_inverse=True)
        profiles = [profiles[user] for user in used]
    answers = Examples(renumbered[scenes[kept]], people.astype(np.int32), swapped.astype(bool))
    categories = categories[whole]
    if not (by_rule and profiles) and not len(answers.scenes):
        if index.aside_used and not len(rows) and not bad.sentences:
            raise EmptySplitError(
                f"All {index.aside_used} picture pairs of the split '{name}' in {folder} are set aside, so it has no "
                "usable record. Build the data set without a judge, or with another one, or take another split."
            )
        left_out = f" ({len(bad.sentences)} bad ones were left out)" if bad.sentences else ""
        raise PSAError(f"The split '{name}' in {folder} has no usable record{left_out}. Check its {PAIRS} and {USERS}.")
    counts = np.bincount(categories[:by_rule] + 1, minlength=len(CATEGORIES) + 1) * len(profiles)
    counts += np.bincount(categories[answers.scenes] + 1, minlength=len(CATEGORIES) + 1)
    return CompactSplit(
        root / name,
        index.offsets[rows[whole]],
        categories,
        by_rule,
        answers,
        profiles,
        Counter({category: int(count) for category, count in zip(CATEGORIES, counts[1:], strict=True) if count}),
        bad.sentences,
        list(_notes(root, name, description, index.aside_used)),
        HARMLESS if name != HARMLESS and (root / HARMLESS / PAIRS).is_file() else None,
    )


def _notes(root: Path, name: str, description: Mapping[str, Any], aside: int) -> Iterator[str]:
    if aside:
        yield f"{name}: {aside} picture pairs are set aside."
    for listed in (f"{name}/{PAIRS}", USERS):
        there, written = lines_in(root / listed), lines_written(description, listed)
        if written is not None and there < written:
            yield (
                f"{name}: {listed} has {there} of the {written} lines that it was written with. If nobody took them "
                "out, take the file away and build the data set again with the same settings."
            )


class _Bad:
    """What is wrong: raised at once, or with `skip_bad` collected."""

    def __init__(self, skip_bad: bool) -> None:
        self._skip_bad, self.sentences = skip_bad, list[str]()

    def __call__(self, sentence: str) -> None:
        if not self._skip_bad:
            raise PSAError(sentence)
        self.sentences.append(sentence)


class _PairIndex:
    """Where in `pairs.jsonl` which pair stands: 17 bytes a pair."""

    def __init__(self, root: Path, bad: _Bad) -> None:
        ids, offsets, aside = array("Q"), array("q"), array("b")
        for number, offset, data in numbered_lines(root / PAIRS, "file of picture pairs"):
            try:
                if isinstance(data, PSAError):
                    raise data
                pair = PicturePair.of_line(data)
            except PSAError as error:
                bad(f"{PAIRS}, line {number}: {error}")
                continue
            ids.append(int(pair.id, 16))
            offsets.append(offset)
            aside.append(pair.set_aside is not None)
        order = np.argsort(np.array(ids, np.uint64), kind="stable") if ids else np.zeros(0, np.int64)
        self._ids = np.array(ids, np.uint64)[order]
        self.offsets, self._aside = np.array(offsets, np.int64)[order], np.array(aside, np.int8)[order]
        twice = np.flatnonzero(self._ids[1:] == self._ids[:-1])
        if len(twice):
            bad(f"{PAIRS}: the pair {int(self._ids[twice[0]]):016x} is there twice. Remove one of the two.")
        self.aside_used = 0

    def row(self, name: Any) -> int | None:
        """The place of the pair in `offsets`; `None` where it is set aside.

        Raises:
            PSAError: for a pair that is not there.
        """
        try:
            key = int(name, 16) if isinstance(name, str) and len(name) == 16 else -1
        except ValueError:
            key = -1
        place = int(np.searchsorted(self._ids, np.uint64(key))) if key >= 0 else len(self._ids)
        if place == len(self._ids) or int(self._ids[place]) != key:
            raise PSAError(f"there is no pair {shown(str(name), 40)} in {PAIRS}. Put that file back as it was written.")
        if self._aside[place]:
            self.aside_used += 1
            return None
        return place


def _users(root: Path, name: str, stored: StoredUsers, bad: _Bad) -> tuple[dict[str | None, int], list[UserProfile]]:
    """The split's users by User_ID, as numbers, and their profiles."""
    profiles = []
    for profile, splits in read_users(root):
        if name not in splits:
            continue
        if problem := stored.problem(profile):
            bad(f"{name}: {problem}")
            continue
        profiles.append(profile)
    return {profile.user_id: number for number, profile in enumerate(profiles)}, profiles


def _members(
    split: Path, name: str, users: dict[str | None, int], index: _PairIndex, bad: _Bad
) -> tuple[array, Examples]:
    """The rows of pairs that go by rule with everyone, and of those that go by an answer, with whom and which."""
    ruled, scenes, people, swapped = array("q"), array("q"), array("i"), array("b")
    for number, _, data in numbered_lines(split / PAIRS, f"list of the split '{name}'", split.parent):
        try:
            if isinstance(data, PSAError):
                raise data
            if not isinstance(data, dict) or "pair" not in data:
                raise PSAError('this is not a JSON object such as {"pair": "0123456789abcdef"}.')
            row = index.row(data["pair"])
            answer = data.get("chosen", SHOWS)
            if answer not in (SHOWS, WITHOUT) or ("chosen" in data) != ("user" in data):
                raise PSAError("an answer needs 'user' and 'chosen', which is 'shows' or 'without'.")
            if "user" in data and (not isinstance(data["user"], str) or data["user"] not in users):
                raise PSAError("the user is none of the split's in users.jsonl.")
        except PSAError as error:
            bad(f"{name}/{PAIRS}, line {number}: {error}")
            continue
        if row is None:
            continue
        if "user" in data:
            scenes.append(row)
            people.append(users[data["user"]])
            swapped.append(answer == SHOWS)
        else:
            ruled.append(row)
    pairs, answered = np.array(ruled, np.int64), np.array(scenes, np.int64)
    records = answered * (len(users) + 1) + np.array(people, np.int64)
    if any(len(np.unique(each)) < len(each) for each in (pairs, records)) or np.isin(pairs, answered).any():
        raise PSAError(f"{name}/{PAIRS} names a record twice. Put the file back as it was written.")
    return ruled, Examples(scenes, people, swapped)  # type: ignore[arg-type]


def _checked(root: Path, index: _PairIndex, rows: np.ndarray, bad: _Bad) -> tuple[np.ndarray, np.ndarray]:
    """(S,): which pairs have both their pictures whole, and their categories' numbers."""
    whole, categories = np.zeros(len(rows), bool), np.full(len(rows), -1, np.int8)
    check_picture = PictureChecks()

    def check(place: int) -> tuple[PicturePair, str | None]:
        pair = _read_pair(root, index.offsets[rows[place]])
        try:
            for path in dict.fromkeys(_pictures(root, pair)):
                check_picture(path)
        except PSAError as error:
            return pair, f"{PAIRS}, pair {pair.id}: {error}"
        return pair, None

    places = iter(range(len(rows)))
    with ThreadPoolExecutor(_READERS) as pool:
        while chunk := list(islice(places, _CHUNK)):
            for place, (pair, problem) in zip(chunk, pool.map(check, chunk), strict=True):
                if problem:
                    bad(problem)
                    continue
                whole[place] = True
                if pair.category is not None:
                    categories[place] = CATEGORIES.index(pair.category)
    return whole, categories


def _read_pair(root: Path, offset: int) -> PicturePair:
    """The pair that was at this place of `pairs.jsonl`; raises PSAError where it is there no more."""
    try:
        with open(root / PAIRS, "rb") as file:
            file.seek(offset)
            return PicturePair.of_line(parse_json(file.readline()))
    except (FileNotFoundError, ValueError):
        raise PSAError(f"{root / PAIRS} has changed since it was read. Read it again.") from None


def _plain(pair: PicturePair) -> str:
    """The caption without the concept; none of a harmless scene, which has no other picture."""
    return pair.without if pair.category and pair.without != pair.shows else ""


def _pictures(root: Path, pair: PicturePair) -> tuple[Path, Path]:
    """Of `without` and of `shows`: the first is chosen where the category is banned."""
    first, second = (inside(root, pair.pictures[number], root, "the data set's folder") for number in (1, 0))
    return first, second
