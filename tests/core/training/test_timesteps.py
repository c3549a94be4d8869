"""Which timesteps decide what a picture shows: measured before the first step, kept with the run."""

import pytest
import torch
from tiny_training import denoiser, trainer, write_split

from psa_core import PSAError
from psa_core.training import StopTraining, TrainConfig
from psa_core.training.folder import RunFolder
from psa_core.training.objective import NoiseSchedule
from psa_core.training.run import StateError, check_state
from psa_core.training.timesteps import SHARE, deciding_timesteps, shortest_range

MEASURED = {"timestep_range": "measured", "steps": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", range(4), 4)
    return folder


class Reacting:
    """A base model whose prediction depends on its text at some timesteps alone."""

    device = torch.device("cpu")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.asked = first, last, 0

    def __call__(self, noisy, timesteps, conditioning, user=None):
        assert user is None and len(conditioning["text"]) == len(conditioning["sizes"]) == len(noisy)
        self.asked += len(noisy)
        open_ = (timesteps >= self.first) & (timesteps < self.last)
        return noisy + (open_ * conditioning["text"].flatten(1).mean(1))[:, None, None, None]


def schedule() -> NoiseSchedule:
    return NoiseSchedule(torch.linspace(0.999, 0.005, 1000))


def test_the_range_is_where_the_base_model_listens_to_captions(data, tmp_path):
    pairs = trainer(data, tmp_path / "run").pairs
    for first, last in ((300, 500), (700, 900)):
        base = Reacting(first, last)
        (low, high), _ = deciding_timesteps(base, pairs, schedule(), TrainConfig())
        assert first - 30 < low < high < last + 30  # the grid's step is 50
        assert base.asked
    with pytest.raises(PSAError, match="do not depend on the captions"):
        deciding_timesteps(Reacting(0, 0), pairs, schedule(), TrainConfig())


def test_the_range_is_the_shortest_that_holds_the_share():
    first, last = shortest_range([50, 150, 250, 350, 450], [1.0, 1.0, 10.0, 8.0, 1.0], 500)
    assert 150 < first < 250 < 350 < last < 450
    first, last = shortest_range([5], [2.0], 30)  # flat: a share of the length
    assert last - first == round(SHARE * 30)
    assert shortest_range([0, 999], [0.0, 1.0], 1000)[1] == 1000  # it may end where the schedule does
    for bad in ([0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(PSAError, match="timestep_range as two numbers"):
            shortest_range([2, 7], bad, 10)


def test_a_run_measures_once_and_keeps_what_it_found(data, tmp_path):
    key, whole, parts = bytes(range(16)), tmp_path / "whole", tmp_path / "parts"
    asked: list[int] = []
    adapter = trainer(data, whole, key=key, **MEASURED).train(preparing=lambda done, _: asked.append(done)).adapter
    assert asked == list(range(20))
    found = RunFolder(whole).load()["timestep_range"]
    assert adapter.training_summary["timestep_range"] == found and 0 <= found[0] < found[1] <= 1000

    def stop_at(step):
        def callback(progress):
            if progress.step == step:
                raise StopTraining

        return callback

    stopped = trainer(data, parts, key=key, **MEASURED).train(preparing=lambda done, _: done == 7)
    assert not stopped.finished and stopped.step == 0 and RunFolder(parts).load()["timestep_range"] is None
    trainer(data, parts, key=key, **MEASURED).train(stop_at(2))

    def never(_done, _count):
        raise AssertionError("measured again")

    again = trainer(data, parts, **MEASURED).train(preparing=never)
    assert again.finished and RunFolder(parts).load()["timestep_range"] == found
    for name, value in adapter.state_dict().items():
        assert torch.equal(again.adapter.state_dict()[name], value), name
    with pytest.raises(PSAError, match=r"other settings \(timestep_range\)"):
        trainer(data, parts, **{**MEASURED, "timestep_range": found}).train()


def test_steps_are_taken_in_the_measured_range(data, tmp_path):
    asked: list[torch.Tensor] = []

    class Noting(type(denoiser())):
        def __call__(self, noisy, timesteps, conditioning, user=None):
            if user is not None:
                asked.append(timesteps)
            return super().__call__(noisy, timesteps, conditioning, user)

    base = Noting(denoiser().unet, denoiser().alphas_cumprod, id="golden")
    trainer(data, tmp_path / "run", base=base, **MEASURED).train()
    first, last = RunFolder(tmp_path / "run").load()["timestep_range"]
    seen = torch.cat(asked)
    assert last - first < 1000 and first <= seen.min() and seen.max() < last


def test_a_damaged_range_is_noticed(data, tmp_path):
    trainer(data, tmp_path / "run", steps=1).train()
    state = RunFolder(tmp_path / "run").load()
    check_state(state)
    for measured in ((5,), [1, 2], (7, 7), (-1, 3), (0.0, 1.0), "all"):
        with pytest.raises(StateError, match="measured timesteps"):
            check_state(state | {"timestep_range": measured})
