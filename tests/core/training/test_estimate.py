"""What a run will take: memory counted from tensors, and sentences before and after the first steps."""

import pytest
import torch
from tiny_training import dataset, denoiser, trainer, write_split
from torch import nn
from torch.utils.checkpoint import checkpoint

from psa_core.training import TrainConfig
from psa_core.training.estimate import NOT_MEASURED, LiveBytes, Memory, announcement, count_memory, is_unmeasured
from psa_core.training.optimizers import build_optimizer, state_bytes, torch_optimizers
from psa_core.training.run import Run

KEY = bytes(range(16))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", range(6), 12)
    return folder


def test_bytes_are_counted_while_tensors_live():
    before = torch.zeros(1000)
    with LiveBytes() as counted:
        before.add_(1)
        before.view(10, 100)
        assert counted.peak == 0  # nothing is made
        first = before + 1
        first.view(10, 100)[2:4].t()
        assert counted.live == counted.peak == 4000
        second = first * 2
        del first
        assert (counted.live, counted.peak) == (4000, 8000)
        third = torch.empty(500, dtype=torch.float16)
        assert (counted.live, counted.peak) == (5000, 8000)
    assert len(second) + len(third) == 1500


def test_what_a_backward_pass_needs_is_counted():
    """Each of 32 layers keeps its result; with checkpoints only every eighth does, and those of one part at a time."""
    chain = [nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8))) for _ in range(4)]
    peaks = []
    for checkpointed in (False, True):
        rows = torch.zeros(1000, 64, requires_grad=True)
        with LiveBytes() as counted:
            found = rows
            for layer in chain:
                found = checkpoint(layer, found, use_reentrant=False) if checkpointed else layer(found)
            found.sum().backward()
        peaks.append(counted.peak)
    assert peaks[0] > 32 * rows.nbytes and peaks[1] < 24 * rows.nbytes


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_the_optimizers_state_is_what_it_is_said_to_be(optimizer):
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((12, 7), (30, 5), (9,))]
    config = TrainConfig(optimizer=optimizer)
    built = build_optimizer(parameters, config)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    built.step()
    kept = [value for part in torch_optimizers(built) for state in part.state.values() for value in state.values()]
    assert state_bytes(parameters, config) == sum(v.nbytes for v in kept if torch.is_tensor(v) and v.ndim)


def test_counting_leaves_nothing_behind_and_follows_the_settings(data):
    found = {}
    cases = {
        "one": {"batch_size": 1},
        "two": {"batch_size": 2},
        "average": {"ema_decay": 0.9},
        "offloaded": {"batch_size": 1, "optimizer_offload": True},
    }
    for name, settings in cases.items():
        config = TrainConfig.from_dict({"resolution": 64, "bucket_step": 16, "effective_batch_size": 12, **settings})
        base, pairs = denoiser(), dataset(data, "train", config)
        job = trainer(data, data / "unused", base=base, **config.to_dict())
        run = Run(config, base, pairs, KEY)
        before = {name: value.clone() for name, value in run.policy.state_dict().items()}
        found[name] = count_memory(run, base, pairs, job._rows, job._objective, config)
        assert all(parameter.grad is None for parameter in run.policy.parameters())
        assert all(torch.equal(value, before[name]) for name, value in run.policy.state_dict().items())
        learning = sum(parameter.nbytes for parameter in run.parameters)
    assert found["two"].passes == 2 * found["one"].passes > 0
    assert found["two"].base == found["one"].base == sum(p.nbytes for p in base.unet.parameters())
    assert found["average"].adapter == found["one"].adapter + learning
    assert found["offloaded"].adapter == found["one"].adapter - state_bytes(run.parameters, config) > 0
    assert found["offloaded"].passes == found["one"].passes


def test_the_run_is_announced_before_its_first_step_and_changes_nothing(data, tmp_path):
    events: list[str] = []

    def train(folder, announce):
        job = trainer(data, folder, key=KEY, steps=6, timestep_range="measured")
        return job.train(lambda progress: events.append(f"step {progress.step}"), announce=announce).adapter

    quiet = train(tmp_path / "quiet", None)
    events.clear()
    told = train(tmp_path / "told", events.append)
    for name, value in quiet.state_dict().items():
        assert torch.equal(told.state_dict()[name], value), name
    assert events[1:4] + events[5:] == [f"step {number}" for number in (1, 2, 3, 4, 5, 6)]
    for words in ("6 steps of 4 pairs: 24 pairs, each of the 12 about 2.0 times", "counted from tensors", "timesteps"):
        assert words in events[0]
    assert events[4].startswith("About 0:00:0") and "2 steps that are left" in events[4]
    events.clear()
    train(tmp_path / "told", events.append)
    assert events == []  # nothing is left to do


def test_the_sentence_says_what_takes_the_memory():
    config = TrainConfig.from_dict({"preset": "recommended"})
    text = announcement(config, 100, 800, Memory(2 * 10**9, 10**9, 5 * 10**8), (520, 840))
    assert text.startswith("1,500 more steps of 16 pairs: 24,000 pairs, each of the 800 about 30.0 times.")
    assert "about 3.5 GB (2.0 GB base model, 1.0 GB adapter and optimizer, 0.5 GB 4 pairs at a time)" in text
    assert "timesteps 520 to 839" in text


@pytest.mark.parametrize(
    ("settings", "context", "said"),
    [
        ({"preset": "recommended"}, 768, True),
        ({"preset": "recommended-sdxl"}, 2048, True),
        ({"preset": "recommended", "steps": 7}, 768, True),
        ({"preset": "recommended"}, 64, False),  # PSA Mini's model: measured
        ({"preset": "published"}, 768, False),  # by the paper
    ],
)
def test_what_nobody_measured_is_said(settings, context, said):
    assert is_unmeasured(TrainConfig.from_dict(settings), context) == said
    assert "SD1.5" in NOT_MEASURED and "SDXL" in NOT_MEASURED


def test_it_is_said_before_the_first_step(data, tmp_path, monkeypatch):
    """Of a small UNet that counts as one of theirs."""
    base, events = denoiser(), []
    monkeypatch.setattr("psa_core.training.estimate.FAMILIES", {base.cross_attention_dim: "SD1.5"})
    for preset in ("recommended", "published"):
        small = {"preset": preset, "num_tokens": 1, "steps": 1, "timestep_range": [0, 1000]}
        job = trainer(data, tmp_path / preset, base=base, key=KEY, **small)
        job.train(lambda progress: events.append(f"step {progress.step}"), announce=events.append)
    assert [event for event in events if event == NOT_MEASURED or event.startswith("step")] == [
        NOT_MEASURED, "step 1", "step 1",
    ]  # fmt: skip
