"""Settings: presets, refusals, the run file."""

import pytest

from psa_core import PSAError
from psa_core.commands.train import RunFile
from psa_core.training import PRESETS, TrainConfig
from psa_core.training.optimizers import learning_rate


def test_published_preset_is_the_papers():
    config = TrainConfig.from_dict({})
    assert (config.beta, config.learning_rate, config.steps, config.warmup_steps) == (5000.0, 5e-6, 5000, 500)
    assert (config.batch_size, config.accumulation(4), config.caption_dropout) == (6, 8, 0.2)
    assert (config.winner_weight, config.anchor_weight, config.standardise) == (0.0, 0.0, False)
    sdxl = TrainConfig.from_dict({"preset": "published-sdxl"})
    assert (sdxl.resolution, sdxl.batch_size, sdxl.accumulation(4), sdxl.optimizer) == (1024, 2, 16, "adafactor")


def test_every_preset_is_valid_and_can_be_changed():
    for name in PRESETS:
        assert TrainConfig.from_dict({"preset": name, "steps": 7}).steps == 7


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"learning_rat": 1e-3}, "Did you mean 'learning_rate'"),
        ({"preset": "best"}, "one of: published"),
        ({"optimizer": "sgd"}, "one of: adamw"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 1.5}, "kind int"),
        ({"steps": True}, "kind int"),
        ({"learning_rate": "fast"}, "kind float"),
        ({"learning_rate": float("nan")}, "kind float"),
        ({"caption_dropout": 1.2}, "share from 0 to 1"),
        ({"timestep_range": [500, 100]}, "first < last"),
        ({"timestep_range": [1]}, "a list such as"),
        ({"timestep_range": "found"}, 'or "measured"'),
        ({"winner_weight": -1}, "not negative"),
        ({"ema_decay": 1}, "up to, but not including, 1"),
        ({"batch_size": 5}, "multiple of batch_size"),
        ({"early_stop": 2}, "evaluate_every"),
    ],
)
def test_refusals_name_the_setting(setting, sentence):
    with pytest.raises(PSAError, match=sentence):
        TrainConfig.from_dict(setting)


def test_batches_must_fit_the_processes():
    config = TrainConfig(batch_size=2, effective_batch_size=6)
    assert (config.accumulation(1), config.accumulation(3)) == (3, 1)
    with pytest.raises(PSAError, match="2 x 2"):
        config.accumulation(2)


@pytest.mark.parametrize(
    ("schedule", "half", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)]
)
def test_schedules(schedule, half, end):
    config = TrainConfig(schedule=schedule, warmup_steps=10, steps=110, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(half)
    assert learning_rate(config, 110) == pytest.approx(end)


def test_run_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('model = "m"\ndata = "d"\noutput = "o"\nheld_out = ["val"]\n[training]\npreset = "recommended"\n')
    run = RunFile.read(path)
    assert (run.model, run.cache, run.held_out) == (tmp_path / "m", tmp_path / "o" / "cache", ("val",))
    assert run.training.winner_weight == PRESETS["recommended"]["winner_weight"]
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert RunFile.read(path) == run


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('model = "m"\n', "lacks data, output"),
        ('model = "m"\ndata = "d"\noutput = "o"\nmodle = "x"', "Did you mean 'model'"),
        ('model = 3\ndata = "d"\noutput = "o"', "'model' must be text"),
        ('model = "m"\ndata = "d"\noutput = "o"\nheld_out = "val"', "list of splits"),
        ('model = "m"\ndata = "d"\noutput = "o"\ntraining = 3', "must be a table"),
        ("model = ", "not a valid TOML"),
        ('model = "C:\\models"\ndata = "d"\noutput = "o"', "not a valid TOML.*single quotes"),
        ('model = "C:\\temp"\ndata = "d"\noutput = "o"', "control character, such as the tab"),
    ],
)
def test_run_file_refusals(tmp_path, text, sentence):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(PSAError, match=sentence):
        RunFile.read(tmp_path / "run.toml")
