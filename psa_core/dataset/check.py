"""A look at a whole data set: what is in it, and what would spoil a training or a measurement with it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EmptySplitError, PSAError
from ..files import shown
from ..json_text import digest
from ..schema import in_file_name
from ..spelling import plain_text
from .answers import picture_name
from .check_result import LEAKAGE, NOTE, UNREADABLE, DatasetCheck, Finding, SplitCounts
from .lists import settle, unchanged
from .lookalikes import groups, require_imagehash
from .pair_files import DESCRIPTION, NOT_STATED, USERS, description_of_any_form, read_users
from .reading import read_split, refuse_unfinished, split_file
from .scan import Pictures, Scan, scan_pictures, scan_scenes

TRAINED_ON, HELD_OUT, UNSEEN = ("train", "harmless"), ("val", "test_seen", "test_unseen"), "test_unseen"
_ORDER = ("train", *HELD_OUT, "harmless")
_TINY_SIDE = 64  # pixels
_NAMED = 3  # lines and files that a sentence names
OnProgress = Callable[[str, int, int], None]
"""Called with what is looked at, how many of it are done, and of how many."""


def check_dataset(
    folder: Path | str, users: Path | str | None = None, progress: OnProgress | None = None
) -> DatasetCheck:
    """Read all splits of a data set, their pictures included.

    Time grows with the records and the pictures, memory by some dozen bytes for each. Pictures that look alike are
    found with the extra `check` alone; without it a note says so.

    Args:
        users: a file such as Sage's `users.csv`, as `read_split` takes it.

    Raises:
        PSAError: where there is no data set in the folder, or another process replaces its lists meanwhile.
    """
    folder = Path(folder)
    settle(folder)
    refuse_unfinished(folder)
    names = split_names(folder)
    if not names:
        raise PSAError(
            f"There is no data set in {folder}: no folder such as train with metadata.jsonl or pairs.jsonl. Check "
            "the path."
        )
    with unchanged(folder, *(split_file(folder, name) for name in names)):
        return _checked(folder, names, users, progress)


def split_names(folder: Path | str) -> list[str]:
    """The splits in a data set's folder, in the order in which one reads them."""
    with suppress(PSAError):  # whoever reads one is told
        settle(folder)
    with suppress(OSError, ValueError):  # a NUL in the name, too
        names = (path.name for path in Path(folder).iterdir() if not path.name.startswith("."))
        found = {name for name in names if split_file(folder, name).is_file()}
        return [name for name in _ORDER if name in found] + sorted(found - set(_ORDER))
    return []


def _checked(folder: Path, names: list[str], users: Path | str | None, progress: OnProgress | None) -> DatasetCheck:
    findings: list[Finding] = []
    description = _description(folder, findings)
    licence = description.get("licence", description.get("license"))
    if not isinstance(licence, str) or licence.strip() in ("", NOT_STATED):
        licence = None
        findings.append(_note("licence", 'No licence is given. Write it into dataset.json, as "licence".'))
    findings += _lost_lists(folder, names, description)
    scans = list(_scans(folder, names, users, findings, progress))
    findings += [*_user_leaks(scans), *_caption_leaks(scans), *_concept_leaks(scans, description)]
    pictures, look_alike, alike_files = {}, None, list[list[str]]()
    if scans:
        with_looks = _can_compare(findings)
        seen = scan_pictures(scans, with_looks, _telling(progress, "pictures"))
        findings += [*_picture_leaks(scans, seen), *_poor_pictures(scans, seen)]
        sides = seen.sides.tolist()
        pictures = {"pictures": len(sides), "shortest_side": min(sides), "longest_short_side": max(sides)}
        if with_looks:
            look_alike, alike_files = _look_alikes(scans, seen)
    counted = [_counted(scan) for scan in scans]
    return DatasetCheck(folder.resolve().name, licence, counted, pictures, look_alike, findings, alike_files)


def _lost_lists(folder: Path, names: list[str], description: Mapping[str, Any]) -> Iterator[Finding]:
    """Splits that a built data set's users belong to and that have no list, and users who are not those it was built
    for."""
    if not (folder / USERS).is_file():
        return
    try:
        users = read_users(folder)
    except PSAError:  # reading a split says it
        return
    for name in sorted({name for _, splits in users for name in splits} - set(names)):
        sentence = f"There is no list of the split '{name}'. Build the data set again with the same settings."
        yield Finding(UNREADABLE, "split", 1, sentence)
    if description.get("users") not in (None, digest([user.to_dict() for user, _ in users])):
        yield _note(
            "users",
            f"{USERS} has other users than dataset.json was written for. Put it back, or take it away "
            "and build the data set again with the same settings.",
        )


