"""`psa train --config run.toml`, in one process or under `accelerate launch`."""

import argparse
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from ..encoders.stored import StoredEncoder
from ..encoders.structured import BY_NAME
from ..errors import PSAError
from ..extras import require
from ..processes import make_accelerator
from ..settings import BaseSettings, FilePath, Listed, read_toml
from ..signals import stop_signals
from ..training.assembly import folder_trainer, read_splits
from ..training.config import TrainConfig
from ..training.loading import LostWorkerError
from ..training.trainer import Progress, TrainResult
from .progress import Bar


class RunFile(BaseSettings):
    """A run's TOML file: where things are, and a `[training]` table of `TrainConfig` settings.

    Paths are relative to the file's folder. `encoder` is one that needs no model, by name, or a folder of
    `{User_ID}.npy` embeddings; `users` is a Sage users file, which says what each record's user bans;
    `harmless` names a split that the anchor term keeps as it is.
    """

    what: ClassVar[str] = "run file entry"
    where: ClassVar[str] = "The run file"

    model: FilePath
    data: FilePath
    output: FilePath
    cache: FilePath = Path()  # output/cache
    training: TrainConfig = Field(default_factory=lambda: TrainConfig.from_dict({}))
    encoder: str = "structured"
    users: FilePath | None = None
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
        named = [name for name in ("model", "data", "output", "users") if getattr(run, name) is not None]
        paths = {name: base / getattr(run, name) for name in named}
        paths["cache"] = base / run.cache if "cache" in run.model_fields_set else paths["output"] / "cache"
        encoder = run.encoder if run.encoder in BY_NAME else str(base / run.encoder)
        return run.model_copy(update={**paths, "encoder": encoder})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="the run's TOML file")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad records out and list them")


def run(args: argparse.Namespace) -> int:
    """Train as the run file says; a folder that holds an unfinished run is resumed.

    Ctrl-C, SIGTERM (a cluster's notice) and SIGHUP (a terminal's end) stop it, within a step and with all that is done
    saved; the exit code is then 130, 143 or 129.
    """
    require("train", "Training on a model folder", "diffusers", "tqdm", "transformers")
    run_file = RunFile.read(args.config)
    processes = make_accelerator()
    say = print if processes.is_main_process else _silent
    signals = _Signals()
    try:
        result = _train(run_file, processes, args.skip_bad, signals, say)
    except (KeyboardInterrupt, SystemExit):
        say("Unfinished: stopped before the first step. Start again to go on.")
        raise
    except LostWorkerError:
        if not signals.received:
            raise
        say("Unfinished: stopped within a step, which counts as not made. Start again to go on.")
        return 128 + signals.received
    say(result.reason if result.finished else f"Unfinished. {result.reason}")
    say(f"Adapter: {run_file.output / 'last.safetensors'}")
    return 0 if result.finished else 128 + signals.received


def _train(
    run_file: RunFile, processes: Any, skip_bad: bool, signals: "_Signals", say: Callable[..., None]
) -> TrainResult:
    name = run_file.encoder
    encoder = BY_NAME[name]() if name in BY_NAME else StoredEncoder(name)
    names = (run_file.split, run_file.held_out, run_file.harmless)
    splits = read_splits(run_file.data, encoder, *names, skip_bad, run_file.users)
    for split in splits.all:
        say(f"{split.name}: {len(split)} pairs, {split.users} users, {len(split.skipped)} left out")
        for sentence in (*split.notes, *(f"left out: {skipped}" for skipped in split.skipped)):
            say(f"  {sentence}")
    config, folders = run_file.training, (run_file.cache, run_file.output)
    trainer = folder_trainer(config, run_file.model, splits, encoder, *folders, processes)
    with Bar(processes.is_main_process, "step") as bar, signals:

        def callback(progress: Progress) -> bool:
            loss, accuracy = (progress.metrics[name] for name in ("loss", "accuracy"))
            figures = {"loss": f"{loss:.4f}", "accuracy": f"{accuracy:.2f}"}
            bar.show(progress.step, progress.steps, progress.message, **figures)
            return bool(signals.received)

        def between(_done: int, _count: int) -> bool:
            return bool(signals.received)

        return trainer.train(callback, preparing=between, announce=say, measuring=between)


class _Signals:
    """Within the block Ctrl-C and its like wait until somebody asks; a second Ctrl-C does not."""

    received = 0  # the first one's number

    def _receive(self, number: int, _frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def __enter__(self) -> None:
        numbers = (signal.SIGINT, *stop_signals())
        self._before = {number: signal.signal(number, self._receive) for number in numbers}

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _silent(*_: Any) -> None:
    """Says nothing: another process does."""
