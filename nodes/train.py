"""PSA Train: a MODEL, a CLIP, a VAE and preference pairs become an adapter."""

import logging
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import folder_paths
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io
from PIL import Image

from ..psa_core.encoders.structured import StructuredEncoder
from ..psa_core.files import safe_file_name
from ..psa_core.plots.training import training_plot, with_pictures
from ..psa_core.processes import make_accelerator
from ..psa_core.training import (
    Progress,
    TensorCache,
    TrainConfig,
    Trainer,
    read_metrics,
)
from ..psa_core.training.assembly import Splits, as_begun, encoded_pairs
from ..psa_core.training.folder import RunFolder, load_result
from . import sockets
from .comfy.attn2 import cross_attention_sites
from .comfy.denoiser import borrowed, check_trainable, has_size_vector
from .comfy.folders import system_folder
from .comfy.images import to_comfy
from .comfy.train_preview import LABELS, Preview
from .comfy.training_inputs import image_encoder, text_encoder
from .comfy.weights import refuse_bypassed

CUSTOM = "custom"
_WARMUP_STEPS = 50  # of a custom run; fixed, so that a run can be resumed with another number of steps
_EVALUATE_EVERY = 100
_PLOT_SECONDS = 2.0
_SHOWN_SIDE = 768  # of a preview, in pixels

_log = logging.getLogger(__name__)


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        custom = "Counts only where the preset is custom."
        return io.Schema(
            node_id="PSATrain",
            display_name="PSA Train",
            category=sockets.CATEGORY,
            description="Trains an adapter on preference pairs. Cancel keeps everything; the same graph, queued again, "
            "goes on where it stopped. The run's folder is user/__psa_training/<run_name>.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.5 or SDXL, with LoRAs if you like. It is left as it is."),
                io.Clip.Input("clip", tooltip="The model's text encoders. Each caption is encoded once."),
                io.Vae.Input("vae", tooltip="The model's VAE. Each picture is encoded once."),
                sockets.Dataset.Input("dataset", tooltip="The pairs to learn from."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="What the adapter reads profiles with. Unconnected: structured."
                ),
                sockets.Dataset.Input(
                    "held_out",
                    optional=True,
                    tooltip="Pairs to measure on and not to learn from, such as the split val. The adapter that did "
                    "best on them comes out.",
                ),
                io.Combo.Input(
                    "preset",
                    options=["recommended", "published", CUSTOM],
                    default="recommended",
                    tooltip="published: the paper's settings. recommended: the same with the terms that keep pictures "
                    "from turning to noise. custom: the recommended terms with your values below, and batch_size "
                    "pairs a step.",
                ),
                io.Int.Input(
                    "steps", default=5000, min=1, max=1_000_000, tooltip="A run can be resumed with more of them."
                ),
                io.Float.Input("learning_rate", default=5e-6, min=1e-9, max=1.0, step=1e-7, round=1e-9, tooltip=custom),
                io.Int.Input(
                    "batch_size",
                    default=2,
                    min=1,
                    max=256,
                    tooltip="Pairs at a time: the memory it takes. With a preset a step is as many pairs as the paper "
                    "took (SD1.5 192, SDXL 128), whatever this is; it must divide that.",
                ),
                io.Int.Input("resolution", default=512, min=64, max=2048, step=64, tooltip=custom),
                io.Int.Input("num_tokens", default=1, min=1, max=64, tooltip=f"Tokens a profile becomes. {custom}"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,  # another seed would be another run, and Run resumes this one
                    tooltip="Of all that is drawn at random in training.",
                ),
                io.Int.Input("save_every", default=100, min=1, max=100_000, tooltip="Steps; Cancel saves as well."),
                io.Int.Input("preview_every", default=100, min=0, max=100_000, tooltip="Steps between two previews."),
                io.String.Input("run_name", default="my-adapter", tooltip="Another name starts another run."),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter"), io.Image.Output(display_name="plot")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        dataset,
        preset,
        steps,
        learning_rate,
        batch_size,
        resolution,
        num_tokens,
        seed,
        save_every,
        preview_every,
        run_name,
        encoder=None,
        held_out=None,
    ) -> io.NodeOutput:
        check_trainable(model)
        refuse_bypassed(clip.patcher)
        processes = make_accelerator()  # refuses now, not after hours of encoding, where a package is missing
        settings = {
            "steps": steps,
            "batch_size": batch_size,
            "seed": seed,
            "save_every": save_every,
            "evaluate_every": _EVALUATE_EVERY if held_out else 0,
        }
        own = {"learning_rate": learning_rate, "resolution": resolution, "num_tokens": num_tokens}
        folder = run_folder(run_name)
        config = as_begun(training_config(preset, has_size_vector(model.model), settings, own), folder)
        RunFolder(folder).check()
        report = Report(cls.hidden.unique_id, folder, preview_every)
        splits = Splits(dataset, {held_out.name: held_out} if held_out else {})
        context_dim = cross_attention_sites(model.model.diffusion_model)[0].context_dim
        images, texts = image_encoder(vae, model), text_encoder(clip, model, context_dim)
        cache = TensorCache(folder.parent / "_cache")  # no run can have that name
        encoder = encoder or StructuredEncoder()
        pairs = encoded_pairs(splits, config, cache, images, texts, encoder, processes, report.encoded)
        with borrowed(model, config.precision) as denoiser:
            if preview_every:
                report.preview = Preview(denoiser, pairs.train, model.get_model_object("latent_format"))
            result = Trainer(config, denoiser, pairs.train, folder, pairs.held_out, processes).train(
                report, report.prepared
            )
        adapter = load_result(folder) if held_out else result.adapter
        _log.info("PSA Train '%s': %s", run_name, result.reason)
        return io.NodeOutput(adapter, to_comfy([report.plot()]), ui={"text": (result.reason,)})


