"""Reference errors: what the base model alone makes of a pair's fixed draws, computed once and reused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from .batches import reference_seed
from .cache import cache_key
from .config import TrainConfig
from .denoiser import Denoiser
from .losses import row_errors
from .pairs import PairDataset
from .rows import RowMaker


class ReferencedPairs(Dataset):
    """Training pairs whose items carry their `reference_errors` (2,), of the chosen and the rejected picture.

    Each scene has `config.reference_draws` fixed draws, and an entry (draws, 2) in the pairs' cache, of its first and
    second picture: the reference knows no user.
    """

    def __init__(self, pairs: PairDataset, config: TrainConfig, denoiser: Denoiser) -> None:
        self._pairs, self._config = pairs, config
        settings = (config.seed, config.caption_dropout, config.flip, config.timestep_sampling, config.timestep_range)
        rounding = (config.precision, config.batch_size)
        plain = (config.plain_share,) if config.plain_share else ()
        self._id = cache_key(
            denoiser.id, pairs.id, config.reference_draws, config.min_snr_gamma, *settings, *rounding, *plain
        )

    def __getitem__(self, place: tuple[int, int, int]) -> dict[str, Any]:
        index, _, draw = place
        item, errors = self._pairs[place], self._pairs.cache.get(self._key(index))["errors"][draw]
        return item | {"reference_errors": errors.flip(0) if item["swapped"] else errors}

    @torch.no_grad()
    def compute(self, denoiser: Denoiser, rows: RowMaker, processes: Any, stopped: Callable[[int, int], Any]) -> Any:
        """Fill the cache with what it lacks, each process its share; returns what stopped it, if anything did.

        Batches are the same ones whatever is missing, so that an interrupt changes no bit of a result. `stopped`
        gets (batches done, of how many) and is asked by all processes alike, before each batch of all together.
        """
        pairs, count = self._pairs, processes.num_processes
        firsts = torch.from_numpy(np.unique(pairs.scene_ids, return_index=True)[1])  # a pair of each scene
        buckets = torch.from_numpy(pairs.bucket_ids)[firsts]
        batches = [
            chunk
            for bucket in range(len(pairs.sizes))
            for chunk in firsts[buckets == bucket].split(self._config.batch_size)
        ]
        for first in range(0, len(batches), count):
            if stop := stopped(first, len(batches)):
                return stop
            for indices in batches[first : first + count][processes.process_index :][:1]:
                if not all(self._key(int(index)) in pairs.cache for index in indices):
                    self._compute_batch(indices, denoiser, rows)
        processes.wait_for_everyone()
        return None

    def _compute_batch(self, indices: torch.Tensor, denoiser: Denoiser, rows: RowMaker) -> None:
        seed, draws = self._config.seed, []
        for draw in range(self._config.reference_draws):
            seeds = [reference_seed(seed, int(self._pairs.scene_ids[index]), draw) for index in indices]
            items = [self._pairs[int(index), own, draw] for index, own in zip(indices, seeds, strict=True)]
            asked = rows.rows(default_collate(items), anchored=False)
            errors = row_errors(asked.reference(denoiser), asked.target)
            swapped = torch.tensor([item["swapped"] for item in items], device=errors.device)
            own = torch.stack(errors.chunk(2), 1)
            draws.append(torch.where(swapped[:, None], own.flip(1), own))
        for index, errors in zip(indices, torch.stack(draws, 1), strict=True):
            self._pairs.cache.put(self._key(int(index)), {"errors": errors})

    def _key(self, index: int) -> str:
        scene = self._pairs.scene_ids[index]
        picture, text = self._pairs.picture_keys[scene].decode(), self._pairs.text_keys[scene].decode()
        return cache_key("reference", self._id, picture, text)