def _scans(
    folder: Path, names: list[str], users: Path | str | None, findings: list[Finding], progress: OnProgress | None
) -> Iterator[Scan]:
    for name in names:
        try:
            split = read_split(folder, name, skip_bad=True, users=users)
        except EmptySplitError as error:
            findings.append(_note("split", str(error)))
            continue
        except PSAError as error:
            findings.append(Finding(UNREADABLE, "split", 1, str(error)))
            continue
        findings += (_note("records", note) for note in split.notes)
        if split.skipped:
            more = f" And {len(split.skipped) - _NAMED} more." if len(split.skipped) > _NAMED else ""
            sentence = f"{_many(len(split.skipped), 'record')} of {name} cannot be used. "
            sentence += " ".join(split.skipped[:_NAMED]) + more
            findings.append(Finding(UNREADABLE, "records", len(split.skipped), sentence))
        yield scan_scenes(split, _telling(progress, f"records of {name}"))


def _telling(progress: OnProgress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def _description(folder: Path, findings: list[Finding]) -> Mapping[str, Any]:
    """What dataset.json says, where there is one."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return {}
    data = description_of_any_form(path)
    if data is None:
        sentence = f"{DESCRIPTION} is no JSON object in UTF-8. Write it again, or take it away."
        findings.append(Finding(UNREADABLE, DESCRIPTION, 1, sentence))
    return data or {}


def _counted(scan: Scan) -> SplitCounts:
    per_user = Counter(scan.per_user.tolist())
    return SplitCounts(scan.split.name, len(scan.split), len(scan.scenes), len(scan.users), per_user, scan.counts)


def _note(what: str, sentence: str, count: int = 0) -> Finding:
    return Finding(NOTE, what, count, sentence)


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _leak(what: str, count: int, sentence: str) -> Finding:
    return Finding(LEAKAGE, what, count, sentence)


def _user_leaks(scans: Sequence[Scan]) -> Iterator[Finding]:
    """Users of `test_unseen` are in no other split."""
    for unseen in (scan for scan in scans if scan.split.name == UNSEEN):
        for other in scans:
            count = len(np.intersect1d(unseen.users, other.users))
            if other is not unseen and count:
                yield _leak(
                    "users",
                    count,
                    f"{count} of the {len(unseen.users)} users of {UNSEEN} are in {other.split.name}, too. Take them "
                    "out of one of the two: unseen users are to be new to the adapter.",
                )


def _pairs_of_splits(scans: Sequence[Scan]) -> Iterator[tuple[Scan, Scan]]:
    """(held out, trained on): what may have nothing in common."""
    for held_out in (scan for scan in scans if scan.split.name in HELD_OUT):
        for trained_on in (scan for scan in scans if scan.split.name in TRAINED_ON):
            yield held_out, trained_on


def _caption_leaks(scans: Sequence[Scan]) -> Iterator[Finding]:
    for held_out, trained_on in _pairs_of_splits(scans):
        same = np.isin(held_out.prompts, trained_on.prompts)
        if same.any():
            count = len(np.unique(held_out.prompts[same]))
            yield _leak(
                "captions",
                count,
                f"{_many(count, 'prompt')} of {held_out.split.name} "
                f"{'is' if count == 1 else 'are'} in {trained_on.split.name}, too "
                f"({_places(held_out, np.flatnonzero(same.any(1)))}). "
                "Take their pairs out of one of the two.",
            )


def _picture_leaks(scans: Sequence[Scan], pictures: Pictures) -> Iterator[Finding]:
    for held_out, trained_on in _pairs_of_splits(scans):
        own, theirs = (pictures.of(scan) for scan in (held_out, trained_on))
        theirs = pictures.pixels[theirs[~pictures.blank[theirs]]]
        same = np.isin(pictures.pixels[own], theirs) & ~pictures.blank[own]
        if same.any():
            count = len(np.unique(pictures.pixels[own[same]]))
            yield _leak(
                "pictures",
                count,
                f"{_many(count, 'picture')} of {held_out.split.name} {'shows' if count == 1 else 'show'} exactly what "
                f"one of {trained_on.split.name} does ({_places(held_out, np.flatnonzero(same.any(1)))}). Take their "
                "pairs out of one of the two.",
            )


def _concept_leaks(scans: Sequence[Scan], description: Mapping[str, Any]) -> Iterator[Finding]:
    """What dataset.json says is held out (`held_out_concepts`: category -> concepts) stands in `test_unseen` alone."""
    listed = description.get("held_out_concepts")
    lists = listed.items() if isinstance(listed, dict) else ()
    each = (name for _, names in lists if isinstance(names, list) for name in names)
    held_out = {_as_compared(name) for name in each if isinstance(name, str)}
    for scan in scans:
        found_of: dict[str, set[str]] = {}
        for category, concept, _ in scan.counts:
            if category and concept and _as_compared(concept) in held_out and scan.split.name != UNSEEN:
                found_of.setdefault(category, set()).add(concept)
        for category, concepts in found_of.items():
            found = sorted(concepts)
            yield _leak(
                "concepts",
                len(found),
                f"{_many(len(found), 'concept')} of {shown(category, 40)} that dataset.json says to be held out "
                f"{'is' if len(found) == 1 else 'are'} in {scan.split.name}: {_listed(found)}. Take them out.",
            )


def _as_compared(concept: str) -> str:
    """As file names have it in Sage's form, however it is spelt."""
    return plain_text(in_file_name(concept))


def _poor_pictures(scans: Sequence[Scan], pictures: Pictures) -> Iterator[Finding]:
    poor = {
        "tiny": (pictures.sides < _TINY_SIDE, f"less than {_TINY_SIDE} pixels high or wide"),
        "blank": (pictures.blank, "of one colour throughout"),
    }
    for what, (which, words) in poor.items():
        if which.any():
            named = [name for scan in scans for name in _names(scan, which[pictures.of(scan)])]
            yield _note(what, f"{_many(int(which.sum()), 'picture')} {words}: {_listed(named)}.", int(which.sum()))
    for scan in scans:
        content = pictures.pixels[pictures.of(scan)]
        of_two = scan.pictures[:, 0] != scan.pictures[:, 1]  # a harmless scene may be one picture
        equal = np.flatnonzero(of_two & (content[:, 0] == content[:, 1]))
        if len(equal):
            yield _note(
                "equal pictures",
                f"{_many(len(equal), 'pair')} of {scan.split.name} with the same picture twice, from which nothing can "
                f"be learned ({_places(scan, equal)}).",
                len(equal),
            )


def _can_compare(findings: list[Finding]) -> bool:
    try:
        require_imagehash()
    except PSAError as error:
        findings.append(_note("look-alikes", f"Pictures that look alike were not looked for. {error}"))
        return False
    return True


def _look_alikes(scans: Sequence[Scan], pictures: Pictures) -> tuple[dict[str, int], list[list[str]]]:
    """Pictures that look like one of another pair, counted, and their files by group; a pair's own two always look
    alike."""
    assert pictures.looks is not None
    group_of = groups(pictures.looks)
    group_of[pictures.blank] = group_of.max(initial=0) + 1 + np.arange(pictures.blank.sum())
    found = [group_of[pictures.of(scan)] for scan in scans]
    pairs_in = np.zeros(group_of.max(initial=0) + 1, np.int64)
    for each in found:
        pairs_in += np.bincount(each[:, 0], minlength=len(pairs_in))
        pairs_in += np.bincount(each[each[:, 0] != each[:, 1], 1], minlength=len(pairs_in))
    shared = pairs_in > 1
    trained_on = np.zeros(len(pairs_in), bool)
    for scan, each in zip(scans, found, strict=True):
        if scan.split.name in TRAINED_ON:
            trained_on[each] = True
    counts = {"pictures_that_look_alike": int(shared[group_of].sum()), "groups_of_them": int(shared.sum())}
    for scan, each in zip(scans, found, strict=True):
        if scan.split.name in HELD_OUT and trained_on.any():
            counts[f"pairs_of_{scan.split.name}_like_trained_ones"] = int((trained_on & shared)[each].any(1).sum())
    return counts, _alike_files(scans, pictures, group_of, shared)


def _alike_files(
    scans: Sequence[Scan], pictures: Pictures, group_of: np.ndarray, shared: np.ndarray
) -> list[list[str]]:
    """The files of each group that several pairs share, by their paths in the data set's folder."""
    found: dict[int, list[str]] = {}
    told = np.zeros(len(group_of), bool)
    for scan in scans:
        of = pictures.of(scan)
        for row, side in np.argwhere(shared[group_of[of]]).tolist():
            number = int(of[row, side])
            if not told[number]:
                told[number] = True
                path = scan.scene(row).pictures[side]
                found.setdefault(int(group_of[number]), []).append(picture_name(path, scan.split.folder.parent))
    return list(found.values())


def _places(scan: Scan, rows: np.ndarray) -> str:
    return _listed([scan.scene(row).where for row in rows[:_NAMED]], len(rows))


def _names(scan: Scan, which: np.ndarray) -> list[str]:
    """The first files that a mask (S, 2) names, in their split's folder."""
    places = np.argwhere(which)[: _NAMED + 1].tolist()
    return [f"{scan.split.name}: {scan.scene(row).pictures[side].name}" for row, side in places]


def _listed(names: Sequence[str], count: int | None = None) -> str:
    more = " and others" if (len(names) if count is None else count) > _NAMED else ""
    return ", ".join(shown(name) for name in names[:_NAMED]) + more
