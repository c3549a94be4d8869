"""A training run in ComfyUI: its settings and folder, what it borrows, and what a person sees of it."""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import folder_paths
from comfy import model_management
from comfy.utils import ProgressBar
from PIL import Image

from ...psa_core.adapter.model import PSAAdapter
from ...psa_core.encoders.protocol import ProfileEncoder
from ...psa_core.errors import PSAError
from ...psa_core.files import safe_file_name
from ...psa_core.mini.adapters import CONFIG
from ...psa_core.plots.training import training_plot, with_pictures
from ...psa_core.processes import make_accelerator
from ...psa_core.training import Progress, TensorCache, TrainConfig, Trainer, read_metrics
from ...psa_core.training.assembly import Splits, as_begun, encoded_pairs, own_harmless
from ...psa_core.training.folder import RunFolder, load_result
from ...psa_core.training.metrics import DRIFT_REMEDY
from .attn2 import cross_attention_sites
from .denoiser import borrowed, check_trainable, has_size_vector
from .folders import system_folder
from .kept_runs import keep_run
from .mini_model import is_mini
from .say import say
from .train_preview import LABELS, Preview
from .training_inputs import image_encoder, text_encoder
from .weights import is_whole, refuse_bypassed

CUSTOM = "custom"
Kind = Literal["sd15", "sdxl", "mini"]
# Of a custom run: a constant rate can be resumed with another number of steps, and rates stand for these optimizers.
_CUSTOM = {"warmup_steps": 50, "schedule": "constant", "weight_decay": 1e-2, "ema_decay": 0.0}
_EVALUATIONS, _EVALUATE_EVERY = 10, 100  # at least so many a run, and at most so many steps between two
_PLOT_SECONDS = 2.0
_SHOWN_SIDE = 768  # of a preview, in pixels
_REMEDY = "Try another run (run_name) with fewer steps, or with the preset custom and a lower learning_rate."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the node's inputs ask of a run.

    Attributes:
        settings: of `TrainConfig`, whatever the preset is; of `steps` and `batch_size` 0 is the preset's.
        own: those that count where the preset is `custom`.
        preview_every: steps; 0 draws no previews.
    """

    run_name: str
    preset: str
    settings: Mapping[str, Any]
    own: Mapping[str, Any]
    preview_every: int


def train(
    model: Any, clip: Any, vae: Any, splits: Splits, encoder: ProfileEncoder, wanted: Wanted, node_id: str | None
) -> tuple[PSAAdapter, Image.Image, str]:
    """Train, or go on, in the run's folder: the adapter, the plot, and how it ended, with what it warned of.

    Cancel raises out of it.

    Args:
        splits: without harmless ones, the scenes that belong to the data set are, where it has some.
        node_id: the node to show progress on, where there is a server.

    Raises:
        PSAError: for a MODEL that cannot be trained on, settings that do not fit, or as the trainer does.
    """
    folder = run_folder(wanted.run_name)
    view = RunView(node_id, folder, wanted.preview_every)
    with _ends_in_words(view):
        view.say("looking at the model and the data set")
        check_trainable(model)
        refuse_bypassed(clip.patcher)
        processes = make_accelerator()  # refuses now, not after hours of encoding, where a package is missing
        config = training_config(wanted.preset, kind_of(model), wanted.settings, wanted.own)
        view.steps = config.steps
        if splits.held_out:
            config = config.changed(evaluate_every=evaluate_every(config.steps))
        config = as_begun(config, folder)
        RunFolder(folder).check()
        view.say("getting VAE and text encoder ready")
        if splits.harmless is None:
            splits = replace(splits, harmless=own_harmless(splits.train))
        context_dim = cross_attention_sites(model.model.diffusion_model)[0].context_dim
        whole = _tells_all_weights(folder)
        images, texts = image_encoder(vae, model, whole), text_encoder(clip, model, context_dim, whole)
        cache = TensorCache(folder.parent / "_cache")  # no run can have that name
        pairs = encoded_pairs(splits, config, cache, images, texts, encoder, processes, view.encoded)
        view.say("getting the model ready to train")
        with borrowed(model, config.precision, whole) as denoiser:
            if wanted.preview_every:
                view.preview = Preview(denoiser, pairs.train, model.get_model_object("latent_format"))
            trainer = Trainer(config, denoiser, pairs.train, folder, pairs.held_out, processes)
            result = trainer.train(
                view, preparing=view.prepared, announce=view.announced, measuring=view.measured, warn=view.warned
            )
        adapter = load_result(folder) if splits.held_out else result.adapter
        keep_run(wanted.run_name, folder)
        _log.info("PSA Train '%s': %s", wanted.run_name, result.reason)
        return adapter, view.plot(), "\n".join([result.reason, *view.warnings])


def _tells_all_weights(folder: Path) -> bool:
    """Whether the run's ids are made of all weights; one that an earlier version began keeps its own."""
    identity = (RunFolder(folder).load() or {}).get("identity")
    base = identity.get("base") if isinstance(identity, dict) else None
    if not isinstance(base, str) or is_whole(base):
        return True
    _log.warning(
        "%s was begun by an earlier version, which looked at a part of the weights of model, CLIP and VAE: see to it "
        "that they are the same.",
        folder,
    )
    return False


@contextmanager
def _ends_in_words(view: "RunView") -> Iterator[None]:
    """Cancel leaves a sentence on the node, and an error speaks of the node's inputs."""
    try:
        yield
    except model_management.InterruptProcessingException:
        view.stopped()
        raise
    except PSAError as error:
        if "another folder" not in str(error):
            raise
        raise PSAError(f"{error} In PSA Train the folder follows run_name: another name is another folder.") from error


