"""A data set built in ComfyUI: its pictures drawn as the graph draws, its folder, and what a person sees of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from PIL import Image

from ...psa_core.build import SHEET, Drawing, Plan, Said, build_dataset, drawn_pairs, plan
from ...psa_core.build.sheet import contact_sheet
from ...psa_core.concepts.pairs import PromptPair
from ...psa_core.dataset import PairSplit, read_split
from ...psa_core.dataset.overview import summary
from ...psa_core.dataset.reading import read_what_is_left
from ...psa_core.files import safe_file_name
from ...psa_core.judges.judging import Judge
from ...psa_core.pictures import open_picture
from ...psa_core.profile import UserProfile
from ...psa_core.training.cache import cache_key
from .attn2 import cross_attention_sites
from .data_sets import BUILT
from .folders import input_folder
from .judges import judge_for, make_judge
from .studio import SAMPLERS, SCHEDULERS, Sampling, Studio, native_side
from .training_inputs import image_encoder, text_encoder
from .weights import refuse_bypassed, weights_id

__all__ = [
    "NOBODY",
    "SAMPLERS",
    "SCHEDULERS",
    "Built",
    "Judging",
    "Sampling",
    "build",
    "dataset_folder",
    "native_side",
]

NOBODY = "nobody"
"""In place of a judge."""
_SHOWN_S, _SHOWN_PAIRS, _SHOWN_SIDE = 5.0, 9, 768


@dataclass(frozen=True)
class Judging:
    """Who looks at the pairs, in the words of the node's inputs, and who says which picture a user prefers."""

    judge: str
    location: str
    model: str
    labels: str

    def judge_of(self, model: ModelPatcher) -> Judge | None:
        """Raises PSAError as `make_judge` does."""
        if self.judge == NOBODY:
            return None
        name = judge_for(model, self.judge)
        return make_judge("PSA Build Dataset", "psa build-dataset", name, self.location, self.model)


@dataclass(frozen=True)
class Built:
    """The data set's splits, its contact sheet, and what to say of it."""

    train: PairSplit
    held_out: PairSplit | None
    sheet: Image.Image
    text: str


def dataset_folder(name: str) -> Path:
    """Where the data set lies; raises PSAError for a name that is not a plain one."""
    return input_folder() / BUILT / safe_file_name(name, "data set's name")


def build(
    model: ModelPatcher,
    clip: Any,
    vae: Any,
    folder: Path,
    prompts: Sequence[PromptPair],
    users: Sequence[UserProfile],
    sampling: Sampling,
    negative: str,
    said: Said,
    judging: Judging,
    node_id: str | None,
) -> Built:
    """Build the data set in `folder`, or go on with it. Cancel raises out of it, and what is drawn stays.

    Raises:
        PSAError: as `build_dataset` and the judge do, and for a CLIP or VAE of another kind of model.
    """
    refuse_bypassed(model, clip.patcher)
    judge = judging.judge_of(model)
    studio = Studio(model, clip, vae, sampling)
    planned = plan(drawn_pairs(prompts, sampling.seed), users, sampling.seed)
    made = {
        "model": _model_id(model, clip, vae),
        "sampling": str(sampling),
        "negative_prompt": negative,
        "batch_size": studio.alike_at_once,
    }
    view = _View(node_id, folder, planned)
    drawing = Drawing(made, lambda: _Drawer(studio, negative), studio.alike_at_once)
    built = build_dataset(
        folder,
        planned,
        users,
        sampling.seed,
        drawing,
        said,
        judge,
        progress=view.drawn,
        judging=view.judged,
        labels=judging.labels,
    )
    train = read_split(folder, "train")
    held_out = read_what_is_left(folder, "val") if planned.splits["val"] else None
    notes = [*planned.notes, *built.notes(), f"{built.people.capitalize()}. In {BUILT}/{folder.name}."]
    return Built(train, held_out, open_picture(folder / SHEET), "\n".join([summary(train), *notes]))


class _Drawer:
    def __init__(self, studio: Studio, negative: str) -> None:
        self._studio, self._negative = studio, negative

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self._studio.pictures(list(prompts), list(seeds), negative=self._negative)


class _View:
    """Progress on the node: pictures drawn and pairs judged, time left, and a contact sheet that fills up."""

    def __init__(self, node_id: str | None, folder: Path, planned: Plan) -> None:
        self._node_id, self._folder, self._plan = node_id, folder, planned
        self._bar, self._shown = ProgressBar(1), 0.0
        self._began: tuple[float, int] | None = None

    def drawn(self, done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        began, at = self._began = self._began or (now, done)
        left = timedelta(seconds=round((now - began) / (done - at) * (total - done))) if done > at else None
        self._text(f"picture {done} of {total}{f', {left} left' if left is not None else ''}")
        preview = None
        if now - self._shown > _SHOWN_S:
            sheet = contact_sheet(self._folder, self._plan.pairs[: max(1, done // 2)], _SHOWN_PAIRS)
            preview = ("JPEG", sheet, _SHOWN_SIDE) if sheet else None
            self._shown = time.monotonic()
        self._bar.update_absolute(done, max(total, 1), preview)

    def judged(self, done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        self._text(f"the judge has looked at {done} of {total} pairs")
        self._bar.update_absolute(done, max(total, 1))

    def _text(self, text: str) -> None:
        if self._node_id is not None:  # there is a server, then
            from server import PromptServer

            PromptServer.instance.send_progress_text(text, self._node_id)


def _model_id(model: ModelPatcher, clip: Any, vae: Any) -> str:
    """A hash of what a picture depends on beside prompt, seed and sampler."""
    context_dim = cross_attention_sites(model.model.diffusion_model)[0].context_dim
    parts = (image_encoder(vae, model).id, text_encoder(clip, model, context_dim).id)
    return cache_key(weights_id(model, model.model.diffusion_model), *parts)
