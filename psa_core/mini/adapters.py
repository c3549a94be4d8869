"""Training the mini world's adapters with the pack's own trainer: PSA's, and those that know nobody."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..adapter.files import load_adapter
from ..dataset.every_user import EveryUserSplit
from ..encoders.everyone import EveryoneEncoder
from ..encoders.protocol import ProfileEncoder
from ..encoders.structured import InferredEncoder, StructuredEncoder
from ..errors import PSAError
from ..processes import make_accelerator
from ..training import TrainConfig, TrainResult
from ..training.assembly import folder_trainer, read_splits
from ..training.config import MEASURED
from ..training.trainer import Callback
from .dataset import HARMLESS
from .world import SIZE

CONFIG: dict[str, Any] = {
    "preset": "recommended",
    "beta": 300.0,  # a larger one is content with a smaller effect
    "winner_weight": 75.0,  # with 50, other symbols take a banned one's place more often
    "anchor_weight": 750.0,
    "plain_share": 0.2,  # without, a symbol that the viewer allows came into 1 % of pictures that nobody asked one of
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
    "steps": 3200,
    "batch_size": 8,
    "effective_batch_size": 8,  # half as many steps of twice as many pairs came less far
    "gradient_checkpointing": False,  # memory is no matter at this size
    "ema_decay": 0.99,
    "on_winner_rise": "warn",
}
"""The shipped adapters' settings: the preset `recommended`, sized for the mini world."""
_PUBLISHED: dict[str, Any] = {
    "preset": "published",
    **{name: CONFIG[name] for name in ("resolution", "bucket_step", "flip", "precision", "batch_size")},
    "effective_batch_size": 8,
    "on_winner_rise": "warn",
}
"""The paper's loss, optimizer and rate, over as many pairs as ours."""


@dataclass(frozen=True)
class Kind:
    """A kind of adapter: what it knows of a viewer, and its settings where they are not `CONFIG`.

    `ban_all` says that its data set is one where everything is banned for everyone.
    """

    encoder: type[ProfileEncoder]
    ban_all: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "psa": Kind(StructuredEncoder),
        "psa-inferred": Kind(InferredEncoder),  # bans must be told from age, faith and health
        # Of those that know nobody every pair is won after 100 steps: nothing is to be told apart.
        "ban-all": Kind(EveryoneEncoder, ban_all=True, changes={"steps": 400}),
        "majority": Kind(EveryoneEncoder, changes={"steps": 400}),
        "published": Kind(StructuredEncoder, changes=_PUBLISHED),
    }
)


def kind_of(name: str) -> Kind:
    """Raise PSAError for a name that is no kind's."""
    if name not in KINDS:
        raise PSAError(f"'{name}' is no kind of mini adapter. There are: {', '.join(KINDS)}.")
    return KINDS[name]


def settings_of(kind: str, **changes: Any) -> TrainConfig:
    """The settings of a kind's training, changed by others; with a `preset` among these they, and the run's length,
    are all."""
    differs = {**kind_of(kind).changes, **changes}
    start = {"steps": CONFIG["steps"]} if "preset" in differs else CONFIG
    return TrainConfig.from_dict({**start, **differs})


def trained_otherwise(path: Path, config: TrainConfig) -> list[str]:
    """The settings that the adapter in the file was trained with and that are others in `config`, by their names.

    One that the file does not tell came later, and was at its default then, whatever today's preset has. Of a range of
    timesteps that is to be measured the file tells what was measured: any is as asked.

    Raises:
        PSAError: as `load_adapter` does, and for settings that the file tells and no training has.
    """
    told = load_adapter(path).training_summary
    made = TrainConfig(**{name: told[name] for name in TrainConfig.model_fields if name in told}).to_dict()
    return [name for name, value in config.to_dict().items() if made[name] != value and value != MEASURED]


def train_adapter(
    kind: str,
    data: Path | str,
    output: Path | str,
    base: Path | str,
    callback: Callback | None = None,
    every_user: bool = True,
    harmless: bool = True,
    **changes: Any,
) -> TrainResult:
    """Train an adapter on a mini dataset into the run folder `output`; a stopped run goes on.

    Args:
        kind: one of `KINDS`.
        every_user: learn from each pair of pictures with every user (`EveryUserSplit`), not with its own alone.
        harmless: anchor the adapter on the data's harmless pictures, too.
        changes: settings that differ from the kind's, as `settings_of` takes them.

    Raises:
        PSAError: as the reader and the trainer do.
    """
    encoder = kind_of(kind).encoder()
    config = settings_of(kind, **changes)
    held_out = ("val",) if config.evaluate_every else ()
    splits = read_splits(data, encoder, held_out=held_out, harmless=HARMLESS if harmless else None)
    if every_user:
        splits = replace(splits, train=EveryUserSplit(splits.train))
    places = (Path(data) / "cache", Path(output))
    trainer = folder_trainer(config, base, splits, encoder, *places, make_accelerator(), torch.device("cpu"))
    return trainer.train(callback)