def kind_of(model: Any) -> Kind:
    """For which of the presets' kinds the MODEL is."""
    if is_mini(model):
        return "mini"
    return "sdxl" if has_size_vector(model.model) else "sd15"


def training_config(preset: str, kind: Kind, settings: Mapping[str, Any], own: Mapping[str, Any]) -> TrainConfig:
    """The preset for the model's kind with `settings`.

    `custom` has the recommended terms with `own` values, under AdamW (SDXL: Adafactor) at a constant rate. Mirroring
    can be switched off, and numbers be given; else they are the preset's.
    """
    name = "recommended" if preset == CUSTOM else preset
    is_minis_own = (preset, kind) == ("recommended", "mini")
    made = TrainConfig.from_dict(CONFIG if is_minis_own else {"preset": f"{name}-sdxl" if kind == "sdxl" else name})
    left_open = (("flip", True), ("steps", 0), ("batch_size", 0))
    settings = {each: value for each, value in settings.items() if (each, value) not in left_open}
    settings |= {"gradient_checkpointing": kind != "mini"}
    at_once = settings.get("batch_size", made.batch_size)
    if preset == CUSTOM:
        optimizer = {"optimizer": "adafactor" if kind == "sdxl" else "adamw"}
        return made.changed(**settings, **own, **_CUSTOM, **optimizer, effective_batch_size=at_once)
    a_step = made.effective_batch_size
    if a_step % at_once:
        fits = ", ".join(str(number) for number in range(1, a_step + 1) if a_step % number == 0)
        raise PSAError(
            f"With the preset {preset} a step is {a_step} pairs, and batch_size must divide that. Choose one of "
            f"{fits}, or the preset custom, with which a step is batch_size pairs."
        )
    return made.changed(**settings)


def evaluate_every(steps: int) -> int:
    """How many steps lie between two looks at held-out pairs: a short run gets some, too, and so a best adapter."""
    return max(1, min(_EVALUATE_EVERY, steps // _EVALUATIONS))


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
        self.steps: int | None = None
        self.folder, self._node_id, self._preview_every = folder, node_id, preview_every
        self._bar = ProgressBar(1)
        self._pictures: list[Image.Image] = []
        self._announced: list[str] = []
        self.warnings: list[str] = []
        self._shown = 0.0

    def encoded(self, done: int, count: int) -> None:
        """Progress of filling the cache."""
        model_management.throw_exception_if_processing_interrupted()
        self.say(f"encoding pictures and captions: {done} of {count}")
        self._bar.update_absolute(done, count)

    def prepared(self, done: int, count: int) -> None:
        """Progress of the pass over the base model."""
        model_management.throw_exception_if_processing_interrupted()
        self._show(f"base model: {done} of {count}")
        self._bar.update_absolute(done, count)

    def measured(self, done: int, count: int) -> None:
        """Progress of a look at held-out pairs."""
        model_management.throw_exception_if_processing_interrupted()
        self._show(f"held-out pairs: {done} of {count}")

    def announced(self, sentence: str) -> None:
        """What the run will take; it stays above the progress."""
        _log.info("PSA Train: %s", sentence)
        self._announced.append(sentence)
        self._show()

    def warned(self, sentence: str) -> None:
        """What a person should know of the run; it stays on the node to the end, and speaks of the node's inputs."""
        _log.warning("PSA Train: %s", sentence)
        self._keep(sentence)
        self._show()

    def _keep(self, sentence: str) -> None:
        sentence = sentence.replace(DRIFT_REMEDY, _REMEDY)
        is_drift = sentence.endswith(_REMEDY)  # of which the latest counts
        before = [each for each in self.warnings if each != sentence and not (is_drift and each.endswith(_REMEDY))]
        self.warnings = [*before, sentence]

    def _show(self, *lines: str) -> None:
        self.say("\n".join([*lines, *self.warnings, *self._announced]))

    def __call__(self, progress: Progress) -> None:
        metrics = progress.metrics
        left = timedelta(seconds=round(metrics["eta_seconds"]))
        line = f"step {progress.step} of {progress.steps}, loss {metrics['preference_loss']:.4f}, "
        line += f"accuracy {metrics['accuracy']:.2f}, {left} left"
        if progress.message:
            self._keep(progress.message)
        self._show(line)
        self._draw_preview(progress)
        image, now = None, time.monotonic()
        if now - self._shown > _PLOT_SECONDS or progress.step == progress.steps:
            plot = self.plot()
            image = ("JPEG", with_pictures(plot, self._pictures, LABELS) if self._pictures else plot, _SHOWN_SIDE)
            self._shown = now
        self._bar.update_absolute(progress.step, progress.steps, image)
        model_management.throw_exception_if_processing_interrupted()

    def plot(self) -> Image.Image:
        return training_plot(read_metrics(self.folder))

    def _draw_preview(self, progress: Progress) -> None:
        if self.preview is None or progress.step % self._preview_every:
            return
        try:
            self._pictures = self.preview.draw(progress.adapter())
        except model_management.OOM_EXCEPTION:
            self.preview = None
            self.warned("There is no memory for preview pictures: the run goes on without them (preview_every).")

    def stopped(self) -> None:
        """What Cancel leaves, and how to go on."""
        done = len(read_metrics(self.folder))
        kept = (
            f"at step {done}{f' of {self.steps}' if self.steps else ''}: all of it is saved"
            if done
            else "before the first step: what is encoded is kept"
        )
        stopped = f"Stopped {kept}. Run goes on there, as long as run_name and settings stay."
        self.say("\n".join([stopped, *self.warnings]))

    def say(self, text: str) -> None:
        say(text, self._node_id)
