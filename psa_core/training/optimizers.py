"""Optimizers by name, and the learning rate's schedule as a function of the step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import PSAError
from ..extras import require
from .config import TrainConfig


class Muon:
    """Muon for the matrices and AdamW for the vectors, behind what the trainer asks of an optimizer.

    Muon (Jordan et al. 2024) makes every direction of a matrix's update as long as any other. What tells
    one category from another is a small direction in an adapter's gradient, which AdamW reaches late.
    Updates have AdamW's size (arXiv 2502.16982), so one learning rate is right for both.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], rate: float, betas: Any, decay: float) -> None:
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        vectors = [parameter for parameter in parameters if parameter.ndim != 2]
        self.parts = [
            torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(vectors, lr=rate, betas=betas, weight_decay=decay),
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, part_state in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(part_state)


class Offloaded:
    """An optimizer whose state waits in the computer's memory between its steps, so that passes have its room.

    Its numbers are the same; a step takes as long as the state's way there and back is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | Muon) -> None:
        self._optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        self._move(lambda parameter: parameter.device)
        self._optimizer.step()
        self._move(lambda _: torch.device("cpu"))

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)
        self._move(lambda _: torch.device("cpu"))

    def _move(self, where: Callable[[torch.Tensor], torch.device]) -> None:
        for part in torch_optimizers(self._optimizer):
            for parameter, state in part.state.items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor) and value.ndim:  # a count of steps lies where it likes
                        state[name] = value.to(where(parameter))


def torch_optimizers(optimizer: torch.optim.Optimizer | Muon) -> Sequence[torch.optim.Optimizer]:
    """What it is made of."""
    return optimizer.parts if isinstance(optimizer, Muon) else [optimizer]


Optimizer = torch.optim.Optimizer | Muon | Offloaded


def check_optimizer(config: TrainConfig) -> None:
    """Raise PSAError where this PyTorch lacks the optimizer that `config` names."""
    if config.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise PSAError(
            f"The optimizer 'muon' needs PyTorch 2.9 or newer, and this is {torch.__version__}. Update it, or choose "
            "another optimizer (in PSA Train: the preset published or custom)."
        )


def state_bytes(parameters: Sequence[torch.nn.Parameter], config: TrainConfig) -> int:
    """Bytes that the optimizer keeps of float32 parameters: 4 for each number that it remembers of each of them."""
    vectors = sum(parameter.numel() for parameter in parameters if parameter.ndim != 2)
    matrices = [parameter.shape for parameter in parameters if parameter.ndim == 2]
    numbers = sum(rows * columns for rows, columns in matrices)
    return {
        "adamw": 8 * (numbers + vectors),
        "muon": 4 * numbers + 8 * vectors,
        "adafactor": 4 * (sum(rows + columns for rows, columns in matrices) + vectors),
        "adamw8bit": 2 * (numbers + vectors),
    }[config.optimizer]


def build_optimizer(parameters: Sequence[torch.nn.Parameter], config: TrainConfig) -> Optimizer:
    """The optimizer that `config` names; Adafactor keeps its learning rate fixed, as the schedule says."""
    optimizer = _named(parameters, config)
    return Offloaded(optimizer) if config.optimizer_offload else optimizer


def _named(parameters: Sequence[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer | Muon:
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=config.betas, weight_decay=decay)
    if config.optimizer == "muon":
        check_optimizer(config)
        return Muon(parameters, rate, config.betas, decay)
    if config.optimizer == "adafactor":
        require("train", "The optimizer 'adafactor'", "transformers")
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise PSAError(
            "The optimizer 'adamw8bit' needs bitsandbytes and a GPU: pip install bitsandbytes, or choose 'adafactor'."
        ) from None
    return AdamW8bit(parameters, lr=rate, betas=config.betas, weight_decay=decay)


def apply_gradients(
    optimizer: Optimizer, parameters: Sequence[torch.nn.Parameter], rate: float, max_norm: float
) -> float:
    """One step at the learning rate `rate` with gradients clipped to `max_norm`; their norm before that.

    Gradients that are not finite change nothing: the norm says so.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return norm


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step`, counted from 0: a linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return config.learning_rate * factors[config.schedule]
