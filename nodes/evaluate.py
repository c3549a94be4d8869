"""PSA Evaluate: what an adapter draws for held-out users beside the base model's pictures, judged."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import comfy.sample
import numpy as np
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSampler
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from PIL import Image

from ..psa_core.adapter.model import PSAAdapter
from ..psa_core.encoders.embedding import UserEmbedding
from ..psa_core.encoders.everyone import EveryoneEncoder
from ..psa_core.encoders.structured import StructuredEncoder
from ..psa_core.errors import PSAError
from ..psa_core.evaluate import Judge, Prompt, Row, build_report, judged_rows
from ..psa_core.evaluate.report import BASE
from ..psa_core.judges import IMPERSONAL, judge_of
from ..psa_core.plots.grid import labelled_grid
from ..psa_core.profile import CATEGORIES, UserProfile
from ..psa_core.seeds import draw_seed
from ..psa_core.training import SageSplit
from . import sockets
from .comfy.apply import apply_adapter
from .comfy.attn2 import cross_attention_sites
from .comfy.training_inputs import text_encoder

PSA, RIVAL = "PSA", "rival"
JUDGES = {"mini detector": "mini", "Q16 classifier": "q16", "vision-language model": "vlm"}
_Q16_PROMPTS = ("prompts.p", "prompts.npy", "prompts.safetensors")
_PIXELS_AT_ONCE = 512 * 512  # in one sampling run; a larger picture has one for itself
_SHOWN_SIDE = 768  # of the preview, in pixels


class Evaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAEvaluate",
            display_name="PSA Evaluate",
            category=sockets.CATEGORY,
            description="Draws held-out captions for their users, with the adapter and without it from the same noise, "
            "has the pictures judged, and shows the figures with their 95 % intervals.",
            inputs=[
                io.Model.Input("model", tooltip="The model without an adapter."),
                io.Clip.Input("clip", tooltip="The model's text encoders."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                sockets.Adapter.Input("adapter", tooltip="The adapter to measure."),
                sockets.Dataset.Input("dataset", tooltip="Captions and users that the adapter has not learned from."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="What the adapters read profiles with. Unconnected: structured."
                ),
                sockets.Adapter.Input("rival_adapter", optional=True, tooltip="An adapter to compare with."),
                io.Combo.Input(
                    "judge",
                    options=list(JUDGES),
                    tooltip="mini detector: for PSA Mini's pictures. Q16 classifier: says what is inappropriate, "
                    "whoever looks. vision-language model: hears who looks.",
                ),
                io.String.Input(
                    "judge_location",
                    default="",
                    tooltip="mini detector: empty. Q16 classifier: a folder with a CLIP model and the classifier's "
                    "prompts.p. vision-language model: a model's folder, or the address of a server on this machine.",
                ),
                io.String.Input("judge_model", default="", tooltip="With an address: the model's name there."),
                io.Int.Input(
                    "count", default=50, min=1, max=10_000, tooltip="Records to draw, spread evenly over the dataset."
                ),
                io.Int.Input("width", default=512, min=64, max=2048, step=8, tooltip="Of a picture, in pixels."),
                io.Int.Input("height", default=512, min=64, max=2048, step=8, tooltip="Of a picture, in pixels."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,  # figures are to be compared from run to run
                    tooltip="Of the noise; each record has its own, the same for every adapter.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input(
                    "sampler_name", options=list(KSampler.SAMPLERS), default="dpmpp_2m", tooltip="As in KSampler."
                ),
                io.Combo.Input(
                    "scheduler", options=list(KSampler.SCHEDULERS), default="karras", tooltip="As in KSampler."
                ),
            ],
            outputs=[io.Image.Output(display_name="figure"), io.String.Output(display_name="table")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        adapter,
        dataset,
        judge,
        judge_location,
        judge_model,
        count,
        width,
        height,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        encoder=None,
        rival_adapter=None,
    ) -> io.NodeOutput:
        # A judge that is not there says so now, not after hours of drawing.
        judged_by = judge_of(JUDGES[judge], judge_options(judge, judge_location.strip(), judge_model.strip()))
        cases = Cases(dataset, count)
        adapters = {BASE: None, RIVAL: rival_adapter, PSA: adapter}  # the report compares a method with those before it
        methods = [
            Method(name, each, cases.profiles, encoder)
            for name, each in adapters.items()
            if each is not None or name == BASE
        ]
        for method in methods:
            method.apply_to(model, [0])  # refuses what does not fit before anything is drawn
        sampling = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        studio = Studio(model, clip, vae, (width, height), seed, sampling)
        rows = judged_drawings(studio, methods, cases, judged_by, personal=JUDGES[judge] not in IMPERSONAL)
        note = (
            f"{len(cases.prompts)} records of {len(cases.profiles)} users; {width} x {height} pixels, {steps} steps of "
            f"{sampler_name} ({scheduler}), CFG {cfg:g}, seed {seed}."
        )
        report = build_report(rows, dataset.name, judged_by.name, notes=(note,))
        table = report.to_markdown()
        figure = torch.from_numpy(np.array(report.to_figure())).float().div(255).unsqueeze(0)
        return io.NodeOutput(figure, table, ui={**ui.PreviewImage(figure).as_dict(), "text": (table,)})


def judged_drawings(
    studio: "Studio", methods: Sequence["Method"], cases: "Cases", judge: Judge, personal: bool
) -> list[Row]:
    """Every method's pictures, judged; `personal` says whether the judge hears who looks. Cancel raises out of it."""
    bar = ProgressBar(len(cases) * len(methods) * studio.steps)
    rows: list[Row] = []
    for part in cases.parts(studio.at_once):
        shown = []
        for method in methods:
            pictures = studio.draw(method, cases, part, bar)
            rows += judged_rows(judge, method.name, pictures, cases.prompts[part], cases.viewers[part], personal)
            model_management.throw_exception_if_processing_interrupted()
            shown.append(pictures[0])
        grid = labelled_grid(shown, [method.name for method in methods], len(methods))
        bar.update_absolute(bar.current, preview=("JPEG", grid, _SHOWN_SIDE))
    return rows


