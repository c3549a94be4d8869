"""Which pairs a process gets when, and with which draws."""

from collections.abc import Iterator

import numpy as np

from ..seeds import draw_seed


class PairBatches:
    """The endless stream of batches of one process, as a batch sampler.

    A batch holds pairs of one bucket. Each epoch shuffles anew; a bucket's last batch is filled up
    with pairs from that bucket's start, so every pair is seen at least once an epoch. Batch `b` of
    the stream goes to process `b mod processes`: the stream is the same for any number of them. It is a
    function of the seed, so a resumed run needs to know only how many batches were given: `given`, to all
    processes together.

    `bucket_ids` and `scene_ids` are as in `PairDataset`; pairs of one scene share its reference draws. Without
    scenes each pair is one of its own.
    """

    def __init__(
        self,
        bucket_ids: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        reference_draws: int = 0,
        given: int = 0,
        scene_ids: np.ndarray | None = None,
    ) -> None:
        self.bucket_ids, self.batch_size, self.seed = bucket_ids, batch_size, seed
        self.scene_ids = np.arange(len(bucket_ids)) if scene_ids is None else scene_ids
        self.rank, self.processes, self.reference_draws = rank, processes, reference_draws
        self._given = given
        self._epoch, self._batches = -1, np.empty((0, batch_size), np.int64)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return self

    def __next__(self) -> list[tuple[int, int, int]]:
        batch = self._given + self.rank
        self._given += self.processes
        epoch, place = divmod(batch, self._per_epoch())
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return [self._place(int(index), batch, j) for j, index in enumerate(self._batches[place])]

    def _per_epoch(self) -> int:
        _, counts = np.unique(self.bucket_ids, return_counts=True)
        return int(sum(-(-count // self.batch_size) for count in counts))

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng(draw_seed(self.seed, "epoch", epoch))
        batches = []
        for bucket in np.unique(self.bucket_ids):
            indices = rng.permutation(np.flatnonzero(self.bucket_ids == bucket))
            batches.append(np.resize(indices, (-(-len(indices) // self.batch_size), self.batch_size)))
        return rng.permutation(np.concatenate(batches))

    def _place(self, index: int, batch: int, j: int) -> tuple[int, int, int]:
        seed = draw_seed(self.seed, "pair", batch, j)
        if not self.reference_draws:
            return index, seed, 0
        draw = seed % self.reference_draws
        return index, reference_seed(self.seed, int(self.scene_ids[index]), draw), draw


def reference_seed(seed: int, scene: int, draw: int) -> int:
    """The seed of a scene's fixed draw: timestep, noise, flip and dropout, all of it."""
    return draw_seed(seed, "reference", scene, draw)
