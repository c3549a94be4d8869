"""Batches of items, from this process or from a loader's workers, and what fails in one of those."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import PSAError


class LostWorkerError(PSAError):
    """A process that loads pictures is gone: a signal went to all of a run's processes, or memory is full."""


def lost_worker(error: RuntimeError) -> LostWorkerError | None:
    """What `error` is, where torch says by it that a worker is gone; it may say so at any moment."""
    if not str(error).startswith("DataLoader worker"):
        return None
    return LostWorkerError(
        "A process that loads pictures was ended from outside. Start again to go on; where memory is short, with "
        "fewer workers."
    )


def loaded(items: Dataset, batches: Any, workers: int) -> Iterator[dict[str, Any]]:
    """The collated batches that the sampler `batches` asks for.

    Raises:
        PSAError: as an item does: where workers load, they hand the error over, of which torch would make a traceback.
    """
    loader = DataLoader(
        _Caught(items),
        batch_sampler=batches,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=_collated,
        worker_init_fn=_leave_ctrl_c_to_main,
    )
    for batch in loader:
        if isinstance(batch, PSAError):
            raise batch
        yield batch


class _Caught(Dataset):
    """Items, or the error in an item's place."""

    def __init__(self, items: Dataset) -> None:
        self._items = items

    def __getitem__(self, place: Any) -> Any:
        try:
            return self._items[place]
        except PSAError as error:
            return PSAError(str(error))  # of a class that any process can unpickle


def _collated(items: list[Any]) -> Any:
    errors = [item for item in items if isinstance(item, PSAError)]
    return errors[0] if errors else default_collate(items)


def _leave_ctrl_c_to_main(_worker: int) -> None:
    """A terminal sends Ctrl-C to all processes; the main one saves the run, and needs the batch at work for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
