"""The guard's rounds in ComfyUI: look, hide, or have the graph draw again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy import model_management
from comfy_execution.graph_utils import GraphBuilder

from ...psa_core.chat_server import RemoteAddressError
from ...psa_core.errors import PSAError
from ...psa_core.guard import failing, hide, told, viewers_in_turn
from ...psa_core.judges import JUDGES as KINDS
from ...psa_core.judges import judge_of
from ...psa_core.judges.judging import Judge
from ...psa_core.mini.judge import MINI_CLASSIFIER
from ...psa_core.pretrained import check_folder
from ...psa_core.profile import UserProfile
from .images import from_comfy, to_comfy
from .judges import BY_MODEL, GENERAL_JUDGES, judge_options, zero_shot_judge
from .redraw import Nodes, applied_before, before, draw_again

ZERO_SHOT, HEARS_PROMPT, MINI = "zero-shot CLIP", "vision-language model", "mini classifier"
JUDGES = {ZERO_SHOT: "", **GENERAL_JUDGES, MINI: "mini"}
"""What the node calls the judges."""


@dataclass(frozen=True, repr=False)
class Earlier:
    """What a guard hands to the one that looks at what was drawn again: the pictures before, and the numbers of those
    that failed in each round."""

    images: torch.Tensor
    rounds: tuple[tuple[int, ...], ...]


def judge_for(judge: str, nodes: Nodes, guard: str) -> str:
    """The judge's name, found by the model that draws for the guard of that id where that is asked for.

    Raises:
        PSAError: for a model that has no judge of its own.
    """
    if judge != BY_MODEL:
        return judge
    drawn_by = before(nodes, nodes(guard)["inputs"]["images"])
    if not any(nodes(name)["class_type"] == "PSALoadMini" for name in drawn_by):
        others = ", ".join(name for name in JUDGES if name != MINI)
        raise PSAError(f"Only PSA Mini has a judge of its own. Choose as judge, for this model: {others}.")
    return MINI


def check_judge(judge: str, location: str, model: str, *towers_and_sensitivity: Any) -> None:
    """Find out, before anything is drawn, whether the judge of `make_judge` could look at pictures.

    A model in a folder is not loaded for that: it would be in the sampler's way.

    Raises:
        PSAError: where it could not.
    """
    if judge != ZERO_SHOT:
        options = judge_options("PSA Guard", judge, JUDGES[judge], location, model)
        for name, what in (("folder", "vision-language model"), ("clip_folder", "CLIP model")):
            if name in options:
                check_folder(options[name], what)
                return
    make_judge(judge, location, model, *towers_and_sensitivity).check([])


def make_judge(
    judge: str, location: str, model: str, clip_vision: Any = None, clip: Any = None, sensitivity: float = 0.5
) -> Judge:
    """The judge that the node's inputs name.

    Raises:
        PSAError: for one that lacks what it needs, or as it does.
    """
    if judge == ZERO_SHOT:
        return zero_shot_judge(clip_vision, clip, sensitivity)
    options = judge_options("PSA Guard", judge, JUDGES[judge], location, model)
    try:
        return judge_of(JUDGES[judge], options, {"mini": MINI_CLASSIFIER, **KINDS})
    except RemoteAddressError as error:
        raise error.allowed("take another judge: the guard shows pictures to no other machine") from None


@dataclass(frozen=True)
class Guard:
    """A guard's settings: who looks at what for whom, and what becomes of pictures that fail.

    Args:
        caption: what the pictures were asked for, or empty.
        how: pictures are hidden.
        card: (1, H, W, C), what replaced ones become; `None`: plain grey.
    """

    judge: Judge
    profiles: Sequence[UserProfile]
    caption: str
    how: str
    card: torch.Tensor | None = None

    def look(self, images: torch.Tensor, earlier: Earlier | None) -> Earlier:
        """The pictures so far, (B, H, W, 3), and the rounds with this one.

        Of pictures that were drawn again those count that had failed; the others stay as they were.

        Raises:
            PSAError: where the pictures do not go round, or as the judge does.
        """
        images = images[..., :3]
        viewers = viewers_in_turn(self.profiles, len(images))
        asked: Sequence[int] = range(len(images))
        if earlier is not None:
            asked = earlier.rounds[-1]
            drawn, images = images, earlier.images.clone()
            images[list(asked)] = drawn[list(asked)].to(images)
        pictures = from_comfy(images[list(asked)])
        failed = failing(
            self.judge,
            pictures,
            [viewers[number] for number in asked],
            [self.caption] * len(asked),
            lambda *_: model_management.throw_exception_if_processing_interrupted(),
        )
        rounds = (*(earlier.rounds if earlier else ()), tuple(asked[number] for number in failed))
        return Earlier(images, rounds)

    def hide(self, seen: Earlier) -> tuple[torch.Tensor, str]:
        """The pictures as they may be shown, and what was done, in words."""
        images = seen.images.clone()
        card = None if self.card is None else from_comfy(self.card[:1])[0]
        for number in seen.rounds[-1]:
            (picture,) = from_comfy(images[number : number + 1])
            images[number] = to_comfy([hide(picture, self.how, card)])[0].to(images)
        return images, told(len(images), len(self.profiles), seen.rounds, self.how, self.judge.name)


def check_drawing(nodes: Nodes, guard: str) -> None:
    """Make sure that the pictures of the guard of that id could be drawn again; raises PSAError as `applied_before`."""
    applied_before(nodes, nodes(guard)["inputs"]["images"])


def next_round(nodes: Nodes, guard: str, seen: Earlier, more: float, left: int) -> tuple[Any, Any, Mapping[str, Any]]:
    """The links to pictures and words of a further guard, and the graph that holds it and what it looks at."""
    graph = GraphBuilder()
    inputs = dict(nodes(guard)["inputs"])
    drawn = draw_again(graph, nodes, inputs["images"], more)
    again = graph.node("PSAGuard", **{**inputs, "images": drawn, "earlier": seen, "tries": left})
    return again.out(0), again.out(1), graph.finalize()