def training_config(preset: str, is_sdxl: bool, settings: dict[str, Any], own: dict[str, Any]) -> TrainConfig:
    """The preset for the model's kind with `settings`; `custom` is the recommended one with `own` values, too."""
    name = "recommended" if preset == CUSTOM else preset
    settings = settings | {"preset": f"{name}-sdxl" if is_sdxl else name, "gradient_checkpointing": True}
    if preset == CUSTOM:
        settings |= own | {"effective_batch_size": settings["batch_size"], "warmup_steps": _WARMUP_STEPS}
    return TrainConfig.from_dict(settings)


def run_folder(run_name: str) -> Path:
    """Where the run is kept: out of reach of ComfyUI's HTTP interface, and of what lists its outputs as assets.

    A run that an earlier version left in output/psa_training is moved there.

    Raises:
        PSAError: for a name that is not a plain one.
    """
    folder = system_folder("psa_training") / safe_file_name(run_name, "run name")
    earlier = Path(folder_paths.get_output_directory(), "psa_training", run_name)
    if (earlier / "state.pt").is_file() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(earlier, folder)
    return folder


class Report:
    """What a person sees of a run: progress bar, a line of text on the node, the plot, and preview pictures.

    As the trainer's callback it is called after each step; Cancel raises out of it.
    """

    def __init__(self, node_id: str | None, folder: Path, preview_every: int) -> None:
        self.preview: Preview | None = None
        self._node_id, self._folder, self._preview_every = node_id, folder, preview_every
        self._bar = ProgressBar(1)
        self._pictures: list[Image.Image] = []
        self._shown = 0.0

    def encoded(self, done: int, count: int) -> None:
        """Progress of filling the cache."""
        model_management.throw_exception_if_processing_interrupted()
        self._text(f"encoding pictures and captions: {done} of {count}")
        self._bar.update_absolute(done, count)

    def prepared(self, done: int, count: int) -> None:
        """Progress of the pass over the base model."""
        model_management.throw_exception_if_processing_interrupted()
        self._text(f"base model: {done} of {count}")
        self._bar.update_absolute(done, count)

    def __call__(self, progress: Progress) -> None:
        metrics = progress.metrics
        left = timedelta(seconds=round(metrics["eta_seconds"]))
        line = f"step {progress.step} of {progress.steps}, loss {metrics['preference_loss']:.4f}, "
        self._text(f"{line}accuracy {metrics['accuracy']:.2f}, {left} left\n{progress.message or ''}".strip())
        self._draw_preview(progress)
        image, now = None, time.monotonic()
        if now - self._shown > _PLOT_SECONDS or progress.step == progress.steps:
            plot = self.plot()
            image = ("JPEG", with_pictures(plot, self._pictures, LABELS) if self._pictures else plot, _SHOWN_SIDE)
            self._shown = now
        self._bar.update_absolute(progress.step, progress.steps, image)
        model_management.throw_exception_if_processing_interrupted()

    def plot(self) -> Image.Image:
        return training_plot(read_metrics(self._folder))

    def _draw_preview(self, progress: Progress) -> None:
        if self.preview is None or progress.step % self._preview_every:
            return
        try:
            self._pictures = self.preview.draw(progress.adapter())
        except model_management.OOM_EXCEPTION:
            _log.warning("PSA Train: there is no memory for preview pictures; the run goes on without them.")
            self.preview = None

    def _text(self, text: str) -> None:
        if self._node_id is not None:  # there is a server, then
            from server import PromptServer

            PromptServer.instance.send_progress_text(text, self._node_id)
