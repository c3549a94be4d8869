"""Drawing captions for users as ComfyUI's own nodes do, and having the pictures judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.sample
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSampler
from comfy.utils import ProgressBar
from PIL import Image

from ...psa_core.adapter.model import PSAAdapter
from ...psa_core.encoders.embedding import UserEmbedding
from ...psa_core.encoders.everyone import EveryoneEncoder
from ...psa_core.encoders.protocol import ProfileEncoder
from ...psa_core.encoders.structured import StructuredEncoder
from ...psa_core.errors import PSAError
from ...psa_core.evaluate import Row, judged_rows
from ...psa_core.evaluate.cases import Cases
from ...psa_core.judges.judging import Judge
from ...psa_core.judges.kept import Answers, KeptJudge
from ...psa_core.mini.world import SIZE as MINI_SIDE
from ...psa_core.plots.grid import labelled_grid
from ...psa_core.profile import UserProfile
from ...psa_core.seeds import draw_seed
from .apply import apply_adapter
from .attn2 import cross_attention_sites
from .denoiser import has_size_vector
from .images import from_comfy
from .judges import judge_for, make_judge
from .mini_model import is_mini
from .training_inputs import encoded_texts

SAMPLERS, SCHEDULERS = list(KSampler.SAMPLERS), list(KSampler.SCHEDULERS)
_PIXELS_AT_ONCE = 512 * 512  # in one sampling run; a larger picture has one for itself
_SHOWN_SIDE = 768  # of the preview, in pixels
# Samplers whose only noise is the first: in a batch of theirs each picture is as if drawn alone. Others add noise on
# the way, which the pictures of a batch would not share.
_WITHOUT_NOISE = {
    "euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ddim", "uni_pc", "uni_pc_bh2", "ipndm", "ipndm_v", "deis",
}  # fmt: skip
_answers = Answers()
"""In memory, under a key of this process: a run whose judge failed goes on there when it is queued again."""


def native_side(model: ModelPatcher) -> int:
    """The width and height, in pixels, of the pictures that the model was trained on."""
    if is_mini(model):
        return MINI_SIDE
    return 1024 if has_size_vector(model.model) else 512


def evaluating_judge(model: ModelPatcher, judge: str, location: str, judge_model: str) -> Judge:
    """The judge that the node's inputs name. What it answered in a run that did not end it is not asked again.

    Raises:
        PSAError: as `judge_for` and `make_judge` do.
    """
    return KeptJudge(
        make_judge("PSA Evaluate", "psa evaluate", judge_for(model, judge), location, judge_model), _answers
    )


def forget_answers() -> None:
    """After a whole run: the next one asks anew."""
    _answers.drop()


class Method:
    """A name in the report, and the adapter that it draws with; the base model has none."""

    def __init__(
        self,
        name: str,
        adapter: PSAAdapter | None,
        profiles: Sequence[UserProfile],
        encoder: ProfileEncoder | None,
    ) -> None:
        self.name, self._adapter = name, adapter
        if adapter is not None:
            is_global = adapter.encoder_id == EveryoneEncoder.id  # it has an encoder of its own, which knows no profile
            self._users = (EveryoneEncoder() if is_global else encoder or StructuredEncoder()).encode(profiles)

    def apply_to(self, model: ModelPatcher, users: list[int], strength: float = 1.0) -> ModelPatcher:
        """The MODEL that draws row i for profile number `users[i]`."""
        if self._adapter is None:
            return model
        rows = UserEmbedding(self._users.vectors[users], self._users.encoder_id)
        return apply_adapter(model, self._adapter, rows, strength)


@dataclass(frozen=True)
class Sampling:
    """`size` is (width, height) in pixels; the rest as in KSampler."""

    size: tuple[int, int]
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str

    def __str__(self) -> str:
        width, height = self.size
        return (
            f"{width} x {height} pixels, {self.steps} steps of {self.sampler_name} ({self.scheduler}), CFG "
            f"{self.cfg:g}, seed {self.seed}"
        )


class Studio:
    """Draws captions as ComfyUI's own nodes do, each from the noise of its seed.

    Raises:
        PSAError: for a size that is no multiple of 8, or a VAE of another kind of model.
    """

    def __init__(self, model: ModelPatcher, clip: Any, vae: Any, sampling: Sampling) -> None:
        sites = cross_attention_sites(model.get_model_object("diffusion_model"))
        self._encode = partial(encoded_texts, clip, model, sites[0].context_dim)
        self._clip, self._context_dim = clip, sites[0].context_dim
        self._model, self._vae, self._sampling = model, vae, sampling
        width, height = sampling.size
        if width % 8 or height % 8:
            raise PSAError(f"Pictures are drawn in sizes that are multiples of 8, and not {width} x {height} pixels.")
        self._empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, height // 8, width // 8))
        if vae.latent_channels != self._empty.shape[1]:
            raise PSAError("This VAE belongs to another kind of model. Connect the one of the MODEL.")
        self.steps = sampling.steps
        self.at_once = max(1, _PIXELS_AT_ONCE // (width * height))
        self.alike_at_once = self.at_once if sampling.sampler_name in _WITHOUT_NOISE else 1  # each as if drawn alone

    def draw(self, method: Method, cases: Cases, part: slice, bar: ProgressBar) -> list[Image.Image]:
        """The pictures of the cases in `part`; `bar` counts pictures times steps.

        Record i's noise is a function of seed and i alone, so that every MODEL starts from the same.
        """
        captions = [prompt.caption for prompt in cases.prompts[part]]
        seeds = [draw_seed(self._sampling.seed, part.start + number) for number in range(len(captions))]
        model = method.apply_to(self._model, cases.users[part])
        return self.pictures(captions, seeds, model, lambda: bar.update(len(captions)))

    def pictures(
        self,
        captions: list[str],
        seeds: list[int],
        model: ModelPatcher | None = None,
        stepped: Callable[[], None] | None = None,
        negative: str = "",
    ) -> list[Image.Image]:
        """A picture for each caption, from the noise of its seed; Cancel raises out of it at each step.

        `negative` is what somebody typed: `embedding:name` counts in it.
        """
        opposite = self.conditioning([negative], are_typed=True)
        return self.pictures_of(self.conditioning(captions), opposite, seeds, model, stepped)

    def pictures_of(
        self,
        positive: list[list[Any]],
        negative: list[list[Any]],
        seeds: list[int],
        model: ModelPatcher | None = None,
        stepped: Callable[[], None] | None = None,
    ) -> list[Image.Image]:
        """As `pictures`, for conditionings of a row for each seed, or of one row for all."""

        def step(*_: Any) -> None:
            model_management.throw_exception_if_processing_interrupted()
            if stepped is not None:
                stepped()

        latents = comfy.sample.sample(
            model or self._model,
            torch.cat([comfy.sample.prepare_noise(self._empty, seed) for seed in seeds]),
            positive=positive,
            negative=negative,
            latent_image=self._empty.repeat(len(seeds), 1, 1, 1),
            callback=step,
            disable_pbar=True,
            seed=self._sampling.seed,
            steps=self._sampling.steps,
            cfg=self._sampling.cfg,
            sampler_name=self._sampling.sampler_name,
            scheduler=self._sampling.scheduler,
        )
        return from_comfy(self._vae.decode(latents))

    def conditioning(self, captions: list[str], are_typed: bool = False) -> list[list[Any]]:
        """A row for each caption, as `encoded_texts` reads it.

        Raises:
            PSAError: for a CLIP of another kind of model.
        """
        encoded = self._encode(captions, are_typed)
        return [[encoded["text"], {"pooled_output": encoded["pooled"]} if "pooled" in encoded else {}]]

    def prompt(self, text: str) -> list[list[Any]]:
        """One row, as CLIP Text Encode gives it: weights in parentheses count, and long prompts.

        Raises:
            PSAError: for a CLIP of another kind of model, or very many parentheses in each other.
        """
        try:
            tokens = self._clip.tokenize(text)
        except RecursionError:
            raise PSAError("The prompt has too many parentheses in each other. Take some out.") from None
        encoded = self._clip.encode_from_tokens_scheduled(tokens)
        if any(cond.shape[-1] != self._context_dim for cond, _ in encoded):
            raise PSAError("This CLIP belongs to another kind of model. Connect the one of the MODEL.")
        return encoded


def judged_drawings(studio: Studio, methods: Sequence[Method], cases: Cases, judge: Judge) -> list[Row]:
    """Every method's pictures, judged. Cancel raises out of it."""
    bar = ProgressBar(len(cases) * len(methods) * studio.steps)
    rows: list[Row] = []
    for part in cases.parts(studio.at_once):
        shown = []
        for method in methods:
            pictures = studio.draw(method, cases, part, bar)
            prompts, viewers = cases.prompts[part], cases.viewers[part]
            rows += judged_rows(judge, method.name, pictures, prompts, viewers)
            model_management.throw_exception_if_processing_interrupted()
            shown.append(pictures[0])
        grid = labelled_grid(shown, [method.name for method in methods], len(methods))
        bar.update_absolute(bar.current, preview=("JPEG", grid, _SHOWN_SIDE))
    return rows
