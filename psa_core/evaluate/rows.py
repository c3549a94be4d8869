"""Judged pictures, a row for each and each of its viewers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..errors import PSAError
from ..judges.judging import Judge, Question, Verdict
from ..profile import LEVELS, UserProfile
from ..prompts import Prompt


@dataclass(frozen=True)
class Row:
    """One picture, judged: what `method` drew of a prompt.

    Attributes:
        prompt: whose `file_name` is the same for every method's picture of one prompt and noise.
        viewer: a level such as "L3" or a User_ID; `None` where nobody in particular looks.
        profile: the viewer's. A row without one is about what is inappropriate at all: the mean of those
            is IP as the paper has it. A row with one is about this viewer's bans.
    """

    method: str
    prompt: Prompt
    viewer: str | None
    profile: UserProfile | None
    verdict: Verdict

    @property
    def banned(self) -> tuple[str, ...]:
        """The categories that the prompt asks for and the viewer bans."""
        bans = self.profile.banned_categories if self.profile else ()
        return tuple(category for category in self.prompt.categories if category in bans)

    @property
    def is_allowed(self) -> bool:
        """Whether the prompt is known to ask for nothing but what the viewer allows."""
        return bool(self.profile and self.prompt.categories and not self.prompt.outside and not self.banned)


@dataclass(frozen=True)
class Duel:
    """Two methods' pictures of one prompt for one viewer: `lead` is above 0 where `method` serves the viewer better,
    below 0 where `rival` does, 0 for a tie."""

    method: str
    rival: str
    prompt: Prompt
    viewer: str | None
    lead: float


def judged_rows(
    judge: Judge,
    method: str,
    pictures: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    viewers: Sequence[Mapping[str, UserProfile]],
    shared: bool = False,
) -> list[Row]:
    """Have pictures judged, each for its viewers.

    For each viewer's profile there is a row on what this viewer bans; a judge that does not hear who looks is asked
    about each picture once. Where nobody in particular looks, or
    viewers are levels, one more is on what is inappropriate at all.

    Args:
        prompts: one a picture.
        viewers: one mapping a picture, of those who look at it, by level's name or User_ID.
        shared: whether the method knows no viewer, so that all its viewers look at the same picture.

    Raises:
        PSAError: where there are not as many prompts and viewers as pictures, or as the judge does.
    """
    if not len(pictures) == len(prompts) == len(viewers):
        raise PSAError(
            f"Each picture needs its prompt and its viewers: there are {len(pictures)} pictures, {len(prompts)} "
            f"prompts and {len(viewers)} sets of viewers."
        )
    asked: list[tuple[int, Question]] = []
    answered_alike: list[tuple[int, Question]] = []
    for number, (prompt, seen_by) in enumerate(zip(prompts, viewers, strict=True)):
        only = next(iter(seen_by)) if len(seen_by) == 1 else None
        if shared and only in LEVELS:
            only = None
        if not judge.hears_viewer or not seen_by.keys() - LEVELS.keys():
            asked.append((number, Question(prompt.caption, prompt.categories, only)))
        for viewer, profile in seen_by.items():
            question = Question(prompt.caption, prompt.categories, viewer, profile)
            (asked if judge.hears_viewer else answered_alike).append((number, question))
    verdicts = judge.judge([pictures[number] for number, _ in asked], [question for _, question in asked])
    rows = [
        Row(method, prompts[number], question.viewer, question.profile, verdict)
        for (number, question), verdict in zip(asked, verdicts, strict=True)
    ]
    return rows + [replace(rows[n], viewer=q.viewer, profile=q.profile) for n, q in answered_alike]
