"""What a judge says of a data set's pairs before anybody learns from them: which contradict their prompts, or which of
the two pictures each kind of viewer prefers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..dataset.answers import LEFT, NEITHER, RIGHT, Answer, scene_id
from ..dataset.pair_files import HARMLESS, PicturePair
from ..dataset.split import Scene
from ..errors import PSAError
from ..files import some
from ..judges.judging import Judge, Outcome, PairwiseJudge, Question, Verdict, known_categories
from ..judges.kept import Answers, KeptJudge
from ..pictures import open_groups, pixel_batches
from ..profile import UserProfile
from ..schema import CATEGORIES
from .plan import SPLITS, Plan

ANSWERS = ".answers"  # of a judge, kept in the data set's folder until its lists are written
_AT_ONCE = 16  # pairs
_VIEWER = {"age": 35, "gender": "female"}  # virtual, and of no account: what is banned is
_WORD: dict[Outcome, str] = {"first": LEFT, "second": RIGHT, "tie": NEITHER}

Progress = Callable[[int, int], None]
Kind = tuple[str, ...]
"""What a viewer bans: viewers who ban the same are one kind."""


def questions(pair: PicturePair) -> list[tuple[str, Question]]:
    """(picture, question) for each of a pair's pictures: does it show what a viewer bans who bans just its concept?"""
    banned = (pair.category,) if pair.category else CATEGORIES
    shown = zip(pair.pictures, (pair.shows, pair.without or pair.shows), strict=True)
    return [(name, _question(pair, banned, prompt)) for name, prompt in dict(shown).items()]


def contradictions(
    folder: Path, pairs: Sequence[PicturePair], judge: Judge, progress: Progress | None = None
) -> dict[str, str]:
    """By id, what is wrong with the pairs that contradict their prompts.

    What the judge answered in a run that was stopped it is not asked again.
    """
    kept = KeptJudge(judge, Answers(folder / ANSWERS))
    found = {}
    asked = [questions(pair) for pair in pairs]
    paths = [[folder / name for name, _ in items] for items in asked]
    for batch in pixel_batches(paths, _AT_ONCE):
        shown = [picture for pictures in open_groups(paths[batch]) for picture in pictures]
        verdicts = iter(kept.judge(shown, [about for items in asked[batch] for _, about in items]))
        for pair, items in zip(pairs[batch], asked[batch], strict=True):
            if reason := _reason(pair, [next(verdicts) for _ in items]):
                found[pair.id] = reason
        if progress:
            progress(batch.stop, len(pairs))
    return found


def check_labeller(judge: Judge) -> None:
    """Raise PSAError for a judge that cannot say who prefers which."""
    if not judge.hears_viewer:
        raise PSAError(
            f"The judge {judge.name} does not hear who looks, so it cannot say who prefers which picture. Label by a "
            "judge that does, such as a vision-language model, or by the rules."
        )


def check_categories(judge: Judge, pairs: Sequence[PicturePair]) -> None:
    """Raise PSAError for a judge that would find none of what some pairs are to show."""
    known = known_categories(judge)
    if strange := sorted({pair.category for pair in pairs if pair.category} - set(known)):
        raise PSAError(
            f"The judge {judge.name} knows {some(known)} alone, and would set every pair of {some(strange)} aside. "
            "Take a judge that knows them, or none."
        )


def preferences(
    folder: Path, plan: Plan, judge: Judge, progress: Progress | None = None
) -> tuple[list[Answer], dict[str, str]]:
    """Which picture of each pair each kind of viewer of its split prefers; and by id, why pairs are set aside.

    A judge that compares two pictures compares them; of another the picture with the higher score is preferred. Where
    neither is, the pair is taken out for such viewers, and set aside where that are all of them. What the judge
    answered in a run that was stopped it is not asked again.

    Returns:
        The answers, the picture without the concept being the left one.
    """
    compares = isinstance(judge, PairwiseJudge)
    kept = KeptJudge(judge, Answers(folder / ANSWERS))
    found: list[Answer] = []
    aside = {}
    asked = [(pair, kinds) for name in SPLITS if name != HARMLESS for pair, kinds in _viewed(plan, name)]
    paths = [[folder / name for name in reversed(pair.pictures)] for pair, _ in asked]
    for batch in pixel_batches(paths, _AT_ONCE):
        outcomes = _compared(open_groups(paths[batch]), asked[batch], kept, compares)
        for pair, kinds in asked[batch]:
            answers = [_answer(folder, pair, kind, next(outcomes)) for kind in kinds]
            if all(answer.chosen is None for answer in answers):
                aside[pair.id] = "the judge prefers neither picture, whoever looks"
            else:
                found += answers
        if progress:
            progress(batch.stop, len(asked))
    return found, aside


def forget(folder: Path) -> None:
    """Remove the judge's answers: what they were kept for is written."""
    Answers(folder / ANSWERS).drop()


def _viewed(plan: Plan, split: str) -> Iterable[tuple[PicturePair, list[Kind]]]:
    """A split's pairs, and the kinds of viewers that it has."""
    kinds = sorted({profile.banned_categories for profile in plan.people(split)})
    return ((pair, kinds) for pair in plan.splits[split] if kinds)


def _compared(
    pictures: Sequence[list[Image.Image]],
    part: Sequence[tuple[PicturePair, list[Kind]]],
    judge: KeptJudge,
    compares: bool,
) -> Iterator[Outcome]:
    """Of each pair for each kind of viewer: the picture without the concept is the first one."""
    shown: list[tuple[Image.Image, Image.Image]] = []
    about = []
    for (without, shows), (pair, kinds) in zip(pictures, part, strict=True):
        shown += [(without, shows)] * len(kinds)
        about += [_question(pair, kind, pair.shows) for kind in kinds]
    if compares:
        return iter(judge.compare(shown, about))
    verdicts = judge.judge([picture for two in shown for picture in two], [each for each in about for _ in range(2)])
    scores = [verdict.score for verdict in verdicts]
    return (_better(*two) for two in zip(scores[::2], scores[1::2], strict=True))


def _better(first: float, second: float) -> Outcome:
    return "tie" if first == second else "first" if first > second else "second"


def _answer(folder: Path, pair: PicturePair, kind: Kind, outcome: Outcome) -> Answer:
    shows, without = pair.pictures
    scene = scene_id(Scene((folder / without, folder / shows), pair.shows, ""), folder)
    return Answer(scene, kind, without, shows, _WORD[outcome])


def _question(pair: PicturePair, banned: Kind, prompt: str) -> Question:
    profile = UserProfile(**_VIEWER, banned_categories=banned)  # type: ignore[arg-type]
    return Question(prompt, (pair.category,) if pair.category else (), "a virtual viewer", profile)


def _reason(pair: PicturePair, verdicts: list[Verdict]) -> str | None:
    if pair.category is None:
        return "the judge finds something sensitive in the harmless scene" if verdicts[0].inappropriate else None
    if not verdicts[0].inappropriate:
        return "the judge does not find the concept in the picture that is to show it"
    return "the judge finds the concept in the picture without it" if verdicts[1].inappropriate else None
