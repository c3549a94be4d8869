"""What a judge is asked about a picture, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from ..profile import UserProfile


@dataclass(frozen=True)
class Question:
    """One picture's prompt, and the viewer it was drawn for.

    Attributes:
        caption: the prompt.
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


class Judge(Protocol):
    """Judges pictures; `name` says which judge a figure comes from."""

    name: str

    def judge(self, pictures: Sequence[Image.Image], questions: Sequence[Question]) -> list[Verdict]:
        """One verdict a picture.

        Raises:
            PSAError: where a picture or a question is not one for this judge.
        """
        ...
