"""Where the base model decides what a picture shows: measured on the run's own model and pairs.

At each of a grid of timesteps the base model predicts twice, with the pair's caption and without one, from the same
noisy pictures. How far the two predictions lie apart (mean squared, in the space of the prediction, as the loss is)
says how much of the caption is open there: near the end of the schedule noise hides what is decided, and near its start
the picture itself says what is there. A preference can be learned where that is large.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from ..errors import PSAError
from ..seeds import draw_seed
from .config import TrainConfig
from .denoiser import Denoiser
from .losses import row_errors
from .objective import NoiseSchedule
from .pairs import PairDataset

SHARE = 2 / 3
"""Of the captions' effect, that the range holds. On the mini world's base model that comes near the range which trials
had found (docs/training.md); nothing else supports it."""
_GRID, _PAIRS = 20, 16


def deciding_timesteps(
    denoiser: Denoiser,
    pairs: PairDataset,
    schedule: NoiseSchedule,
    config: TrainConfig,
    stopped: Callable[[int, int], Any] = lambda _done, _count: None,
) -> tuple[tuple[int, int] | None, Any]:
    """The shortest range [first, last) of timesteps that holds `SHARE` of what captions do to the predictions.

    Args:
        stopped: asked before each timestep of the grid, with (timesteps done, of how many).

    Returns:
        The range and `None`; or `None` and what `stopped` answered, where that is true.

    Raises:
        PSAError: where the captions change nothing, so that there is nothing to measure.
    """
    count = len(schedule.alphas_cumprod)
    grid = [int((number + 0.5) * count / _GRID) for number in range(_GRID)]
    effects = []
    for number, timestep in enumerate(grid):
        if stop := stopped(number, len(grid)):
            return None, stop
        effects.append(caption_effect(denoiser, pairs, schedule, config, timestep))
    return shortest_range(grid, effects, count), None


@torch.no_grad()
def caption_effect(
    denoiser: Denoiser, pairs: PairDataset, schedule: NoiseSchedule, config: TrainConfig, timestep: int
) -> float:
    """Mean squared distance of the base model's predictions with and without the caption, over pairs of the run."""
    distances = []
    for indices in _batches(pairs, config.batch_size):
        items = [pairs.undrawn(index) | {"noise": _noise(pairs, index, config.seed, timestep)} for index in indices]
        batch = default_collate(items)
        empty = pairs.cache.get(pairs.empty_text)
        clean, noise = batch["latents"].flatten(0, 1), batch["noise"].repeat_interleave(2, 0)
        timesteps = torch.full((len(clean),), timestep)
        rows = schedule.noisy(clean, noise, timesteps).to(denoiser.device)
        sizes = batch["sizes"].flatten(0, 1).to(denoiser.device)

        def predicted(text: dict[str, torch.Tensor], rows=rows, timesteps=timesteps, sizes=sizes) -> torch.Tensor:
            conditioning = {name: value.to(denoiser.device) for name, value in text.items()}
            return denoiser(rows, timesteps.to(denoiser.device), conditioning | {"sizes": sizes}, None)

        captioned = {name: value.repeat_interleave(2, 0) for name, value in batch["conditioning"].items()}
        bare = {name: value[None].expand(len(clean), *value.shape) for name, value in empty.items()}
        distances.append(row_errors(predicted(captioned), predicted(bare)).cpu())
    return float(torch.cat(distances).mean())


def shortest_range(grid: list[int], effects: list[float], count: int) -> tuple[int, int]:
    """The shortest [first, last) of `count` timesteps that holds `SHARE` of the effects, linear between the grid's."""
    density = np.interp(np.arange(count), grid, effects)
    reached = np.concatenate([[0.0], np.cumsum(density)])
    if not (np.isfinite(reached[-1]) and reached[-1] > 0):
        raise PSAError(
            "Where the base model decides what pictures show cannot be measured: its predictions do not depend on the "
            "captions. Check the captions and the text encoder, or give timestep_range as two numbers."
        )
    reached /= reached[-1]
    lasts = np.searchsorted(reached, reached + SHARE * (1 - 1e-12))
    firsts = np.flatnonzero(lasts <= count)
    first = firsts[(lasts[firsts] - firsts).argmin()]
    return int(first), int(lasts[first])


def _batches(pairs: PairDataset, at_once: int) -> Iterator[list[int]]:
    """Pairs of distinct scenes, spread over the run's, in batches of one size of pictures."""
    firsts = np.unique(pairs.scene_ids, return_index=True)[1]
    chosen = firsts[np.unique(np.linspace(0, len(firsts) - 1, _PAIRS).round().astype(int))]
    buckets = pairs.bucket_ids[chosen]
    for bucket in np.unique(buckets):
        indices = chosen[buckets == bucket].tolist()
        for start in range(0, len(indices), at_once):
            yield indices[start : start + at_once]


def _noise(pairs: PairDataset, index: int, seed: int, timestep: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw_seed(seed, "deciding timesteps", index, timestep))
    return torch.randn(pairs.undrawn(index)["latents"].shape[1:], generator=generator)
