"""The trainer: LPPD over a Denoiser, with exact resume and any number of processes."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..adapter.files import load_adapter, save_adapter
from ..adapter.model import PSAAdapter
from ..errors import PSAError
from ..processes import make_accelerator
from ..seeds import draw_seed
from .batches import PairBatches, reference_seed
from .cache import cache_key
from .config import TrainConfig
from .denoiser import Denoiser, User
from .losses import row_errors
from .metrics import MetricsLog, Pace, WinnerWatch, check_finite
from .objective import NoiseSchedule, Objective, draw_timesteps
from .optimizers import build_optimizer, learning_rate
from .pairs import PairDataset, reference_key
from .standardise import Standardisation
from .state import load_state, remove_parts, save_state

_log = logging.getLogger(__name__)

# Settings that change nothing of what is computed, so a resumed run may bring new ones.
_FREE = ("save_every", "tensorboard", "on_winner_rise", "winner_rise_limit")


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


class Policy(nn.Module):
    """The part that learns, as one module for DistributedDataParallel to wrap; the base model stays outside."""

    def __init__(self, adapter: PSAAdapter, denoiser: Denoiser, standardisation: Standardisation) -> None:
        super().__init__()
        self.adapter = adapter
        self._frozen = (denoiser, standardisation)  # a tuple: neither becomes a submodule

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        embeddings: torch.Tensor,
    ) -> torch.Tensor:
        denoiser, standardisation = self._frozen
        tokens = self.adapter.user_tokens(standardisation.apply(embeddings))
        return denoiser(noisy, timesteps, conditioning, User(self.adapter, tokens))


class Trainer:
    """Trains one adapter in one run folder; a folder that holds a state is resumed, exactly.

    The folder: `state.pt` (all that a resume needs), `last.safetensors`, `best.safetensors` (by the
    first held-out split's loss), `metrics.jsonl`, `tensorboard/`.

    Args:
        config: the run's settings.
        denoiser: the frozen base model.
        pairs: the training pairs.
        folder: the run's folder; made if it is not there.
        held_out: splits to evaluate on, by name (built with `held_out=True`).
    """

    def __init__(
        self,
        config: TrainConfig,
        denoiser: Denoiser,
        pairs: PairDataset,
        folder: Path | str,
        held_out: Mapping[str, PairDataset] | None = None,
    ) -> None:
        self.config, self.denoiser, self.pairs, self.folder = config, denoiser, pairs, Path(folder)
        self.held_out = dict(held_out or {})
        if config.evaluate_every and not self.held_out:
            raise PSAError("Evaluation is on (evaluate_every), but there is no held-out split. Name one, such as val.")
        if config.reference_draws and not denoiser.id:
            raise PSAError("Reusing reference errors needs an id of the base model, to know whose they are.")
        self.schedule = NoiseSchedule(denoiser.alphas_cumprod, denoiser.prediction_type)
        self.objective = Objective(config.beta, config.winner_weight, config.anchor_weight)
        self._timesteps = self.schedule.timestep_table(
            config.timestep_sampling, *config.timestep_range, config.min_snr_gamma
        )
        # The preference is learned where content is decided; what must stay, must stay at every timestep.
        self._anchor_timesteps = self.schedule.timestep_table("uniform", 0, len(self.schedule.alphas_cumprod), 0.0)
        self._accelerator = make_accelerator()
        self._accumulation = config.accumulation(self._accelerator.num_processes)

    def train(self, callback: Callback | None = None) -> TrainResult:
        """Train to the end, or until the callback returns true or raises.

        After a stop the state is saved; `StopTraining` returns, any other exception is raised again, also
        one that came from inside a step (the step then counts as not made).

        Raises:
            PSAError: for a NaN loss (the last good state is kept), a full disk, or a folder of another run.
        """
        with torch.inference_mode(False), torch.enable_grad():
            try:
                self._prepare()
                return self._run(callback)
            finally:
                self.denoiser.release()
                if self._metrics_log:
                    self._metrics_log.close()

    def adapter(self) -> PSAAdapter:
        """The adapter as it is now (its moving average, where that is on), on the CPU, taking raw embeddings."""
        trained = self._policy.adapter
        adapter = PSAAdapter(
            trained.layer_widths,
            trained.cross_attention_dim,
            trained.embedding_dim,
            trained.num_tokens,
            trained.encoder_id,
            {**self.config.to_dict(), "step": self._step, "pairs": len(self.pairs), "users": len(self.pairs.users)},
        )
        with self._averaged():
            adapter.load_state_dict(trained.state_dict())
        self._standardisation.to(torch.device("cpu")).fold(adapter)
        return adapter.requires_grad_(False).eval()

    # Setting up

    _metrics_log: MetricsLog | None = None

    def _prepare(self) -> None:
        config, device = self.config, self.denoiser.device
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._accelerator.is_main_process:
            remove_parts(self.folder)
        state = load_state(self._state_path) if self._state_path.is_file() else None
        if state:
            self._check_same_run(state)
        embeddings = self.pairs.users
        self._standardisation = Standardisation.none(embeddings.shape[1])
        if config.standardise:
            self._standardisation = Standardisation.fit(embeddings)
        self._policy = Policy(self._new_adapter(), self.denoiser, self._standardisation.to(device)).to(device)
        self._parameters = [p for p in self._policy.parameters() if p.requires_grad]
        self._optimizer = build_optimizer(self._parameters, config)
        self._average = [p.detach().clone() for p in self._parameters] if config.ema_decay else []
        self._step, self._best, self._worse, self._end = 0, float("inf"), 0, ""
        self._watch = WinnerWatch(config.winner_rise_limit)
        if config.reference_draws:
            self._compute_reference_errors()
        if state:
            self._restore(state)
        elif self._accelerator.is_main_process:  # a new run: what an earlier one left here is not its best
            (self.folder / "best.safetensors").unlink(missing_ok=True)
        self._batches = self._make_loader()
        self._wrapped = self._accelerator.prepare(self._policy)
        if self._accelerator.is_main_process:
            self._metrics_log = MetricsLog(self.folder, self._step, config.tensorboard)

    def _new_adapter(self) -> PSAAdapter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(self.config.seed, "adapter"))
            adapter = PSAAdapter(
                self.denoiser.layer_widths,
                self.denoiser.cross_attention_dim,
                self.pairs.users.shape[1],
                self.config.num_tokens,
                self.pairs.encoder_id,
            )
        if self.config.num_tokens == 1:  # a softmax over one token is 1: its key has no effect and no gradient
            for layer in adapter.psa_adapter:
                layer.to_k_user.requires_grad_(False)
        return adapter

    def _make_loader(self) -> Iterator[dict[str, Any]]:
        """The endless batches from where the run stands: the step says how many were taken, so none is saved."""
        batches = PairBatches(
            self.pairs.bucket_ids,
            self.config.batch_size,
            self.config.seed,
            self._accelerator.process_index,
            self._accelerator.num_processes,
            self.config.reference_draws,
        )
        batches.load_state_dict({"given": self._step * self._accumulation * self._accelerator.num_processes})
        loader = DataLoader(
            self.pairs, batch_sampler=batches, num_workers=self.config.workers, generator=torch.Generator()
        )
        return iter(loader)

    @torch.no_grad()
    def _compute_reference_errors(self) -> None:
        """Fill the cache with each pair's reference errors for its fixed draws, (K, 2) a pair.

        Batches are the same ones whatever is missing, so that an interrupt changes no bit of a result.
        """
        config, pairs, accelerator = self.config, self.pairs, self._accelerator
        settings = (config.seed, config.caption_dropout, config.flip, config.timestep_sampling, config.timestep_range)
        reference_id = cache_key(self.denoiser.id, pairs.id, config.reference_draws, config.min_snr_gamma, *settings)
        pairs.reference_id = None
        batches = [
            chunk
            for bucket in range(len(pairs.sizes))
            for chunk in torch.from_numpy(pairs.bucket_ids == bucket).nonzero()[:, 0].split(config.batch_size)
        ]
        for rows in batches[accelerator.process_index :: accelerator.num_processes]:
            keys = [reference_key(reference_id, pairs.picture_keys[i], pairs.text_keys[i]) for i in rows]
            if all(key in pairs.cache for key in keys):
                continue
            draws = []
            for draw in range(config.reference_draws):
                items = [pairs[int(i), reference_seed(config.seed, int(i), draw), draw] for i in rows]
                rows_in = self._rows(self._to_device(torch.utils.data.default_collate(items)), anchored=False)
                errors = row_errors(self._reference(rows_in, 0), rows_in.target)
                draws.append(torch.stack(errors.chunk(2), 1))
            for key, errors in zip(keys, torch.stack(draws, 1), strict=True):
                pairs.cache.put(key, {"errors": errors})
        accelerator.wait_for_everyone()
        pairs.reference_id = reference_id

    # The loop

    def _run(self, callback: Callback | None) -> TrainResult:
        config, pace = self.config, Pace(self.config.effective_batch_size)
        while self._step < config.steps and not self._end:
            pace.start()
            self._updating = False
            try:
                metrics = self._optimizer_step()
            except PSAError:
                raise
            except BaseException:  # a cancel from inside the model: drop the unfinished step, keep the rest
                if not self._updating:
                    self._save()
                raise
            metrics |= pace.step(config.steps - self._step)
            message = self._watch.update(metrics)
            if message and config.on_winner_rise == "stop":
                self._end = message
            if config.evaluate_every and self._step % config.evaluate_every == 0:
                metrics |= self._evaluate_all()
            if message:
                _log.warning(message)
            if self._metrics_log:
                self._metrics_log.write({"step": self._step, **metrics})
            stopped = self._ask(callback, metrics, message)
            if stopped or self._end or self._step % config.save_every == 0 or self._step == config.steps:
                self._save()
            if isinstance(stopped, BaseException) and not isinstance(stopped, StopTraining):
                raise stopped
            if stopped:
                return self._result(f"Stopped at step {self._step}; start again to go on.", finished=False)
        return self._result(self._end or f"All {config.steps} steps are done.", finished=True)

    def _optimizer_step(self) -> dict[str, float]:
        """One optimizer step: forward and backward over the accumulated batches, clip, update."""
        sums: dict[str, torch.Tensor] = {}
        self._optimizer.zero_grad(set_to_none=True)
        for micro in range(self._accumulation):
            batch = self._to_device(next(self._batches))
            last = micro == self._accumulation - 1
            with nullcontext() if last else self._accelerator.no_sync(self._wrapped):
                loss, terms = self._loss(batch, self._wrapped)
                (loss / self._accumulation).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / self._accumulation
        metrics = self._mean_over_processes(sums)
        check_finite("loss", metrics["loss"], self._step + 1)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm))
        check_finite("gradient", norm, self._step + 1)
        rate = learning_rate(self.config, self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._updating = True
        self._optimizer.step()
        for average, parameter in zip(self._average, self._parameters, strict=False):
            average.lerp_(parameter.detach(), 1 - self.config.ema_decay)
        self._step += 1
        return {**metrics, "gradient_norm": norm, "learning_rate": rate}

    def _loss(self, batch: dict[str, Any], policy: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The reference pass without gradients, then the policy's, over the same rows."""
        rows = self._rows(batch, anchored="anchor_latents" in batch)
        known = batch.get("reference_errors")
        start = 0 if known is None else rows.pairs  # the rows before it need no reference pass
        reference = self._reference(rows, start)
        prediction = policy(rows.noisy, rows.timesteps, rows.conditioning, rows.embeddings)
        errors = row_errors(prediction[: rows.pairs], rows.target[: rows.pairs])
        if known is not None:
            reference_errors = torch.cat([known[:, 0], known[:, 1]])
        else:
            reference_errors = row_errors(reference[: rows.pairs], rows.target[: rows.pairs])
        anchor = None
        if len(rows.noisy) > rows.pairs:
            anchor = row_errors(prediction[rows.pairs :], reference[rows.pairs - start :]).mean()
        return self.objective(errors, reference_errors, anchor)

    def _reference(self, rows: "_Rows", start: int) -> torch.Tensor:
        if start == len(rows.noisy):
            return rows.noisy[start:]
        conditioning = {name: value[start:] for name, value in rows.conditioning.items()}
        with torch.no_grad():
            return self.denoiser(rows.noisy[start:], rows.timesteps[start:], conditioning, None)

    def _rows(self, batch: dict[str, Any], anchored: bool) -> "_Rows":
        """A batch as rows of the model: the chosen, the rejected, and the anchor's where it is on."""
        latents = [batch["latents"][:, 0], batch["latents"][:, 1]]
        sizes = [batch["sizes"][:, 0], batch["sizes"][:, 1]]
        when = batch["when"].cpu()
        drawn = [draw_timesteps(self._timesteps, when)] * 2
        conditioning, embeddings = [batch["conditioning"]] * 2, [batch["embedding"]] * 2
        if anchored:
            latents.append(batch["anchor_latents"])
            sizes.append(batch["anchor_sizes"])
            drawn.append(draw_timesteps(self._anchor_timesteps, when))
            conditioning.append(batch["anchor_conditioning"])
            embeddings.append(batch["anchor_embedding"])
        clean = torch.cat(latents)
        noise = batch["noise"].repeat(len(latents), *[1] * (clean.ndim - 1))
        timesteps = torch.cat(drawn).to(clean.device)
        return _Rows(
            pairs=2 * len(batch["noise"]),
            noisy=self.schedule.noisy(clean, noise, timesteps),
            target=self.schedule.target(clean, noise, timesteps),
            timesteps=timesteps,
            conditioning={
                **{name: torch.cat([part[name] for part in conditioning]) for name in conditioning[0]},
                "sizes": torch.cat(sizes),
            },
            embeddings=torch.cat(embeddings),
        )

    # Held-out figures

    def _evaluate_all(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, pairs in self.held_out.items():
            figures |= {f"{name}/{metric}": value for metric, value in self.evaluate(pairs).items()}
        first = figures[f"{next(iter(self.held_out))}/loss"]
        if first < self._best:
            self._best, self._worse = first, 0
            self._write_adapter("best.safetensors")
        else:
            self._worse += 1
            if self.config.early_stop and self._worse >= self.config.early_stop:
                self._end = f"Stopped early: no better held-out loss in {self._worse} evaluations."
        return figures

    @torch.no_grad()
    def evaluate(self, pairs: PairDataset) -> dict[str, float]:
        """LPPD's loss and its parts over up to `evaluate_pairs` pairs, each with a fixed noise and timestep."""
        config, accelerator = self.config, self._accelerator
        count = min(config.evaluate_pairs, len(pairs))
        objective = Objective(config.beta)
        sums: dict[str, torch.Tensor] = {}
        chosen = torch.linspace(0, len(pairs) - 1, count).round().long()  # spread over the split
        shares = accelerator.num_processes if count >= accelerator.num_processes else 1  # else all do all of it
        chosen = chosen[accelerator.process_index % shares :: shares]
        buckets = torch.from_numpy(pairs.bucket_ids)[chosen]
        with self._averaged():
            for bucket in buckets.unique():
                for rows in chosen[buckets == bucket].split(config.batch_size):
                    items = [pairs[int(i), draw_seed(config.seed, "held out", int(i)), 0] for i in rows]
                    rows_in = self._rows(self._to_device(torch.utils.data.default_collate(items)), anchored=False)
                    reference = row_errors(self._reference(rows_in, 0), rows_in.target)
                    prediction = self._policy(
                        rows_in.noisy, rows_in.timesteps, rows_in.conditioning, rows_in.embeddings
                    )
                    _, terms = objective(row_errors(prediction, rows_in.target), reference)
                    for name, value in terms.items():
                        sums[name] = sums.get(name, 0.0) + value * len(rows) / count * shares
        return self._mean_over_processes(sums)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block the parameters are their moving average, where that is on."""
        current = [parameter.detach().clone() for parameter in self._parameters] if self._average else []
        self._assign(self._average)
        try:
            yield
        finally:
            self._assign(current)

    @torch.no_grad()
    def _assign(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=False):
            parameter.copy_(value)

    # Many processes

    def _mean_over_processes(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        stacked = torch.stack([value.float() for value in sums.values()])
        return dict(zip(sums, self._accelerator.reduce(stacked, "mean").tolist(), strict=True))

    def _ask(self, callback: Callback | None, metrics: dict[str, float], message: str | None) -> Any:
        """What the main process's callback wants: false, true, or the exception it raised; agreed on by all."""
        wish: Any = False
        if callback and self._accelerator.is_main_process:
            try:
                wish = callback(Progress(self._step, self.config.steps, metrics, message, self.adapter))
            except BaseException as error:
                wish = error
        if self._accelerator.num_processes == 1:
            return wish
        flag = torch.tensor(float(bool(wish)), device=self.denoiser.device)
        anyone = bool(self._accelerator.reduce(flag, "sum"))
        return wish or anyone

    def _to_device(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._to_device(part) for name, part in value.items()}
        return value.to(self.denoiser.device)

    # State

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.pt"

    def _save(self) -> None:
        if not self._accelerator.is_main_process:
            return
        state = {
            "config": self.config.to_dict(),
            "data": self.pairs.id,
            "step": self._step,
            "best": self._best,
            "worse": self._worse,
            "end": self._end,
            "trend": self._watch.trend,
            "adapter": self._policy.adapter.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }
        self._write_adapter("last.safetensors")
        save_state(self._state_path, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self._step, self._best, self._worse, self._end = (state[name] for name in ("step", "best", "worse", "end"))
        self._watch.trend = state["trend"]
        self._policy.adapter.load_state_dict(state["adapter"])
        self._average = [value.to(self.denoiser.device) for value in state["average"]]
        self._optimizer.load_state_dict(state["optimizer"])

    def _check_same_run(self, state: dict[str, Any]) -> None:
        now, then = self.config.to_dict(), state["config"]
        free = (*_FREE, "steps") if self.config.schedule == "constant" else _FREE
        changed = [name for name in now if name not in free and now[name] != then.get(name)]
        if changed or state["data"] != self.pairs.id:
            what = f"other settings ({', '.join(changed)})" if changed else "another dataset or profile encoder"
            raise PSAError(
                f"The folder {self.folder} holds a run with {what}. Choose another folder, or delete that run's "
                "state.pt to start anew."
            )

    def _write_adapter(self, name: str) -> None:
        if self._accelerator.is_main_process:
            save_adapter(self.adapter(), self.folder / name)

    def _result(self, reason: str, finished: bool) -> TrainResult:
        self._accelerator.wait_for_everyone()
        return TrainResult(self.adapter(), self._step, finished, reason)


@dataclass(frozen=True)
class _Rows:
    """Model rows: `pairs` = 2B of chosen and rejected, then the anchor's."""

    pairs: int
    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    conditioning: dict[str, torch.Tensor]
    embeddings: torch.Tensor


def load_result(folder: Path | str) -> PSAAdapter:
    """The adapter of a run folder: its best by held-out loss, or the last where nothing was evaluated."""
    folder = Path(folder)
    best = folder / "best.safetensors"
    return load_adapter(best if best.is_file() else folder / "last.safetensors")
