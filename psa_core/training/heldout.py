"""Held-out figures: the loss and its parts on pairs that nothing is learned from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from ..processes import mean_over_processes
from ..seeds import draw_seed
from .config import TrainConfig
from .denoiser import Denoiser
from .objective import Objective
from .pairs import PairDataset
from .rows import RowMaker, batch_loss

Pause = Callable[[int, int], None]


@torch.no_grad()
def held_out_figures(
    policy: nn.Module,
    splits: Mapping[str, PairDataset],
    config: TrainConfig,
    denoiser: Denoiser,
    rows: RowMaker,
    processes: Any,
    pause: Pause = lambda _done, _count: None,
) -> dict[str, float]:
    """`{split}/{metric}`: LPPD's loss and its parts over up to `evaluate_pairs` pairs of each split.

    Each pair has a fixed noise and timestep, so figures of different steps and runs can be compared. `pause` is called
    by all processes alike before each batch of all together, with (batches done, of how many), and may raise to stop.
    """
    figures: dict[str, float] = {}
    for name, pairs in splits.items():
        measured = _measured(policy, pairs, config, denoiser, rows, processes, pause)
        figures |= {f"{name}/{metric}": value for metric, value in measured.items()}
    return figures


def _measured(
    policy: nn.Module,
    pairs: PairDataset,
    config: TrainConfig,
    denoiser: Denoiser,
    rows: RowMaker,
    processes: Any,
    pause: Pause,
) -> dict[str, float]:
    objective = Objective(config.beta)
    sums: dict[str, torch.Tensor] = {}
    count = min(config.evaluate_pairs, len(pairs))
    chosen = torch.linspace(0, len(pairs) - 1, count).round().long()  # spread over the split
    shares = processes.num_processes if count >= processes.num_processes else 1  # else all do all of it
    batches = [_batches(pairs, chosen[rank::shares], config.batch_size) for rank in range(shares)]
    most, own = max(map(len, batches)), batches[processes.process_index % shares]
    for number in range(most):
        pause(number, most)
        for indices in own[number : number + 1]:
            items = [pairs[int(index), draw_seed(config.seed, "held out", int(index)), 0] for index in indices]
            _, terms = batch_loss(default_collate(items), policy, rows, denoiser, objective)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value * len(indices) / count * shares
    return mean_over_processes(processes, sums)


def _batches(pairs: PairDataset, chosen: torch.Tensor, at_once: int) -> list[torch.Tensor]:
    buckets = torch.from_numpy(pairs.bucket_ids)[chosen]
    return [part for bucket in buckets.unique() for part in chosen[buckets == bucket].split(at_once)]
