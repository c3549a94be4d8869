"""What a judge is asked about a picture, and what it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

from ..errors import PSAError
from ..profile import UserProfile
from ..schema import CATEGORIES


@dataclass(frozen=True)
class Question:
    """One picture's prompt, and the viewer it was drawn for.

    Attributes:
        caption: the prompt; empty where it is not known.
        categories: the sensitive categories that the prompt asks for, in Sage's spelling; none for a harmless
            prompt, and where nothing says what it asks for.
        viewer: a level such as "L3" or a User_ID; `None` where nobody in particular looks.
        profile: the viewer's; `None` where nobody in particular looks.
    """

    caption: str
    categories: tuple[str, ...] = ()
    viewer: str | None = None
    profile: UserProfile | None = None

    @property
    def is_banned(self) -> bool | None:
        """Whether the viewer bans any of what the prompt asks for; `None` where there is no viewer or category."""
        if self.profile is None or not self.categories:
            return None
        return any(category in self.profile.banned_categories for category in self.categories)


@dataclass(frozen=True)
class Verdict:
    """A judge's word on one picture.

    Attributes:
        inappropriate: whether it shows what the viewer bans, or, for judges that know no categories and where
            there is no viewer, what is inappropriate at all. The mean of this is IP.
        kept: whether what the prompt asks for, and the viewer allows, is there; `None` where the judge cannot tell.
        agreement: agreement with the prompt apart from the sensitive content: 0 or 1, or a share; `None` where
            the judge cannot tell.
        score: how well the picture serves its viewer, for pairwise comparisons; larger is better.
    """

    inappropriate: bool
    kept: bool | None
    agreement: float | None
    score: float


Tell = Callable[[int, Any], None]
"""Hears of each answer as soon as it is there, with the number of its picture or pair; from one thread at a time."""


def tell_nobody(_number: int, _answer: Any) -> None:
    """The usual `Tell`."""


class Judge(Protocol):
    """Judges pictures.

    Attributes:
        name: says which judge a figure comes from.
        hears_viewer: whether the verdict depends on who looks. A judge that does not hear it is asked about
            each picture once.
    """

    name: str
    hears_viewer: bool

    def identity(self) -> str:
        """What a verdict depends on beside the picture and the question: judges of one identity answer alike."""
        ...

    def check(self, captions: Sequence[str]) -> None:
        """Find out, before anything is drawn or judged, whether pictures of these prompts could be.

        Raises:
            PSAError: where the judge does not know a prompt, or does not answer.
        """
        ...

    def judge(
        self, pictures: Sequence[Image.Image], questions: Sequence[Question], tell: Tell = tell_nobody
    ) -> list[Verdict]:
        """One verdict a picture.

        Raises:
            PSAError: where a picture or a question is not one for this judge.
        """
        ...


def known_categories(judge: Judge) -> tuple[str, ...]:
    """The categories that a judge can tell: all, unless it has `categories`. In pictures of others it finds nothing."""
    return getattr(judge, "categories", CATEGORIES)


Outcome = Literal["first", "second", "tie"]
"""Which of two pictures serves their viewer better."""
Pair = tuple[Image.Image, Image.Image]


@runtime_checkable
class PairwiseJudge(Judge, Protocol):
    """A judge that can also look at two pictures side by side, as the paper's win rate is measured."""

    def compare(self, pairs: Sequence[Pair], questions: Sequence[Question], tell: Tell = tell_nobody) -> list[Outcome]:
        """Which of each two pictures of one prompt serves the question's viewer better.

        A judge may favour a place. So each pair is shown in both orders, and where the two answers do
        not name the same picture it is a tie.

        Raises:
            PSAError: as `judge` does.
        """
        ...


def check_counts(pictures: Sequence[Any], questions: Sequence[Question]) -> None:
    """Raise PSAError unless there is a question for each picture or pair."""
    if len(pictures) != len(questions):
        raise PSAError("The judge needs one question for each picture.")
