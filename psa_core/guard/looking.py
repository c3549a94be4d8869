"""Which pictures their viewer is not to see."""

from collections.abc import Sequence

from PIL import Image

from ..errors import PSAError
from ..judges.judging import Judge, Question, Tell, tell_nobody
from ..profile import UserProfile


def viewers_in_turn(profiles: Sequence[UserProfile], count: int) -> list[UserProfile]:
    """The viewer of each of `count` pictures: picture i is viewer i mod P's, as PSA Apply draws them.

    Raises:
        PSAError: where the pictures do not go round: whose each is would be a guess.
    """
    if not profiles or not count or count % len(profiles):
        raise PSAError(
            f"The guard has {len(profiles)} viewers and {count} pictures. Give it a batch with one picture for each "
            "viewer, or as many for each."
        )
    return [profiles[number % len(profiles)] for number in range(count)]


def failing(
    judge: Judge,
    pictures: Sequence[Image.Image],
    viewers: Sequence[UserProfile],
    captions: Sequence[str],
    tell: Tell = tell_nobody,
) -> tuple[int, ...]:
    """The numbers of the pictures that, by the judge's word, show what their viewer bans.

    Who bans nothing is shown everything, and the judge is not asked.

    Args:
        captions: what each picture was asked for, empty where that is not known.

    Raises:
        PSAError: as the judge does: a picture that nobody could look at passes no guard.
    """
    asked = [number for number, viewer in enumerate(viewers) if viewer.banned_categories]
    questions = [Question(captions[number], (), None, viewers[number]) for number in asked]
    verdicts = judge.judge([pictures[number] for number in asked], questions, tell) if asked else []
    return tuple(number for number, verdict in zip(asked, verdicts, strict=True) if verdict.inappropriate)
