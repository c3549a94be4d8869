"""The data set's folder: what it is to hold is written first, and its lists last."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..dataset.answers import JUDGED, Answer
from ..dataset.pair_files import (
    DESCRIPTION,
    FORMAT,
    HARMLESS,
    PAIRS,
    PICTURES,
    WITHOUT,
    PicturePair,
    numbered_lines,
    read_description,
    write_users,
)
from ..errors import PSAError
from ..files import atomic_path, shown, sweep_parts
from ..generate.run import digest
from ..json_lines import write_objects
from ..locks import locked_folder
from ..profile import UserProfile
from .plan import SPLITS, Plan, harmless_records

VIRTUAL = "virtual users only: nobody in this data set is a real person"
_UNREADABLE = ("prompts", "users", "model", "list", "held_out_concepts")  # too long to read


def description(plan: Plan, users: Sequence[UserProfile], seed: int, made: Mapping[str, Any], **said: Any) -> dict:
    """What stands in `dataset.json`.

    Args:
        made: how the pictures come to be, such as the model's hash and the settings.
        said: what else somebody says of the data set: its licence, the users' rules, the judge.
    """
    pairs = [[pair.id, pair.asked, pair.made_by] for pair in plan.pairs]
    return {
        "format": FORMAT,
        "people": VIRTUAL,
        **said,
        "seed": seed,
        "held_out_concepts": plan.held_out,
        "prompts": digest(pairs),
        "users": digest([user.to_dict() for user in users]),
        **made,
    }


@contextmanager
def claimed(folder: Path, described: Mapping[str, Any]) -> Iterator[None]:
    """Within the block the folder is this process's alone, and is or becomes the data set that is `described`.

    Raises:
        PSAError: where it holds another one, naming what differs, or something else; where another process builds in
            it; or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PSAError(f"The folder {folder} cannot be made: {error.strerror}. Choose another one.") from error
    with locked_folder(folder, "building a data set in"):
        sweep_parts(folder)
        if (folder / DESCRIPTION).exists():
            differing = _differences(read_description(folder), described)
            if differing:
                raise PSAError(
                    f"{folder} holds another data set. What differs: {', '.join(differing)}. Use the same again to go "
                    "on, or choose another folder."
                )
        elif strange := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise PSAError(
                f"{folder} holds {strange[0]}, and no dataset.json that says what it is. Choose a new folder."
            )
        else:
            with atomic_path(folder / DESCRIPTION) as temporary:
                temporary.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / PICTURES).mkdir(exist_ok=True)
        yield


def is_finished(folder: Path) -> bool:
    """Whether the lists are written: the pairs' own is the last."""
    return (folder / PAIRS).is_file()


def finish(
    folder: Path, plan: Plan, aside: Mapping[str, str], label: str, answers: Sequence[Answer] | None = None
) -> None:
    """Write the lists. `aside` says of pairs, by id, why they are set aside; `answers` are a judge's, where it says who
    prefers which."""
    for name in SPLITS:
        if plan.splits[name] and plan.people(name):
            write_objects(folder / name / PAIRS, _members(plan, name))
    write_users(folder, plan.users)
    if answers is not None:
        with atomic_path(folder / JUDGED) as temporary:
            temporary.write_bytes(b"".join(answer.to_line() for answer in answers))
    write_objects(folder / PAIRS, (_listed(pair, aside.get(pair.id), label) for pair in plan.pairs))


def set_aside(folder: Path) -> dict[str, str]:
    """By id, why pairs of a finished data set are set aside."""
    pairs = (PicturePair.of_line(data) for _, _, data in numbered_lines(folder / PAIRS, "file of picture pairs"))
    return {pair.id: pair.set_aside for pair in pairs if pair.set_aside is not None}


def _members(plan: Plan, name: str) -> Iterator[dict[str, str]]:
    if name != HARMLESS:
        return ({"pair": pair.id} for pair in plan.splits[name])
    records = harmless_records(plan.splits[name], plan.people(name))
    return ({"pair": pair.id, "user": str(user.user_id), "chosen": WITHOUT} for pair, user in records)


def _listed(pair: PicturePair, reason: str | None, label: str) -> dict[str, Any]:
    return {**pair.line(), "label": label, "set_aside": reason}


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, with both values where they are readable ones."""
    told = []
    for name in dict.fromkeys([*there, *now]):
        before, value = there.get(name), now.get(name)
        if before != json.loads(json.dumps(value)):
            both = f"{shown(str(before), 60)} there, {shown(str(value), 60)} now"
            told.append(f"the {name}" if name in _UNREADABLE else f"{shown(name, 40)} ({both})")
    return told
