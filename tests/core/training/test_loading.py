"""Workers that load pictures: what fails in one, and what a signal does to them."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from tiny_training import trainer, write_split

from psa_core import PSAError
from psa_core.training.loading import LostWorkerError, loaded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single process")


class Items(torch.utils.data.Dataset):
    def __getitem__(self, place: int) -> dict[str, int]:
        if place == 3:
            raise PSAError("The fourth is damaged.")
        return {"place": place, "pid": os.getpid()}


class Slow(torch.utils.data.Dataset):
    def __getitem__(self, place: int) -> dict[str, int]:
        time.sleep(0.05)
        return {"pid": os.getpid()}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_an_item_is_its_sentence(workers):
    batches = loaded(Items(), [[0, 1], [2, 3], [4, 5]], workers)
    assert next(batches)["place"].tolist() == [0, 1]
    with pytest.raises(PSAError) as caught:
        next(batches)
    assert str(caught.value) == "The fourth is damaged."


def test_a_damaged_cache_entry_is_the_same_sentence_with_a_worker(tmp_path):
    write_split(tmp_path, "train", range(8), 12)
    job = trainer(tmp_path, tmp_path / "run", steps=2, workers=1)
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PSAError) as caught:
        job.train()
    said = str(caught.value)
    assert said.startswith("The cache entry") and "Traceback" not in said and "\n" not in said


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_ctrl_c_does_not_end_the_workers(way, monkeypatch):
    """A terminal sends it to all processes."""
    default = torch.utils.data.DataLoader

    def in_this_way(*given, **options):
        return default(*given, **options, multiprocessing_context=way)

    monkeypatch.setattr("psa_core.training.loading.DataLoader", in_this_way)
    batches = loaded(Slow(), [[n] for n in range(40)], 1)
    worker = int(next(batches)["pid"][0])
    assert worker != os.getpid()
    os.kill(worker, signal.SIGINT)
    assert {int(batch["pid"][0]) for batch in batches} == {worker}


def test_a_worker_that_is_gone_is_a_sentence_and_the_run_goes_on(tmp_path):
    write_split(tmp_path, "train", range(8), 12)

    def end_the_worker(progress) -> None:
        if progress.step == 2:
            (worker,) = multiprocessing.active_children()
            worker.kill()

    with pytest.raises(LostWorkerError, match="ended from outside"):
        trainer(tmp_path, tmp_path / "run", steps=50, workers=1).train(end_the_worker)
    result = trainer(tmp_path, tmp_path / "run", steps=50, workers=0).train(lambda _: True)
    assert 2 < result.step < 50
