"""A run as it stands: what it has learned, where it is, and how it is written down."""

import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..adapter.model import PSAAdapter
from ..errors import PSAError
from ..files import shown
from ..seeds import draw_seed
from .average import WeightAverage, warm_decay
from .config import TrainConfig
from .denoiser import Denoiser, User
from .metrics import WinnerWatch
from .optimizers import build_optimizer
from .pairs import PairDataset
from .standardise import Standardisation
from .unused import hide_unused_columns

KEY_VARIABLE = "PSA_TRAINING_KEY"
_KEY_BYTES = 16


class StateError(ValueError):
    """A state that is whole, but holds what no run of these settings writes."""


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


class Run:
    """The policy, its optimizer and average, and how far it is.

    `step` counts the optimizer steps made; `pending` holds the figures of the last one until they are reported;
    `timestep_range` is the measured one, in runs that measure it.
    `best` is the lowest held-out loss, `best_file` stands for the adapter that had it, `worse` counts the evaluations
    since; `end` says why the run is over.

    `key` is random, and the start of the weights follows from it. Only the state holds it: whoever knew the start
    could tell from an adapter which answers the training users gave. An empty key stands for the run's seed, as in
    runs that earlier versions began.
    """

    def __init__(self, config: TrainConfig, denoiser: Denoiser, pairs: PairDataset, key: bytes) -> None:
        self._config, self._pairs, self._denoiser, self.key = config, pairs, denoiser, key
        self._seed = draw_seed(key.hex(), "adapter") if key else draw_seed(config.seed, "adapter")
        self._standardisation = Standardisation.none(pairs.users.shape[1])
        if config.standardise:
            self._standardisation = Standardisation.fit(pairs.users, centre_all=not key)
        device = denoiser.device
        self.policy = Policy(self._new_adapter(), denoiser, self._standardisation.to(device)).to(device)
        self.parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(self.parameters, config)
        self.average = WeightAverage(self.parameters) if config.ema_decay else None
        self.watch = WinnerWatch(config.winner_rise_limit)
        self.step, self.best, self.worse, self.end = 0, float("inf"), 0, ""
        self.best_file = ""
        self.pending: dict[str, float] | None = None
        self.timestep_range: tuple[int, int] | None = None

    @classmethod
    def of_state(cls, state: Mapping[str, Any], config: TrainConfig, denoiser: Denoiser, pairs: PairDataset) -> "Run":
        """The run that `state` is of.

        Raises:
            StateError: for weights of another shape, or timesteps of another model.
        """
        run = cls(config, denoiser, pairs, bytes.fromhex(state["key"]))
        run.step, run.best, run.worse, run.end = (state[name] for name in ("step", "best", "worse", "end"))
        run.watch.trend, run.pending = state["trend"], state["pending"]
        run.timestep_range, run.best_file = state.get("timestep_range"), state.get("best_file", "")
        if run.timestep_range and run.timestep_range[1] > len(denoiser.alphas_cumprod):
            raise StateError("its measured timesteps are none of this model's")
        try:
            run.policy.adapter.load_state_dict(state["adapter"])
            run.optimizer.load_state_dict(state["optimizer"])
            if run.average:
                run.average.restore(state["average"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise StateError("its weights are not those of this model and these settings") from error
        return run

    def state(self) -> dict[str, Any]:
        """All that going on takes, and `of_state` reads."""
        return {
            "key": self.key.hex(),
            "step": self.step,
            "best": self.best,
            "best_file": self.best_file,
            "worse": self.worse,
            "end": self.end,
            "trend": self.watch.trend,
            "pending": self.pending,
            "timestep_range": self.timestep_range,
            "adapter": dict(self.policy.adapter.state_dict()),
            "average": self.average.values if self.average else [],
            "optimizer": self.optimizer.state_dict(),
        }

    def advance(self) -> None:
        """Count a step that the optimizer made."""
        if self.average:
            self.average.update(warm_decay(self._config.ema_decay, self.step))
        self.step += 1

    def note_held_out(self, loss: float) -> None:
        """Take in the first held-out split's loss; with `early_stop` on it may be the run's end."""
        if loss < self.best:
            self.best, self.worse = loss, 0
            return
        self.worse += 1
        if self._config.early_stop and self.worse >= self._config.early_stop:
            self.end = f"Stopped early: no better held-out loss in {self.worse} evaluations."

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the policy's weights are their moving average, where that is on."""
        return self.average.in_place() if self.average else nullcontext()

    def adapter(self) -> PSAAdapter:
        """The adapter as it is now (its moving average, where that is on), on the CPU, taking raw embeddings.

        It does what the policy does for every training user and for the empty profile; columns of user_proj that
        act on none of them are replaced (see `hide_unused_columns`).
        """
        trained, pairs = self.policy.adapter, self._pairs
        adapter = PSAAdapter(
            trained.layer_widths,
            trained.cross_attention_dim,
            trained.embedding_dim,
            trained.num_tokens,
            trained.encoder_id,
            {**self._settings(), "step": self.step, "pairs": len(pairs), "users": len(pairs.users)},
        )
        with self.averaged():
            adapter.load_state_dict(trained.state_dict())
        statistics, weight = self._standardisation.to(torch.device("cpu")), adapter.user_proj.proj.weight
        initial = self._new_adapter().user_proj.proj.weight
        hidden = hide_unused_columns(weight, initial, pairs.users, statistics.scale, self._seed)
        weight.data.copy_(hidden)
        statistics.fold(adapter)
        return adapter.requires_grad_(False).eval()

    def _settings(self) -> dict[str, Any]:
        measured = {} if self.timestep_range is None else {"timestep_range": self.timestep_range}
        return self._config.to_dict() | measured

    def _new_adapter(self) -> PSAAdapter:
        denoiser, config, pairs = self._denoiser, self._config, self._pairs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            adapter = PSAAdapter(
                denoiser.layer_widths,
                denoiser.cross_attention_dim,
                pairs.users.shape[1],
                config.num_tokens,
                pairs.encoder_id,
            )
        if config.num_tokens == 1:  # a softmax over one token is 1: its key has no effect and no gradient
            for layer in adapter.psa_adapter:
                layer.to_k_user.requires_grad_(False)
        return adapter


def new_key() -> bytes:
    """A random key for a new run; `$PSA_TRAINING_KEY` (hex) in its place, for tests that compare runs."""
    if KEY_VARIABLE not in os.environ:
        return secrets.token_bytes(_KEY_BYTES)
    try:
        key = bytes.fromhex(os.environ[KEY_VARIABLE])
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise PSAError(f"${KEY_VARIABLE} must be {2 * _KEY_BYTES} hex digits. Unset it: a key is drawn, then.")
    return key


def check_state(state: Mapping[str, Any]) -> None:
    """Raise StateError where an entry is missing, or of a type or value that no run writes."""
    numbers = (int, float)
    types = {
        "key": (str,), "step": (int,), "best": numbers, "worse": (int,), "end": (str,), "trend": numbers,
        "pending": (dict, type(None)), "adapter": (dict,), "average": (list,), "optimizer": (dict,),
        "identity": (dict,),
    }  # fmt: skip
    for name, kinds in types.items():
        if name not in state or type(state[name]) not in kinds:
            raise StateError(f"its entry '{name}' is missing, or of another type")
    if type(state.get("best_file", "")) is not str:
        raise StateError("it does not say which adapter is its best")
    measured = state.get("timestep_range")
    if measured is not None and not (
        type(measured) is tuple and [type(end) for end in measured] == [int, int] and 0 <= measured[0] < measured[1]
    ):
        raise StateError("its measured timesteps are no range")
    config = state["identity"].get("config")
    if not isinstance(config, dict) or type(config.get("steps")) is not int:
        raise StateError("it does not say of which run it is")
    step, steps = state["step"], config["steps"]
    if not 0 <= step <= steps < 2**31:
        raise StateError(f"it stands at step {shown(str(step), 20)} of {shown(str(steps), 20)}")
    pending = (state["pending"] or {}).items()
    if not (
        _is_number(state["trend"], finite=True)
        and _is_number(state["best"])
        and 0 <= state["worse"] <= step
        and all(type(name) is str and type(value) in numbers for name, value in pending)
    ):
        raise StateError("its figures are no figures of a run")
    try:
        bytes.fromhex(state["key"])
    except ValueError:
        raise StateError("its key is damaged") from None
    for tensor in _tensors([state["adapter"], state["average"], state["optimizer"]]):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise StateError("its weights hold NaN or infinite values")


def _is_number(value: Any, finite: bool = False) -> bool:
    """Whether it is a float that is not NaN, or a whole number of a float's size."""
    try:
        return not math.isnan(value) and (math.isfinite(value) or not finite)
    except OverflowError:
        return False


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