def judge_options(judge: str, location: str, model: str) -> dict[str, Any]:
    """What `judge_of` makes the judge from.

    Raises:
        PSAError: for a judge without the location that it needs, or with one that it has no use for.
    """
    if judge == "mini detector":
        if location:
            raise PSAError("The mini detector comes with the pack. Leave judge_location empty.")
        return {}
    if not location:
        raise PSAError(f"PSA Evaluate needs to know where the {judge} is. Write its place into judge_location.")
    if judge != "Q16 classifier" and location.startswith(("http://", "https://")):
        if not model:
            raise PSAError("A server may have several models. Write the judging one's name there into judge_model.")
        return {"address": location, "model": model}
    folder, device = Path(location).expanduser(), str(model_management.get_torch_device())
    if judge == "Q16 classifier":
        prompts = next((folder / name for name in _Q16_PROMPTS if (folder / name).is_file()), folder / _Q16_PROMPTS[0])
        return {"clip_folder": folder, "prompts_path": prompts, "device": device}
    return {"folder": folder, "device": device}


class Cases:
    """Up to `count` records, spread evenly over a split, as what is drawn and asked.

    `users` says for each record which of `profiles` it belongs to.
    """

    def __init__(self, dataset: SageSplit, count: int) -> None:
        numbers = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        records = [dataset[int(number)] for number in numbers]
        places: dict[UserProfile, int] = {}
        self.users = [places.setdefault(record.profile, len(places)) for record in records]
        self.profiles = list(places)
        self.viewers = [
            {profile.user_id or f"user {user}": profile}
            for user, profile in ((user, self.profiles[user]) for user in self.users)
        ]
        self.prompts = [
            Prompt(str(record.line), record.caption, record.category if record.category in CATEGORIES else None)
            for record in records
        ]

    def __len__(self) -> int:
        return len(self.prompts)

    def parts(self, at_once: int) -> Iterator[slice]:
        return (slice(start, start + at_once) for start in range(0, len(self), at_once))


class Method:
    """A name in the report, and the adapter that it draws with; the base model has none."""

    def __init__(
        self, name: str, adapter: PSAAdapter | None, profiles: Sequence[UserProfile], encoder: Any | None
    ) -> None:
        self.name, self._adapter = name, adapter
        if adapter is not None:
            is_global = adapter.encoder_id == EveryoneEncoder.id  # it has an encoder of its own, which knows no profile
            self._users = (EveryoneEncoder() if is_global else encoder or StructuredEncoder()).encode(profiles)

    def apply_to(self, model: ModelPatcher, users: list[int]) -> ModelPatcher:
        """The MODEL that draws row i for profile number `users[i]`."""
        if self._adapter is None:
            return model
        rows = UserEmbedding(self._users.vectors[users], self._users.encoder_id)
        return apply_adapter(model, self._adapter, rows)


class Studio:
    """Draws captions as ComfyUI's own nodes do, an empty negative prompt with them.

    Record i's noise is a function of seed and i alone, so that every MODEL starts from the same.
    """

    def __init__(
        self, model: ModelPatcher, clip: Any, vae: Any, size: tuple[int, int], seed: int, sampling: dict[str, Any]
    ) -> None:
        sites = cross_attention_sites(model.get_model_object("diffusion_model"))
        self._encode = text_encoder(clip, model, sites[0].context_dim).encode
        self._model, self._vae, self._seed, self._sampling = model, vae, seed, sampling
        width, height = size
        self._empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, height // 8, width // 8))
        self.steps: int = sampling["steps"]
        self.at_once = max(1, _PIXELS_AT_ONCE // (width * height))

    def draw(self, method: Method, cases: Cases, part: slice, bar: ProgressBar) -> list[Image.Image]:
        """The pictures of the cases in `part`; `bar` counts pictures times steps."""
        captions = [prompt.caption for prompt in cases.prompts[part]]
        seeds = [draw_seed(self._seed, part.start + number) for number in range(len(captions))]

        def step(*_: Any) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update(len(captions))

        latents = comfy.sample.sample(
            method.apply_to(self._model, cases.users[part]),
            torch.cat([comfy.sample.prepare_noise(self._empty, seed) for seed in seeds]),
            positive=self._conditioning(captions),
            negative=self._conditioning([""]),
            latent_image=self._empty.repeat(len(captions), 1, 1, 1),
            callback=step,
            disable_pbar=True,
            seed=self._seed,
            **self._sampling,
        )
        pixels = self._vae.decode(latents)[..., :3].clamp(0, 1)
        return [Image.fromarray(array) for array in (pixels * 255).round().byte().cpu().numpy()]

    def _conditioning(self, captions: list[str]) -> list[list[Any]]:
        encoded = self._encode(captions)
        return [[encoded["text"], {"pooled_output": encoded["pooled"]} if "pooled" in encoded else {}]]
