"""A training run in ComfyUI: its settings and folder, what it borrows, and what a person sees of it."""

import logging
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import folder_paths
from comfy import model_management
from comfy.utils import ProgressBar
from PIL import Image

from ...psa_core.adapter.model import PSAAdapter
from ...psa_core.dataset import read_split
from ...psa_core.encoders.protocol import ProfileEncoder
from ...psa_core.files import safe_file_name
from ...psa_core.plots.training import training_plot, with_pictures
from ...psa_core.processes import make_accelerator
from ...psa_core.training import PairSplit, Progress, TensorCache, TrainConfig, Trainer, read_metrics
from ...psa_core.training.assembly import Splits, as_begun, encoded_pairs
from ...psa_core.training.folder import RunFolder, load_result
from .attn2 import cross_attention_sites
from .denoiser import borrowed, check_trainable, has_size_vector
from .folders import system_folder
from .train_preview import LABELS, Preview
from .training_inputs import image_encoder, text_encoder
from .weights import refuse_bypassed

CUSTOM = "custom"
_WARMUP_STEPS = 50  # of a custom run; fixed, so that a run can be resumed with another number of steps
_EVALUATE_EVERY = 100
_PLOT_SECONDS = 2.0
_SHOWN_SIDE = 768  # of a preview, in pixels

_log = logging.getLogger(__name__)


def train(
    model: Any,
    clip: Any,
    vae: Any,
    dataset: PairSplit,
    held_out: PairSplit | None,
    harmless: PairSplit | None,
    encoder: ProfileEncoder,
    preset: str,
    settings: dict[str, Any],
    own: dict[str, Any],
    run_name: str,
    preview_every: int,
    node_id: str | None,
) -> tuple[PSAAdapter, Image.Image, str]:
    """Train, or go on, in the run's folder: the adapter, the plot, and how it ended. Cancel raises out of it.

    Args:
        harmless: what the anchor term keeps; without it the scenes that belong to the data set, where it has some.
        settings: of `TrainConfig`, whatever the preset is.
        own: those that count where the preset is `custom`.
        node_id: the node to show progress on, where there is a server.

    Raises:
        PSAError: for a MODEL that cannot be trained on, settings that do not fit, or as the trainer does.
    """
    check_trainable(model)
    refuse_bypassed(clip.patcher)
    processes = make_accelerator()  # refuses now, not after hours of encoding, where a package is missing
    settings = settings | {"evaluate_every": _EVALUATE_EVERY if held_out else 0}
    folder = run_folder(run_name)
    config = as_begun(training_config(preset, has_size_vector(model.model), settings, own), folder)
    RunFolder(folder).check()
    view = RunView(node_id, folder, preview_every)
    if harmless is None and dataset.harmless:
        harmless = read_split(dataset.folder.parent, dataset.harmless)
    splits = Splits(dataset, {held_out.name: held_out} if held_out else {}, harmless)
    context_dim = cross_attention_sites(model.model.diffusion_model)[0].context_dim
    images, texts = image_encoder(vae, model), text_encoder(clip, model, context_dim)
    cache = TensorCache(folder.parent / "_cache")  # no run can have that name
    pairs = encoded_pairs(splits, config, cache, images, texts, encoder, processes, view.encoded)
    with borrowed(model, config.precision) as denoiser:
        if preview_every:
            view.preview = Preview(denoiser, pairs.train, model.get_model_object("latent_format"))
        trainer = Trainer(config, denoiser, pairs.train, folder, pairs.held_out, processes)
        result = trainer.train(view, view.prepared)
    adapter = load_result(folder) if held_out else result.adapter
    _log.info("PSA Train '%s': %s", run_name, result.reason)
    return adapter, view.plot(), result.reason


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


class RunView:
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
