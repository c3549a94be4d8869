"""The data set's folder: what it is to hold is written first, and its lists last.

`dataset.json` says two kinds of things. What pictures depend on stays as it is: another request is refused. What is
said of them, and who looks at them, may change: then the lists are written anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..dataset.answers import JUDGED, Answer, has_judges_answers
from ..dataset.lists import new_lists, place_lists
from ..dataset.pair_files import (
    DESCRIPTION,
    FORMAT,
    HARMLESS,
    JUDGE,
    MAX_DESCRIPTION,
    NOT_STATED,
    PAIRS,
    PICTURES,
    USERS,
    WITHOUT,
    PicturePair,
    lines_in,
    numbered_lines,
    read_description,
    write_users,
)
from ..errors import PSAError
from ..files import atomic_path, shown, sweep_parts
from ..json_lines import write_objects
from ..json_text import digest
from ..locks import locked_folder
from ..profile import UserProfile
from .plan import SPLITS, Plan, harmless_records

VIRTUAL = "virtual users only: nobody in this data set is a real person"
GIVEN = "users of a file that this pack did not draw: whoever gave it answers for whether they are real people"
_SAID = ("people", "licence", "rules", "labels", "judge", "held_out_concepts", "users")  # no picture depends on these
_BATCH = "batch_size"
_UNREADABLE = ("prompts", "people", "users", "model", "list", "held_out_concepts")  # too long to read


class Claim(NamedTuple):
    """What stands in `dataset.json` once the lists are written, and which of it was otherwise before."""

    described: Mapping[str, Any]
    changed: list[str]


def description(plan: Plan, users: Sequence[UserProfile], seed: int, made: Mapping[str, Any], **said: Any) -> dict:
    """What is to stand in `dataset.json`.

    Args:
        made: how the pictures come to be, such as the model's hash and the settings.
        said: what else is said of the data set: its licence, who its people are and by which rules they ban, the judge.

    Raises:
        PSAError: for what is no text, or too much.
    """
    pairs = [[pair.id, pair.asked, pair.made_by] for pair in plan.known_by]
    described = {
        "format": FORMAT,
        **said,
        "seed": seed,
        "held_out_concepts": plan.held_out,
        "prompts": digest(pairs),
        "users": digest([user.to_dict() for user in users]),
        **made,
    }
    _text(described)  # what cannot be written is told before anything is drawn or judged
    return described


@contextmanager
def claimed(folder: Path, described: Mapping[str, Any], mixed_batches: bool = False) -> Iterator[Claim]:
    """Within the block the folder is this process's alone, and its pictures are or become those that are `described`.

    What else is said in its `dataset.json` stands until the lists are written. What somebody added there stays. Before
    the first picture nothing of it counts but a licence.

    Args:
        mixed_batches: go on with pictures that were drawn so many at a time as they are not now.

    Raises:
        PSAError: where it holds other pictures, naming what differs, or something else; where another process builds in
            it; or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PSAError(f"The folder {folder} cannot be made: {error.strerror}. Choose another one.") from error
    with locked_folder(folder, "building a data set in"):
        sweep_parts(folder)
        place_lists(folder)
        there = read_description(folder) if (folder / DESCRIPTION).exists() else None
        if there is not None and ((folder / PAIRS).exists() or _has_pictures(folder)):
            claim = _continued(folder, there, described, mixed_batches)
            if claim.described.get(_BATCH) != there.get(_BATCH):  # before anything is drawn
                _write(folder, {**there, _BATCH: claim.described[_BATCH]})
        elif there is None and (strange := sorted(path.name for path in folder.iterdir() if path.name[0] != ".")):
            raise PSAError(
                f"{folder} holds {strange[0]}, and no dataset.json that says what it is. Choose a new folder."
            )
        else:
            merged = _merged(there or {}, described)
            claim = Claim({name: merged[name] for name in described}, [])
            _write(folder, claim.described)
        (folder / PICTURES).mkdir(exist_ok=True)
        yield claim


def _has_pictures(folder: Path) -> bool:
    return (folder / PICTURES).is_dir() and any((folder / PICTURES).iterdir())


def is_finished(folder: Path, described: Mapping[str, Any], plan: Plan) -> bool:
    """Whether the lists are there, all of them, and a judge's answers whole: from the others people take lines out."""
    lists = [PAIRS, USERS, *(f"{name}/{PAIRS}" for name in _listed_in(plan))]
    if not all((folder / name).is_file() for name in lists):
        return False
    return described["labels"] != JUDGE or has_judges_answers(folder, read_description(folder))


