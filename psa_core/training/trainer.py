"""The trainer: LPPD over a Denoiser, with exact resume and any number of processes."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ..adapter.model import PSAAdapter
from ..errors import PSAError
from ..processes import OneProcess, anyone, from_main, mean_over_processes
from .batches import PairBatches
from .config import MEASURED, TrainConfig
from .denoiser import Denoiser
from .estimate import NOT_MEASURED, Announce, FirstSteps, announcement, count_memory, is_unmeasured, to_mind
from .folder import RunFolder
from .heldout import held_out_figures
from .identity import difference, run_identity
from .loading import loaded, lost_worker
from .metrics import MetricsLog, Pace, check_finite
from .objective import NoiseSchedule, Objective
from .optimizers import apply_gradients, learning_rate
from .pairs import PairDataset
from .reference import ReferencedPairs
from .rows import RowMaker, batch_loss
from .run import Run, StateError, check_state, new_key
from .timesteps import deciding_timesteps

_log = logging.getLogger(__name__)


class StopTraining(Exception):  # noqa: N818  (a request, not an error)
    """Raised by a callback: save the state and return."""


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each optimizer step.

    `metrics` are plain numbers by name; `message` is a warning, where there is one; `adapter()` makes
    the adapter as it is now, on the CPU, ready for a preview or a file.
    """

    step: int
    steps: int
    metrics: Mapping[str, float]
    message: str | None
    adapter: Callable[[], PSAAdapter]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `finished` is false where it was stopped and can go on; `reason` is a sentence."""

    adapter: PSAAdapter
    step: int
    finished: bool
    reason: str


Callback = Callable[[Progress], bool | None]
Warn = Callable[[str], None]
"""Called with a sentence on the whole run that whoever trains should know of."""
Preparing = Callable[[int, int], bool | None]


class Trainer:
    """Trains one adapter in one run folder; a folder that holds a run is resumed, exactly.

    The folder: `state.safetensors` (all that a resume needs), `last.safetensors`, `best.safetensors` (by the
    first held-out split's loss), `metrics.jsonl`, `tensorboard/`.

    Args:
        config: the run's settings.
        denoiser: the frozen base model.
        pairs: the training pairs.
        folder: the run's folder; made if it is not there.
        held_out: splits to evaluate on, by name (built with `held_out=True`).
        processes: those that train together, from `make_accelerator`; one where none are given.
        key: that a new run's first weights follow from (see `Run`); a random one where none is given.
    """

    def __init__(
        self,
        config: TrainConfig,
        denoiser: Denoiser,
        pairs: PairDataset,
        folder: Path | str,
        held_out: Mapping[str, PairDataset] | None = None,
        processes: Any = None,
        key: bytes | None = None,
    ) -> None:
        self.config, self.denoiser, self.pairs = config, denoiser, pairs
        self.held_out = dict(held_out or {})
        if config.evaluate_every and not self.held_out:
            raise PSAError("Evaluation is on (evaluate_every), but there is no held-out split. Name one, such as val.")
        if config.reference_draws and not denoiser.id:
            raise PSAError("Reusing reference errors needs an id of the base model, to know whose they are.")
        self._folder, self._key = RunFolder(folder), key
        self._processes = processes or OneProcess()
        self._objective = Objective(config.beta, config.winner_weight, config.anchor_weight)
        self._schedule = NoiseSchedule(denoiser.alphas_cumprod, denoiser.prediction_type)
        self._settle(None)
        self._accumulation = config.accumulation(self._processes.num_processes)

    def _settle(self, measured: tuple[int, int] | None) -> None:
        """What steps and rows are made by: the settings, with a measured range of timesteps in its place."""
        self._settled = self.config
        if self.config.timestep_range == MEASURED:
            measured = measured or (0, len(self._schedule.alphas_cumprod))
            self._settled = self.config.changed(timestep_range=measured)
        self._rows = RowMaker(self._schedule, self._settled, self.denoiser.device)

    def train(
        self,
        callback: Callback | None = None,
        preparing: Preparing | None = None,
        announce: Announce | None = None,
        measuring: Preparing | None = None,
        warn: Warn | None = None,
    ) -> TrainResult:
        """Train to the end, or until the callback returns true or raises.

        After a stop the state is saved; `StopTraining` returns, any other exception is raised again, also
        one that came from inside a step (the step then counts as not made). `preparing` is asked likewise in
        each pass over the base model before the first step, and gets (parts done, of how many); so is `measuring`
        before each batch of held-out pairs, whose figures are then measured when the run goes on. `announce` gets
        sentences on what the run will take: before the first step, and once its pace is known. `warn` gets, each time
        the run begins or goes on, what is to be minded about it; the log has it where there is none.

        Raises:
            PSAError: for a NaN loss (the last good state is kept), a full disk, a damaged state, or a folder of
                another run, or in which another process trains.
            LostWorkerError: where a process that loads pictures was ended from outside; the state is saved.
        """
        self._measuring = measuring or (lambda _done, _count: None)
        held = self._folder.held() if self._processes.is_main_process else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), held:
            self._processes.wait_for_everyone()
            try:
                return self._train(callback, preparing, announce, warn or _log.warning)
            except RuntimeError as error:
                if lost := lost_worker(error):
                    raise lost from error
                raise
            finally:
                self.denoiser.release()

    def _train(
        self, callback: Callback | None, preparing: Preparing | None, announce: Announce | None, warn: Warn
    ) -> TrainResult:
        run = self._begin(warn)
        if self._processes.is_main_process:
            for sentence in to_mind(run, self.pairs, self.config):
                warn(sentence)
        ask = preparing or (lambda _done, _count: None)
        stop, items = self._prepared(run, lambda *counts: self._agreed(lambda: ask(*counts)))
        if isinstance(stop, BaseException) and not isinstance(stop, StopTraining):
            raise stop
        if stop:
            return self._result(run, "Stopped in the pass over the base model; start again to go on.", False)
        if announce and self._processes.is_main_process and run.step < self.config.steps:
            memory = count_memory(run, self.denoiser, self.pairs, self._rows, self._objective, self.config)
            announce(announcement(self.config, run.step, len(self.pairs), memory, run.timestep_range))
            if is_unmeasured(self.config, self.denoiser.cross_attention_dim):
                announce(NOT_MEASURED)
        log = None
        if self._processes.is_main_process:
            reported = run.step - (run.pending is not None)
            log = MetricsLog(self._folder.path, reported, self.config.tensorboard)
        try:
            return self._go_on(run, items, log, callback, FirstSteps(announce))
        finally:
            if log:
                log.close()

    def _prepared(self, run: Run, stopped: Callable[[int, int], Any]) -> tuple[Any, Dataset]:
        """The passes over the base model that come before the first step: what stopped them, and what batches are
        made of.
        """
        if self.config.timestep_range == MEASURED and run.timestep_range is None:
            measured, stop = deciding_timesteps(self.denoiser, self.pairs, self._schedule, self.config, stopped)
            if measured is None:
                return stop, self.pairs
            run.timestep_range = _as_main_has_it(self._processes, measured)
            self._save(run)
        self._settle(run.timestep_range)
        items = self._items()
        if isinstance(items, ReferencedPairs):
            return items.compute(self.denoiser, self._rows, self._processes, stopped), items
        return None, items

    def _items(self) -> Dataset:
        """What batches are made of."""
        if not self.config.reference_draws:
            return self.pairs
        return ReferencedPairs(self.pairs, self._settled, self.denoiser)

    def _begin(self, warn: Warn) -> Run:
        """The run that the folder holds, or a new one, whose state is written at once: only it holds the key."""
        state = self._state(warn)
        self._processes.wait_for_everyone()  # all have seen the same before one writes
        if state is not None:
            try:
                return Run.of_state(state, self.config, self.denoiser, self.pairs)
            except StateError as error:
                raise self._folder.damaged(error) from error
        key = from_main(self._processes, new_key() if self._key is None else self._key)
        run = Run(self.config, self.denoiser, self.pairs, key)
        self._save(run)
        return run

    def _state(self, warn: Warn) -> dict[str, Any] | None:
        state = self._folder.load()
        if state is None:
            return None
        try:
            check_state(state)
        except StateError as error:
            raise self._folder.damaged(error) from error
        if other := difference(state["identity"], self._identity(), state["step"]):
            raise PSAError(
                f"The folder {self._folder.path} holds a run with {other}. Choose another folder, or delete that one "
                "to start anew."
            )
        if "base" not in state["identity"]:
            warn(
                f"{self._folder.path} was begun by an earlier version, which noted nothing of base model and pictures "
                "that can be compared: see to it that they are the same."
            )
        return state

    def _identity(self) -> dict[str, Any]:
        return run_identity(self.config, self.denoiser, self.pairs, self.held_out)

    # The loop

    def _go_on(
        self, run: Run, items: Dataset, log: MetricsLog | None, callback: Callback | None, first: FirstSteps
    ) -> TrainResult:
        config, pace = self.config, Pace(self.config.effective_batch_size)
        policy, batches = self._processes.prepare(run.policy), self._batches(items, run.step)
        if run.step:  # what lies there may be of a later step than the state, or damaged
            self._write_adapter(run, "last.safetensors")
        if math.isfinite(run.best):
            self._folder.check_best(run.best_file, run.step - (run.pending is not None))
        while run.pending is not None or (run.step < config.steps and not run.end):
            message = None
            if run.pending is None:
                pace.start()
                first.begin()
                metrics = self._step(run, policy, batches)
                first.end(config.steps - run.step)
                run.pending = metrics | pace.step(config.steps - run.step)
                message = run.watch.update(metrics)
                if message and config.on_winner_rise == "stop":
                    run.end = message
            try:
                metrics = self._report(run, log, message)
            except BaseException as error:  # the step is made: what is left of it is done when the run goes on
                self._save(run, log)
                if isinstance(error, StopTraining):
                    return self._stopped(run)
                raise
            stopped = self._ask(callback, run, metrics, message)
            if stopped or run.end or run.step % config.save_every == 0 or run.step == config.steps:
                self._save(run, log)
            if isinstance(stopped, BaseException) and not isinstance(stopped, StopTraining):
                raise stopped
            if stopped:
                return self._stopped(run)
        return self._result(run, run.end or f"All {run.step} steps are done.", True)

    def _batches(self, items: Dataset, step: int) -> Iterator[dict[str, Any]]:
        """The endless batches from `step` on."""
        config, processes = self.config, self._processes
        batches = PairBatches(
            self.pairs.bucket_ids,
            config.batch_size,
            config.seed,
            processes.process_index,
            processes.num_processes,
            config.reference_draws,
            given=step * self._accumulation * processes.num_processes,
            scene_ids=self.pairs.scene_ids,
        )
        return loaded(items, batches, config.workers)

    def _step(self, run: Run, policy: nn.Module, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """One optimizer step. What interrupts it, such as a cancel from inside the model, leaves the one before."""
        config = self.config
        try:
            metrics = self._gradients(run, policy, batches)
        except BaseException:  # also a picture that is gone
            self._save(run)
            raise
        check_finite("loss", metrics["loss"], run.step + 1)
        rate = learning_rate(config, run.step)
        norm = apply_gradients(run.optimizer, run.parameters, rate, config.max_grad_norm)
        check_finite("gradient", norm, run.step + 1)
        run.advance()
        return {**metrics, "gradient_norm": norm, "learning_rate": rate}

    def _gradients(self, run: Run, policy: nn.Module, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """Forward and backward over the accumulated batches; the mean of the objective's figures."""
        sums: dict[str, torch.Tensor] = {}
        run.optimizer.zero_grad(set_to_none=True)
        for number in range(self._accumulation):
            batch, last = next(batches), number == self._accumulation - 1
            with nullcontext() if last else self._processes.no_sync(policy):
                loss, terms = batch_loss(batch, policy, self._rows, self.denoiser, self._objective)
                (loss / self._accumulation).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / self._accumulation
        return mean_over_processes(self._processes, sums)

    def _report(self, run: Run, log: MetricsLog | None, message: str | None) -> dict[str, float]:
        """Measure, warn and write down a step that was made; then nothing of it is pending."""
        assert run.pending is not None
        if self.config.evaluate_every and run.step % self.config.evaluate_every == 0:
            self._evaluate(run)
        if message:
            _log.warning(message)
        if log:
            log.write({"step": run.step, **run.pending})
        metrics, run.pending = run.pending, None
        return metrics

    def _evaluate(self, run: Run) -> None:
        assert run.pending is not None
        first = f"{next(iter(self.held_out))}/loss"
        if first in run.pending:
            return  # before an interrupt
        with run.averaged():
            figures = held_out_figures(
                run.policy, self.held_out, self.config, self.denoiser, self._rows, self._processes, self._pause
            )
        if figures[first] < run.best:
            self._write_adapter(run, "best.safetensors")
            if self._processes.is_main_process:
                run.best_file = self._folder.best_digest()
        run.note_held_out(figures[first])
        run.pending |= figures

    def _pause(self, done: int, count: int) -> None:
        if stop := self._agreed(lambda: self._measuring(done, count)):
            raise stop if isinstance(stop, BaseException) else StopTraining

    def _ask(self, callback: Callback | None, run: Run, metrics: dict[str, float], message: str | None) -> Any:
        if callback is None:
            return self._agreed(lambda: None)
        return self._agreed(lambda: callback(Progress(run.step, self.config.steps, metrics, message, run.adapter)))

    def _agreed(self, ask: Callable[[], bool | None]) -> Any:
        """What the main process answers: false, true, or the exception it raised; agreed on by all."""
        wish: Any = False
        if self._processes.is_main_process:
            try:
                wish = ask()
            except BaseException as error:
                wish = error
        return anyone(self._processes, bool(wish)) and (wish or True)

    def _save(self, run: Run, log: MetricsLog | None = None) -> None:
        if self._processes.is_main_process:
            if run.step:
                self._write_adapter(run, "last.safetensors")
            if log:
                log.sync()
            self._folder.save(run.state() | {"identity": self._identity()})

    def _write_adapter(self, run: Run, name: str) -> None:
        if self._processes.is_main_process:
            self._folder.write_adapter(name, run.adapter())

    def _stopped(self, run: Run) -> TrainResult:
        return self._result(run, f"Stopped at step {run.step}; start again to go on.", False)

    def _result(self, run: Run, reason: str, finished: bool) -> TrainResult:
        self._processes.wait_for_everyone()
        return TrainResult(run.adapter(), run.step, finished, reason)


def _as_main_has_it(processes: Any, measured: tuple[int, int]) -> tuple[int, int]:
    """What the main process measured: others may differ by rounding."""
    first, last = np.frombuffer(from_main(processes, np.array(measured, np.int64).tobytes()), np.int64).tolist()
    return first, last
