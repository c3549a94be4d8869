"""What a run will take, said before its first step: steps, pairs, memory by count, and time by its first steps."""

import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from ..adapter import FAMILIES
from .config import TrainConfig
from .denoiser import Denoiser
from .objective import Objective
from .optimizers import state_bytes
from .pairs import PairDataset
from .rows import RowMaker, batch_loss
from .run import Run

Announce = Callable[[str], None]
"""Called with a sentence on what the run will take: before its first step, and once its pace is known."""
TIMED_STEPS = 3
"""Steps that the time of a run is foretold from, after one that is not: a first step is slow."""
FEW_PEOPLE = 50
"""Below so many profiles training warns: what is among them shows in the adapter. Of 50 drawn as Sage draws its users,
even the rarest answer to a question (7.5 % of people) is among them with 98 %, so that it tells nothing of anyone."""
NOT_MEASURED = (
    "Not measured for SD1.5 and SDXL: what an adapter of the preset recommended reaches, and how long it takes on a "
    "card with 12 GB."
)
"""Announced with a run of that preset on one of them, until somebody measures it; the page has it in its languages."""


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes where the model computes, counted from tensors.

    `base` is the base model's weights; `adapter` the adapter, its gradients, its moving average and what the
    optimizer keeps of it there; `passes` the most that lives at once in a forward and a backward pass of a batch, or in
    a step of an optimizer that is offloaded.
    """

    base: int
    adapter: int
    passes: int

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.passes


class LiveBytes(TorchDispatchMode):
    """Within the block, counts bytes of the tensors that are made in it and still live; `peak` is the most at once.

    What a kernel takes for itself inside, and what an allocator rounds up, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._note(tensor, 0)  # of before the block, if it is not known
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._note(tensor, tensor.untyped_storage().nbytes())
        return result

    def _note(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        weakref.finalize(storage, self._gone, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def count_memory(
    run: Run, denoiser: Denoiser, pairs: PairDataset, rows: RowMaker, objective: Objective, config: TrainConfig
) -> Memory:
    """Count the memory of `run`, by passes over one pair of the largest size, which leave nothing behind."""
    weights = sum(parameter.nbytes for parameter in run.policy.parameters())
    learning = sum(parameter.nbytes for parameter in run.parameters)
    areas = np.array([width * height for width, height in pairs.sizes])
    index = int(areas[pairs.bucket_ids].argmax())
    batch = default_collate([pairs[index, 0, 0]])
    for parameter in run.parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        with LiveBytes() as counted:
            batch_loss(batch, run.policy, rows, denoiser, objective)[0].backward()
    finally:
        run.optimizer.zero_grad(set_to_none=True)
        denoiser.release()
    copies = 2 if run.average else 1  # the gradients, and the moving average
    adapter, passes = weights + copies * learning, counted.peak * config.batch_size
    state = state_bytes(run.parameters, config)
    if config.optimizer_offload:  # the state comes when what passes take is gone
        return Memory(denoiser.weight_bytes, adapter, max(passes, state))
    return Memory(denoiser.weight_bytes, adapter + state, passes)


def announcement(config: TrainConfig, done: int, pairs: int, memory: Memory, timesteps: tuple[int, int] | None) -> str:
    """What a run of `pairs` pairs that stands at step `done` will take, in sentences."""
    steps, at_once = config.steps - done, config.batch_size
    left = "more " if done else ""
    seen = steps * config.effective_batch_size
    parts = ", ".join(
        f"{size / 1e9:.1f} GB {what}"
        for what, size in (
            ("base model", memory.base),
            ("adapter and optimizer", memory.adapter),
            (f"{at_once} pair{'s' * (at_once > 1)} at a time", memory.passes),
        )
    )
    sentences = [
        f"{steps:,} {left}steps of {config.effective_batch_size} pairs: {seen:,} pairs, each of the {pairs:,} about "
        f"{seen / pairs:.1f} times.",
        f"Memory: about {memory.total / 1e9:.1f} GB ({parts}), counted from tensors; what libraries take comes on top.",
    ]
    if timesteps:
        sentences.append(
            f"Preferences are learned at timesteps {timesteps[0]} to {timesteps[1] - 1}, where this base model decides "
            "what these pictures show (measured)."
        )
    sentences.append("How long it takes is measured on the first steps.")
    return " ".join(sentences)


def to_mind(run: Run, pairs: PairDataset, config: TrainConfig) -> Iterator[str]:
    """What to think of before the first step, in sentences."""
    if (people := len(pairs.users)) < FEW_PEOPLE:
        yield (
            f"The adapter will be of {people} profiles. With fewer than {FEW_PEOPLE}, whoever has its file can find "
            "out what is among them: share it only where its people would share their answers."
        )
    if config.plain_share and not pairs.plain_keys.any():
        yield (
            "No pair has its caption without the concept (caption_without), so plain_share counts for nothing: the "
            "adapter may draw unasked what its viewers allow."
        )
    if pairs.anchored and pairs.harmless is None:
        yield (
            "There are no harmless pictures to keep, so the anchor keeps the pairs' own for nobody alone: the adapter "
            "may change what nobody minds. Give harmless scenes, or leave some where all were taken out."
        )
    if run.step and run.watch.has_risen:
        yield run.watch.sentence


def is_unmeasured(config: TrainConfig, cross_attention_dim: int) -> bool:
    """Whether `NOT_MEASURED` is to be said of a run on a base model of that context width."""
    return config.preset.startswith("recommended") and cross_attention_dim in FAMILIES


class FirstSteps:
    """Takes the time of a run's first steps, and announces once what all of them will take."""

    def __init__(self, announce: Announce | None) -> None:
        self._announce = announce
        self._seconds: list[float] = []
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self, steps_left: int) -> None:
        self._seconds.append(time.perf_counter() - self._began)
        if self._announce is None or len(self._seconds) != TIMED_STEPS + 1 or not steps_left:
            return
        seconds = sum(self._seconds[1:]) / TIMED_STEPS
        self._announce(
            f"About {timedelta(seconds=round(seconds * steps_left))} for the {steps_left:,} steps that are left, by "
            f"the first {TIMED_STEPS} after one to warm up; evaluation and previews come on top."
        )
