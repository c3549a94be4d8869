"""Pairs whose pictures contradict their prompts, found by a judge before anybody learns from them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..dataset.pair_files import PicturePair
from ..judges.judging import Judge, Question, Verdict
from ..judges.kept import Answers, KeptJudge
from ..pictures import open_picture
from ..profile import UserProfile
from ..schema import CATEGORIES

ANSWERS = ".answers"  # of a judge, kept in the data set's folder until its lists are written
_AT_ONCE = 16  # pairs
_VIEWER = {"age": 35, "gender": "female"}  # virtual, and of no account: what is banned is


def questions(pair: PicturePair) -> list[tuple[str, Question]]:
    """(picture, question) for each of a pair's pictures: does it show what a viewer bans who bans just its concept?"""
    banned = (pair.category,) if pair.category else CATEGORIES
    profile = UserProfile(**_VIEWER, banned_categories=banned)  # type: ignore[arg-type]
    asked = (pair.category,) if pair.category else ()
    shown = zip(pair.pictures, (pair.shows, pair.without or pair.shows), strict=True)
    return [(name, Question(prompt, asked, "a virtual viewer", profile)) for name, prompt in dict(shown).items()]


def contradictions(
    folder: Path, pairs: Sequence[PicturePair], judge: Judge, progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """By id, what is wrong with the pairs that contradict their prompts.

    What the judge answered in a run that was stopped it is not asked again.
    """
    kept = KeptJudge(judge, Answers(folder / ANSWERS))
    found = {}
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        asked = [questions(pair) for pair in part]
        every = [item for items in asked for item in items]
        verdicts = iter(kept.judge([open_picture(folder / name) for name, _ in every], [about for _, about in every]))
        for pair, items in zip(part, asked, strict=True):
            if reason := _reason(pair, [next(verdicts) for _ in items]):
                found[pair.id] = reason
        if progress:
            progress(start + len(part), len(pairs))
    return found


def forget(folder: Path) -> None:
    """Remove the judge's answers: what they were kept for is written."""
    Answers(folder / ANSWERS).drop()


def _reason(pair: PicturePair, verdicts: list[Verdict]) -> str | None:
    if pair.category is None:
        return "the judge finds something sensitive in the harmless scene" if verdicts[0].inappropriate else None
    if not verdicts[0].inappropriate:
        return "the judge does not find the concept in the picture that is to show it"
    return "the judge finds the concept in the picture without it" if verdicts[1].inappropriate else None
