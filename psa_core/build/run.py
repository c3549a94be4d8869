"""A data set built, whoever asks for it: described, its pictures drawn or copied, judged, and its lists written."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dataset.answers import Answer
from ..dataset.pair_files import HARMLESS, JUDGE, NOT_STATED, RULE
from ..errors import PSAError
from ..files import atomic_path
from ..judges.judging import Judge
from ..pictures import write_picture
from ..population import seed_of
from ..processes import OneProcess
from ..profile import UserProfile
from .drawing import Drawer, Progress, batched, draw_missing, finish_batches, jobs
from .folder import GIVEN, VIRTUAL, Claim, claimed, description, finish, is_current, is_finished, set_aside
from .imported import Imported, copy_missing
from .judged import ANSWERS, check_categories, check_labeller, contradictions, forget, preferences, questions
from .plan import Plan, check_leakage
from .sheet import contact_sheet

SHEET = "contact_sheet.png"
LABELLERS = (RULE, JUDGE)
"""Who may say, when a data set is built, which picture a viewer prefers."""


@dataclass(frozen=True)
class Drawing:
    """Pictures to be drawn: `made` is what they depend on beside prompts and seeds, JSON-compatible.

    `mixed_batches` goes on where others were drawn so many at a time as `batch_size` is not.
    """

    made: Mapping[str, Any]
    open_drawer: Callable[[], Drawer]
    batch_size: int = 2
    mixed_batches: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise PSAError("A batch holds at least 1 picture.")


@dataclass(frozen=True)
class Said:
    """What somebody says of a data set: its licence, by which rules its users ban what they ban, and that they are
    `virtual`, drawn by the pack. Where nobody says so, they are where a small seed, or the build's, draws the same."""

    licence: str = NOT_STATED
    rules: str = "as the users file says"
    virtual: bool = False


@dataclass(frozen=True)
class Built:
    """How a build ended: pictures made in this run by this process; by id, why pairs are set aside; what is known of
    the users; and what was said otherwise of the data set before."""

    made: int
    aside: Mapping[str, str]
    people: str = VIRTUAL
    changed: Sequence[str] = ()

    def notes(self) -> list[str]:
        """What changed, and how many pairs are set aside, a sentence for each reason."""
        reasons = sorted(Counter(self.aside.values()).items())
        notes = [f"{count} pairs set aside: {reason}." for reason, count in reasons]
        if self.changed:
            told = f"The lists are written anew, for this has changed: {', '.join(self.changed)}."
            notes.insert(0, f"{told} Pictures and answers by hand are as they were.")
        return notes


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
    labels: str = RULE,
) -> Built:
    """Build what `plan` plans, or go on with it; each process draws its share, and the main one does the rest.

    Where the folder holds the same pictures, and users, labels, judge or licence are others, its lists are written
    anew, all of them or none.

    Args:
        source: the pictures' drawing, or those that are there already.
        judge: where labels go by rule, sets aside pairs whose pictures contradict their prompts; else says which
            picture each kind of viewer prefers (`preferences`), and sets harmless scenes aside that are none.
        labels: who says which picture is preferred, one of `LABELLERS`.

    Raises:
        PSAError: as `claimed`, the drawer and the judge do, where the disk is full, and for labels by no judge or by
            one that cannot tell. What is done stays, and the same call goes on with it.
    """
    processes, said = processes or OneProcess(), said or Said()
    if labels not in LABELLERS:
        raise PSAError(f"Labels are by one of: {', '.join(LABELLERS)}.")
    if labels == JUDGE:
        if judge is None:
            raise PSAError("Labels by a judge need one. Say which, or label by the rules.")
        check_labeller(judge)
    people = VIRTUAL if said.virtual or seed_of(users, [seed]) is not None else GIVEN
    described = _description(plan, users, seed, source, said, people, labels, judge)
    is_main = processes.is_main_process
    if judge is not None and is_main and not is_current(folder, described, plan):
        check_categories(judge, plan.pairs)
        judge.check([about.caption for pair in plan.pairs for _, about in questions(pair)])
    mixed = isinstance(source, Drawing) and source.mixed_batches
    with claimed(folder, described, mixed) if is_main else nullcontext(Claim(described, [])) as claim:
        if is_main:
            finish_batches(folder, [pair for pairs in plan.drawn for pair in pairs])
        processes.wait_for_everyone()
        count = _pictures(folder, plan, source, processes, progress)
        processes.wait_for_everyone()
        if is_main and (claim.changed or not is_finished(folder, described, plan)):
            aside, answers = _judged(folder, plan, judge, labels, judging)
            _check_enough(plan, aside)
            check_leakage(plan)
            _write_sheet(folder, plan)
            finish(folder, claim.described, plan, aside, labels, answers)
        if is_main and (judge is not None or (folder / ANSWERS).exists()):  # or another had begun
            forget(folder)
    return Built(count, set_aside(folder) if is_main else {}, people, claim.changed)


def _description(
    plan: Plan,
    users: Sequence[UserProfile],
    seed: int,
    source: Drawing | Sequence[Imported],
    said: Said,
    people: str,
    labels: str,
    judge: Judge | None,
) -> dict[str, Any]:
    made = dict(source.made) if isinstance(source, Drawing) else {"pictures": "imported"}
    who = judge.identity() if judge else None
    told = {"people": people, "licence": said.licence, "rules": said.rules, "labels": labels, "judge": who}
    return description(plan, users, seed, made, **told)


def _judged(
    folder: Path, plan: Plan, judge: Judge | None, labels: str, progress: Progress | None
) -> tuple[dict[str, str], list[Answer] | None]:
    """By id, why pairs are set aside; and who prefers which, where a judge says it."""
    if judge is None:
        return {}, None
    if labels == RULE:
        return contradictions(folder, plan.pairs, judge, progress), None
    answers, aside = preferences(folder, plan, judge, progress)
    return aside | contradictions(folder, plan.splits[HARMLESS], judge, progress), answers


def _pictures(
    folder: Path, plan: Plan, source: Drawing | Sequence[Imported], processes: Any, progress: Progress | None
) -> int:
    if not isinstance(source, Drawing):
        planned = {pair.id for pair in plan.pairs}
        wanted = [each for each in source if each.pair.id in planned]
        return copy_missing(folder, wanted, progress) if processes.is_main_process else 0
    batches = [batch for pairs in plan.drawn for batch in batched(jobs(folder, pairs), source.batch_size)]
    share = batches[processes.process_index :: processes.num_processes]
    return draw_missing(share, source.open_drawer, progress)


def _check_enough(plan: Plan, aside: Mapping[str, str]) -> None:
    if all(pair.id in aside for pair in plan.splits["train"]):
        raise PSAError(
            "The judge sets every pair of the split 'train' aside. Look at some of them, and draw with a model that "
            "knows the concepts, or take another judge or none: the pictures stay."
        )


def _write_sheet(folder: Path, plan: Plan) -> None:
    if sheet := contact_sheet(folder, plan.pairs):
        with atomic_path(folder / SHEET) as temporary:
            write_picture(sheet, temporary)