def is_current(folder: Path, described: Mapping[str, Any], plan: Plan) -> bool:
    """Whether the lists are those of what is `described`, so that nobody has to look at a picture for them."""
    if not is_finished(folder, described, plan):
        return False
    there = read_description(folder)
    return not _differences(there, _merged(there, described), _SAID)


def finish(
    folder: Path,
    described: Mapping[str, Any],
    plan: Plan,
    aside: Mapping[str, str],
    label: str,
    answers: Sequence[Answer] | None = None,
) -> None:
    """Write the lists and what is `described`, all together. `aside` says of pairs, by id, why they are set aside;
    `answers` are a judge's, where it says who prefers which."""
    with new_lists(folder) as new:
        for name in _listed_in(plan):
            write_objects(new / name / PAIRS, _members(plan, name))
        write_users(new, plan.users)
        if answers is not None:
            with atomic_path(new / JUDGED) as temporary:
                temporary.write_bytes(b"".join(answer.to_line() for answer in answers))
        write_objects(new / PAIRS, (_listed(pair, aside.get(pair.id), label) for pair in plan.pairs))
        lists = sorted(path.relative_to(new).as_posix() for path in new.rglob("*.jsonl"))
        _write(new, {**described, "lists": {name: lines_in(new / name) for name in lists}})


def _listed_in(plan: Plan) -> list[str]:
    """The splits that have a list."""
    return [name for name in SPLITS if plan.splits[name] and plan.people(name)]


def set_aside(folder: Path) -> dict[str, str]:
    """By id, why pairs of a finished data set are set aside."""
    pairs = (PicturePair.of_line(data) for _, _, data in numbered_lines(folder / PAIRS, "file of picture pairs"))
    return {pair.id: pair.set_aside for pair in pairs if pair.set_aside is not None}


def _write(folder: Path, described: Mapping[str, Any]) -> None:
    with atomic_path(folder / DESCRIPTION) as temporary:
        temporary.write_bytes(_text(described))


def _text(described: Mapping[str, Any]) -> bytes:
    try:
        text = (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        raise PSAError(
            f"{DESCRIPTION} would hold what is no text: the licence, the negative prompt or a name. Write it in UTF-8."
        ) from error
    if len(text) > MAX_DESCRIPTION:
        raise PSAError(
            f"{DESCRIPTION} would be larger than {MAX_DESCRIPTION:,} bytes: it names each concept that is held out. "
            "Use fewer concepts."
        )
    return text


def _continued(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any], mixed_batches: bool) -> Claim:
    """The claim on a data set that is begun; raises PSAError where its pictures are others."""
    if mixed_batches and _BATCH in now:
        sizes = there.get(_BATCH)
        sizes = sizes if isinstance(sizes, list) else [sizes]
        now = {**now, _BATCH: there.get(_BATCH) if now[_BATCH] in sizes else [*sizes, now[_BATCH]]}
        there = {**there, _BATCH: now[_BATCH]}
    if differing := _differences(there, now, [name for name in now if name not in _SAID]):
        only_size = len(differing) == 1 and differing[0].startswith(f"{_BATCH} (")
        raise PSAError(
            f"{folder} holds another data set. What differs: {', '.join(differing)}. "
            + (
                "Of another batch size, pictures differ by rounding: use the same again to go on, let one data set "
                "hold both (psa build-dataset --mixed-batches), or choose another folder."
                if only_size
                else "Use the same again to go on, or choose another folder."
            )
        )
    merged = _merged(there, now)
    return Claim(merged, _differences(there, merged, _SAID))


def _merged(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What is there with what is said now; a licence that somebody wrote down stays where none is given now."""
    merged = {**there, **json.loads(json.dumps(now))}
    if merged.get("licence") == NOT_STATED and there.get("licence"):
        merged["licence"] = there["licence"]
    return merged


def _members(plan: Plan, name: str) -> Iterator[dict[str, str]]:
    if name != HARMLESS:
        return ({"pair": pair.id} for pair in plan.splits[name])
    records = harmless_records(plan.splits[name], plan.people(name))
    return ({"pair": pair.id, "user": str(user.user_id), "chosen": WITHOUT} for pair, user in records)


def _listed(pair: PicturePair, reason: str | None, label: str) -> dict[str, Any]:
    return {**pair.line(), "label": label, "set_aside": reason}


def _differences(there: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Which of these differ, with both values where they are readable ones."""
    told = []
    for name in names:
        before, value = there.get(name), now.get(name)
        if before != json.loads(json.dumps(value)):
            both = f"{shown(str(before), 60)} there, {shown(str(value), 60)} now"
            told.append(f"the {name}" if name in _UNREADABLE else f"{shown(name, 40)} ({both})")
    return told
