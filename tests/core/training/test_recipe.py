"""The recommended preset for one card: what it leaves to be saved, and runs that were begun before it."""

import json

import pytest
import torch
from tiny_training import QUICK, trainer, write_split

from psa_core import PSAError
from psa_core.mini.adapters import CONFIG
from psa_core.training import PRESETS, StopTraining, TrainConfig, assembly, config
from psa_core.training.assembly import as_begun
from psa_core.training.config import EARLIER, MEASURED
from psa_core.training.folder import RunFolder

KEY = bytes(range(16))
SHORT = {**QUICK, "steps": 6}  # what a person had written beside the preset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", range(6), 12)
    return folder


def first_preset(**settings) -> dict:
    """The settings of a run that an earlier version began under `recommended`."""
    return TrainConfig(**{"preset": "recommended", **EARLIER["recommended"], **settings}).to_dict()


def stop_at(step):
    def callback(progress):
        if progress.step == step:
            raise StopTraining

    return callback


def test_recommended_is_of_one_cards_evening_and_published_of_the_papers_scale():
    for name in ("recommended", "recommended-sdxl"):
        config = TrainConfig.from_dict({"preset": name})
        assert config.timestep_range == MEASURED and config.anchor_weight and config.winner_weight
        assert config.num_tokens > 1 and config.optimizer == "muon" and config.gradient_checkpointing
        assert config.steps * config.effective_batch_size <= 25_600
    published = TrainConfig.from_dict({"preset": "published"})
    assert published.steps * published.effective_batch_size == 960_000 and published.timestep_range == (0, 1000)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_saved_configuration_needs_no_preset_to_be_read(preset):
    config = TrainConfig.from_dict({"preset": preset})
    saved = json.loads(json.dumps(config.to_dict()))
    assert set(saved) == set(TrainConfig.model_fields) and TrainConfig(**saved) == config


def test_the_mini_adapters_are_trained_as_before():
    """What `recommended` leaves to the mini world's settings is what it was when they were found."""
    before = TrainConfig(**{**EARLIER["recommended"], **CONFIG})
    assert TrainConfig.from_dict(CONFIG) == before


def test_a_run_begun_under_the_earlier_preset_goes_on_as_it_was(data, tmp_path):
    whole = trainer(data, tmp_path / "whole", key=KEY, **first_preset(**SHORT)).train().adapter
    run = tmp_path / "run"
    trainer(data, run, key=KEY, **first_preset(**SHORT)).train(stop_at(3))
    asked = TrainConfig.from_dict({"preset": "recommended", **SHORT})
    config = as_begun(asked, run)
    assert asked.beta != config.beta == 1000.0 and config.to_dict() == first_preset(**SHORT)
    adapter = trainer(data, run, **config.to_dict()).train().adapter
    for name, value in whole.state_dict().items():
        assert torch.equal(adapter.state_dict()[name], value), name
    # what a person asks for by name is no preset's
    other = as_begun(TrainConfig.from_dict({"preset": "recommended", **SHORT, "beta": 250.0}), run)
    with pytest.raises(PSAError, match=r"other settings \(beta\)"):
        trainer(data, run, **other.to_dict()).train()


def test_a_run_begun_before_there_was_a_setting_goes_on_without_it(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    trainer(data, run, key=KEY, **{"preset": "recommended", **SHORT}).train(stop_at(3))
    state = RunFolder(run).load()
    del state["identity"]["config"]["plain_share"]
    RunFolder(run).save(state)
    presets = {**PRESETS, "recommended": {**PRESETS["recommended"], "plain_share": 0.2}}
    for place in (config, assembly):
        monkeypatch.setattr(place, "PRESETS", presets)
    asked = TrainConfig.from_dict({"preset": "recommended", **SHORT})
    assert asked.plain_share == 0.2 and as_begun(asked, run).plain_share == 0
    assert trainer(data, run, **as_begun(asked, run).to_dict()).train().finished


def test_a_run_of_the_new_preset_and_a_new_folder_keep_to_it(data, tmp_path):
    asked = TrainConfig.from_dict({"preset": "recommended", **SHORT})
    assert as_begun(asked, tmp_path / "run") == asked
    trainer(data, tmp_path / "run", **asked.to_dict()).train(stop_at(1))
    assert as_begun(asked, tmp_path / "run") == asked


def test_a_run_whose_rate_falls_can_end_where_it_stands_and_still_go_on(data, tmp_path):
    settings = {"schedule": "cosine", "steps": 6}
    whole = trainer(data, tmp_path / "whole", key=KEY, **settings).train().adapter
    run = tmp_path / "run"
    at_three = trainer(data, run, key=KEY, **settings).train(stop_at(3)).adapter
    ended = trainer(data, run, **{**settings, "steps": 3}).train()
    assert ended.finished and ended.step == 3
    for name, value in at_three.state_dict().items():
        assert torch.equal(ended.adapter.state_dict()[name], value), name
    with pytest.raises(PSAError, match=r"other settings \(steps\)"):
        trainer(data, run, **{**settings, "steps": 8}).train()
    for name, value in trainer(data, run, **settings).train().adapter.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
