"""A split of preference pairs, in whichever form its folder has it."""

import os
from pathlib import Path
from typing import Any

from ..errors import EmptySplitError, PSAError
from .answered import with_answers
from .compact import read_compact_split
from .lists import settle, unchanged
from .pair_files import PAIRS, PICTURES, read_description
from .sage import read_sage_split
from .split import PairSplit


def read_split(
    folder: Path | str,
    name: str,
    skip_bad: bool = False,
    embeddings: Path | str | None = None,
    users: Path | str | None = None,
    answers: bool = True,
) -> PairSplit:
    """Check every record of a split, pictures included (each is decoded at low resolution), and index it.

    A folder that holds both forms is read in the compact one, which stands for the same records.

    Args:
        folder: the dataset's folder, which holds the splits' folders.
        name: `train`, `val`, `test_seen`, `test_unseen`, or another folder there.
        skip_bad: leave bad records out and list them in `skipped`; otherwise the first one raises.
        embeddings: a folder of `{User_ID}.npy` that must then hold each record's user.
        users: Sage's `users.csv`, which then says, by User_ID, what each record's user bans. Without it, and where
            a record does not say so itself, the rules `sage` do. The compact form says it in a file of its own.
        answers: apply those that a judge (`judged.jsonl`) and a person (`answers.jsonl`) gave.

    Raises:
        PSAError: naming line and file of the first bad record, or a split that is missing or empty; also where another
            process replaces the lists meanwhile.
    """
    settle(folder)
    refuse_unfinished(Path(folder))
    listed = split_file(folder, name)
    with unchanged(folder, listed):
        if listed.name != PAIRS:
            split: PairSplit = read_sage_split(folder, name, skip_bad, embeddings, users)
        elif users is not None:
            raise PSAError(
                f"The data set in {folder} says itself what its users ban, in users.jsonl. Give no users file."
            )
        else:
            split = read_compact_split(folder, name, skip_bad, embeddings)
        return with_answers(split) if answers else split


def read_what_is_left(folder: Path | str, name: str, **options: Any) -> PairSplit | None:
    """As `read_split`; `None` where a judge or a person took out all of it."""
    try:
        return read_split(folder, name, **options)
    except EmptySplitError:
        return None


def split_file(folder: Path | str, name: str) -> Path:
    """The file that lists a split's records, `pairs.jsonl` or Sage's `metadata.jsonl`, whether it is there or not."""
    split = Path(folder) / name
    return split / (PAIRS if os.path.isfile(split / PAIRS) else "metadata.jsonl")


def refuse_unfinished(folder: Path) -> None:
    """Raise PSAError for a data set that is being built, or whose building was stopped: it has pictures, and no list
    of pairs yet."""
    if os.path.lexists(folder / PAIRS) or not os.path.isdir(folder / PICTURES):
        return
    try:
        read_description(folder)
    except PSAError:  # none of ours
        return
    raise PSAError(
        f"The data set in {folder} is not finished: its lists are written last. Build it again with the same settings, "
        "and it goes on."
    )
