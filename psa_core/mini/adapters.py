"""Training the mini world's adapters with the pack's own trainer: PSA, and the rival without profiles."""

from pathlib import Path
from typing import Any

import torch

from ..encoders.everyone import EveryoneEncoder
from ..encoders.structured import StructuredEncoder
from ..errors import PSAError
from ..processes import make_accelerator
from ..training import TrainConfig, TrainResult
from ..training.assembly import folder_trainer, read_splits
from ..training.trainer import Callback
from .dataset import HARMLESS
from .world import SIZE

KINDS = ("psa", "safetydpo")

CONFIG: dict[str, Any] = {
    "preset": "recommended",
    "beta": 300.0,  # a larger one is content with a smaller effect
    "winner_weight": 75.0,  # with 50, other symbols take a banned one's place more often
    "anchor_weight": 750.0,
    "timestep_range": (520, 840),  # where a symbol is decided; below, the picture itself says what is there
    "standardise": False,  # the structured embedding has sensible units, and a rare answer would become a large number
    "resolution": SIZE,
    "bucket_step": SIZE,
    "flip": False,  # a mirrored moon or bolt is another picture
    "caption_dropout": 0.0,
    "precision": "fp32",
    "num_tokens": 16,
    "optimizer": "muon",  # AdamW learns to remove every symbol for strict users long before it tells symbols apart
    "learning_rate": 2e-2,
    "schedule": "cosine",
    "warmup_steps": 50,
    "weight_decay": 0.0,
    "steps": 1600,
    "batch_size": 8,
    "effective_batch_size": 16,
    "ema_decay": 0.99,
    "on_winner_rise": "warn",
}
"""The shipped adapters' settings: the preset `recommended`, sized for the mini world."""
RIVAL_STEPS = 300  # every pair is won after 100 of them: there is nothing to tell apart


def profile_encoder(kind: str) -> StructuredEncoder | EveryoneEncoder:
    """The encoder that adapters of a kind are trained on."""
    if kind not in KINDS:
        raise PSAError(f"'{kind}' is no kind of mini adapter. There are: {', '.join(KINDS)}.")
    return StructuredEncoder() if kind == "psa" else EveryoneEncoder()


def train_adapter(
    kind: str,
    data: Path | str,
    output: Path | str,
    base: Path | str,
    callback: Callback | None = None,
    **changes: Any,
) -> TrainResult:
    """Train an adapter on a mini dataset into the run folder `output`; a stopped run goes on.

    Args:
        kind: `psa`; or `safetydpo`, which needs a dataset where everything is banned for everyone.
        changes: settings that differ from `CONFIG`.

    Raises:
        PSAError: as the reader and the trainer do.
    """
    encoder = profile_encoder(kind)
    own = {} if kind == "psa" else {"steps": RIVAL_STEPS}
    config = TrainConfig.from_dict({**CONFIG, **own, **changes})
    splits = read_splits(data, encoder, held_out=("val",) if config.evaluate_every else (), harmless=HARMLESS)
    places = (Path(data) / "cache", Path(output))
    trainer = folder_trainer(config, base, splits, encoder, *places, make_accelerator(), torch.device("cpu"))
    return trainer.train(callback)
