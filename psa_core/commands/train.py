"""`psa train --config run.toml`, in one process or under `accelerate launch`."""

import argparse
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from ..errors import PSAError
from ..extras import require
from ..processes import make_accelerator
from ..settings import BaseSettings, FilePath, Listed, read_toml
from ..training.config import TrainConfig
from ..training.trainer import Progress, Trainer
from .progress import Bar


class RunFile(BaseSettings):
    """A run's TOML file: where things are, and a `[training]` table of `TrainConfig` settings.

    Paths are relative to the file's folder. `encoder` is `structured`, or a folder of
    `{User_ID}.npy` embeddings; `harmless` names a split that the anchor term keeps as it is.
    """

    what: ClassVar[str] = "run file entry"
    where: ClassVar[str] = "The run file"

    model: FilePath
    data: FilePath
    output: FilePath
    cache: FilePath = Path()  # output/cache
    training: TrainConfig = TrainConfig()
    encoder: str = "structured"
    split: str = "train"
    held_out: Annotated[tuple[str, ...], Listed] = Field((), description='a list of splits, such as ["val"]')
    harmless: str | None = None

    @field_validator("training", mode="before")
    @classmethod
    def _with_preset(cls, training: Any) -> TrainConfig:
        if not isinstance(training, Mapping):
            raise PSAError("'training' must be a table: a line [training], then its settings.")
        return TrainConfig.from_dict(training)

    @classmethod
    def read(cls, path: Path | str) -> "RunFile":
        """Raises PSAError naming an unknown, missing or mistyped entry."""
        base, run = Path(path).parent, cls(**read_toml(path))
        paths = {name: base / getattr(run, name) for name in ("model", "data", "output")}
        paths["cache"] = base / run.cache if "cache" in run.model_fields_set else paths["output"] / "cache"
        encoder = run.encoder if run.encoder == "structured" else str(base / run.encoder)
        return run.model_copy(update={**paths, "encoder": encoder})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="the run's TOML file")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad records out and list them")


def run(args: argparse.Namespace) -> int:
    """Train as the run file says; a folder that holds an unfinished run is resumed. Ctrl-C saves and stops."""
    require("train", "Training on a model folder", "diffusers", "tqdm", "transformers")
    run_file = RunFile.read(args.config)
    accelerator = make_accelerator()
    say = print if accelerator.is_main_process else _silent
    trainer = _build(run_file, accelerator, args.skip_bad, say)
    with _stop_on_signals() as stopped, Bar(accelerator.is_main_process, "step") as bar:

        def callback(progress: Progress) -> bool:
            loss, accuracy = (progress.metrics[name] for name in ("loss", "accuracy"))
            figures = {"loss": f"{loss:.4f}", "accuracy": f"{accuracy:.2f}"}
            bar.show(progress.step, progress.steps, progress.message, **figures)
            return stopped()

        result = trainer.train(callback)
    say(result.reason)
    say(f"Adapter: {run_file.output / 'last.safetensors'}")
    return 0


def _build(run_file: RunFile, accelerator: Any, skip_bad: bool, say: Callable[..., None]) -> Trainer:
    from ..dataset.sage import read_split
    from ..training.cache import TensorCache
    from ..training.diffusers_models import DiffusersFolder
    from ..training.inputs import encode_users, fill_cache
    from ..training.pairs import PairDataset

    config = run_file.training
    names = dict.fromkeys([run_file.split, *run_file.held_out, *([run_file.harmless] if run_file.harmless else [])])
    encoder = _encoder(run_file.encoder)
    models = DiffusersFolder(run_file.model, accelerator.device, config)
    embeddings = encoder if isinstance(encoder, Path) else None
    splits = {name: read_split(run_file.data, name, skip_bad, embeddings) for name in names}
    for split in splits.values():
        say(f"{split.name}: {len(split)} pairs, {split.users} users, {len(split.skipped)} left out")
        for sentence in split.skipped:
            say(f"  left out: {sentence}")
    images, texts, cache = models.image_encoder(), models.text_encoder(), TensorCache(run_file.cache)
    for split in splits.values():
        fill_cache(split, cache, config, images, texts, accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    models.release()

    def dataset(name: str, **options: Any) -> PairDataset:
        users = encode_users(splits[name], encoder)
        return PairDataset(splits[name], cache, config, images, texts, users, **options)

    harmless = dataset(run_file.harmless, held_out=True) if run_file.harmless else None
    return Trainer(
        config,
        models.denoiser(),
        dataset(run_file.split, harmless=harmless),
        run_file.output,
        {name: dataset(name, held_out=True) for name in run_file.held_out},
    )


def _encoder(name: str) -> Any:
    from ..encoders.structured import StructuredEncoder

    if name == "structured":
        return StructuredEncoder()
    if not Path(name).is_dir():
        raise PSAError(f"There is no folder of profile embeddings at {name}. Check 'encoder' in the run file.")
    return Path(name)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM (a cluster's notice) become a clean stop at the end of the step."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _frame: received.append(number)) for number in signals]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _silent(*_: Any) -> None:
    """Says nothing: another process does."""
