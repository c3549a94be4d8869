"""A training run put together, whoever asks for it: splits -> cache -> pairs -> Trainer.

The command, the node and the mini world differ in where models come from and in what they show; the way is one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..dataset import PairSplit, read_split
from ..dataset.reading import read_what_is_left
from ..encoders.protocol import ProfileEncoder
from ..encoders.stored import StoredEncoder
from .cache import TensorCache
from .config import EARLIER, PRESETS, READING, TrainConfig
from .folder import RunFolder
from .inputs import ImageEncoder, TextEncoder, encode_users, fill_cache
from .optimizers import check_optimizer
from .pairs import PairDataset
from .trainer import Trainer

Encoded = Callable[[int, int], None]
"""Called with (records done, of how many) of the split that is being encoded; it may raise to stop."""


@dataclass(frozen=True)
class Splits:
    """What a run reads: pairs to learn from, pairs to measure on by name, harmless pictures for the anchor to keep."""

    train: PairSplit
    held_out: Mapping[str, PairSplit] = field(default_factory=dict)
    harmless: PairSplit | None = None

    @property
    def all(self) -> list[PairSplit]:
        """Each split once, the one to learn from first."""
        splits = [self.train, *self.held_out.values(), *([self.harmless] if self.harmless else [])]
        return list({id(split): split for split in splits}.values())


@dataclass(frozen=True)
class Pairs:
    """`Splits` as tensors, out of a filled cache."""

    train: PairDataset
    held_out: Mapping[str, PairDataset]


def read_splits(
    folder: Path | str,
    encoder: ProfileEncoder,
    train: str = "train",
    held_out: Sequence[str] = (),
    harmless: str | None = None,
    skip_bad: bool = False,
    users: Path | None = None,
) -> Splits:
    """Read splits of a data set by name, each once; see `read_split`.

    With stored embeddings each record's user must have one. Without `harmless`, it is the one that belongs to `train`.
    """
    stored = encoder.folder if isinstance(encoder, StoredEncoder) else None
    splits: dict[str, PairSplit] = {}
    for name in (train, *held_out):
        splits[name] = splits.get(name) or read_split(folder, name, skip_bad, stored, users)
    scenes = splits.get(harmless or splits[train].harmless or "")
    if scenes is None and harmless:
        scenes = read_split(folder, harmless, skip_bad, stored, users)
    elif scenes is None:
        scenes = own_harmless(splits[train], skip_bad, stored, users)
    return Splits(splits[train], {name: splits[name] for name in held_out}, scenes)


def own_harmless(
    train: PairSplit, skip_bad: bool = False, stored: Path | None = None, users: Path | None = None
) -> PairSplit | None:
    """The harmless scenes that belong to `train`; `None` where there are none, or none that is not set aside.

    Args and errors: as `read_split`'s.
    """
    if train.harmless is None:
        return None
    options = {"skip_bad": skip_bad, "embeddings": stored, "users": users}
    return read_what_is_left(train.folder.parent, train.harmless, **options)


def encoded_pairs(
    splits: Splits,
    config: TrainConfig,
    cache: TensorCache,
    images: ImageEncoder,
    texts: TextEncoder,
    encoder: ProfileEncoder,
    processes: Any,
    progress: Encoded | None = None,
) -> Pairs:
    """Fill the cache with what it lacks, each process its share, and make the splits' pairs.

    Raises:
        PSAError: before any work, for an optimizer that this PyTorch lacks; or as `fill_cache` does.
    """
    check_optimizer(config)
    if not config.anchor_weight:  # nobody looks at them
        splits = replace(splits, harmless=None)
    share = (processes.process_index, processes.num_processes)
    for split in splits.all:
        fill_cache(split, cache, config, images, texts, *share, progress, held_out=split is not splits.train)
    processes.wait_for_everyone()

    def pairs(split: PairSplit, **options: Any) -> PairDataset:
        return PairDataset(split, cache, config, images, texts, encode_users(split, encoder), **options)

    with torch.inference_mode(False), torch.no_grad():
        harmless = pairs(splits.harmless, held_out=True) if splits.harmless else None
        held_out = {name: pairs(split, held_out=True) for name, split in splits.held_out.items()}
        return Pairs(pairs(splits.train, harmless=harmless), held_out)


def as_begun(config: TrainConfig, folder: Path | str) -> TrainConfig:
    """`config`, with what its preset leaves open as it was where an earlier version has begun the run in `folder`.

    Presets were others then, and the first version had no settings for how pictures are read.
    """
    state = RunFolder(folder).load()
    if state is None:
        return config
    begun, asked = state.get("identity", {}).get("config", {}), config.to_dict()
    defaults = {name: setting.default for name, setting in TrainConfig.model_fields.items()}
    now = {**defaults, **PRESETS[config.preset]}
    before = {**defaults, **EARLIER.get(config.preset, now)}
    kept = {
        name: before[name]
        for name in now
        if before[name] != now[name] == asked[name]
        and begun.get(name, _as_json(defaults[name])) == _as_json(before[name])
    }
    if not state.get("key"):  # the key that a run has since then
        kept |= {name: begun.get(name, defaults[name]) for name in READING}
    return config.changed(**kept)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def folder_trainer(
    config: TrainConfig,
    model: Path | str,
    splits: Splits,
    encoder: ProfileEncoder,
    cache: Path,
    output: Path | str,
    processes: Any,
    device: torch.device | None = None,
    progress: Encoded | None = None,
) -> Trainer:
    """The trainer of a base model in diffusers layout, in the run folder `output`; its encoders have left memory."""
    from .diffusers_models import DiffusersFolder

    config = as_begun(config, output)
    if processes.is_main_process:
        RunFolder(output).check()
    models = DiffusersFolder(model, device or processes.device, config)
    images, texts = models.image_encoder(), models.text_encoder()
    pairs = encoded_pairs(splits, config, TensorCache(cache), images, texts, encoder, processes, progress)
    models.release()
    return Trainer(config, models.denoiser(), pairs.train, output, pairs.held_out, processes)
