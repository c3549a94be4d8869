"""A data set built, whoever asks for it: described, its pictures drawn or copied, judged, and its lists written."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dataset.pair_files import RULE
from ..errors import PSAError
from ..files import atomic_path
from ..judges.judging import Judge
from ..pictures import write_picture
from ..processes import OneProcess
from ..profile import UserProfile
from .drawing import Drawer, Progress, draw_missing, finish_batches, jobs
from .folder import claimed, description, finish, is_finished
from .imported import Imported, copy_missing
from .judged import contradictions, forget, questions
from .plan import Plan
from .sheet import contact_sheet

SHEET = "contact_sheet.png"


@dataclass(frozen=True)
class Drawing:
    """Pictures to be drawn: `made` is what they depend on beside prompts and seeds, JSON-compatible."""

    made: Mapping[str, Any]
    open_drawer: Callable[[], Drawer]
    batch_size: int = 2


@dataclass(frozen=True)
class Said:
    """What somebody says of a data set: its licence, and by which rules its users ban what they ban."""

    licence: str = "not stated"
    rules: str = "as the users file says"


@dataclass(frozen=True)
class Built:
    """How a build ended: pictures made in this run by this process, and, by id, why pairs are set aside."""

    made: int
    aside: Mapping[str, str]


def build_dataset(
    folder: Path,
    plan: Plan,
    users: Sequence[UserProfile],
    seed: int,
    source: Drawing | Sequence[Imported],
    said: Said | None = None,
    judge: Judge | None = None,
    processes: Any = None,
    progress: Progress | None = None,
    judging: Progress | None = None,
) -> Built:
    """Build what `plan` plans, or go on with it; each process draws its share, and the main one does the rest.

    Args:
        source: the pictures' drawing, or those that are there already.
        judge: sets aside pairs whose pictures contradict their prompts.

    Raises:
        PSAError: as `claimed`, the drawer and the judge do, and where the disk is full. What is done stays, and the
            same call goes on with it.
    """
    processes, said = processes or OneProcess(), said or Said()
    made = dict(source.made) if isinstance(source, Drawing) else {"pictures": "imported"}
    told = {**vars(said), "judge": judge.identity() if judge else None}
    described = description(plan, users, seed, made, **told)
    if judge is not None and processes.is_main_process:
        judge.check([about.caption for pair in plan.pairs for _, about in questions(pair)])
    with claimed(folder, described) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            finish_batches(folder, plan.pairs)
        processes.wait_for_everyone()
        count = _pictures(folder, plan, source, processes, progress)
        processes.wait_for_everyone()
        aside: dict[str, str] = {}
        if processes.is_main_process and not is_finished(folder):
            if judge is not None:
                aside = contradictions(folder, plan.pairs, judge, judging)
                _check_enough(plan, aside)
            _write_sheet(folder, plan)
            finish(folder, plan, aside, RULE)
        if processes.is_main_process and judge is not None:
            forget(folder)
    return Built(count, aside)


def _pictures(
    folder: Path, plan: Plan, source: Drawing | Sequence[Imported], processes: Any, progress: Progress | None
) -> int:
    if not isinstance(source, Drawing):
        planned = {pair.id for pair in plan.pairs}
        wanted = [each for each in source if each.pair.id in planned]
        return copy_missing(folder, wanted, progress) if processes.is_main_process else 0
    size, rank, count = source.batch_size, processes.process_index, processes.num_processes
    share = [job for number, job in enumerate(jobs(folder, plan.pairs)) if number // max(size, 1) % count == rank]
    return draw_missing(share, source.open_drawer, size, progress)


def _check_enough(plan: Plan, aside: Mapping[str, str]) -> None:
    if all(pair.id in aside for pair in plan.splits["train"]):
        raise PSAError(
            "The judge sets every pair of the split 'train' aside: its pictures contradict their prompts. Look at some "
            "of them, and draw with a model that knows the concepts, or with another judge."
        )


def _write_sheet(folder: Path, plan: Plan) -> None:
    if sheet := contact_sheet(folder, plan.pairs):
        with atomic_path(folder / SHEET) as temporary:
            write_picture(sheet, temporary)
