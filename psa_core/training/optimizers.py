"""Optimizers by name, and the learning rate's schedule as a function of the step."""

import math
from collections.abc import Sequence

import torch

from ..errors import PSAError
from .config import TrainConfig


def build_optimizer(parameters: Sequence[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names; Adafactor keeps its learning rate fixed, as the schedule says."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=config.betas, weight_decay=decay)
    if config.optimizer == "adafactor":
        try:
            from transformers.optimization import Adafactor
        except ImportError:
            raise PSAError("The optimizer 'adafactor' needs transformers: pip install transformers.") from None
        return Adafactor(parameters, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise PSAError(
            "The optimizer 'adamw8bit' needs bitsandbytes and a GPU: pip install bitsandbytes, or choose 'adafactor'."
        ) from None
    return AdamW8bit(parameters, lr=rate, betas=config.betas, weight_decay=decay)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step`, counted from 0: a linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return config.learning_rate * factors[config.schedule]
