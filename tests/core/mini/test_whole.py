"""The whole benchmark: what is made for which part of the line-up, and what is left out."""

import shutil

import pytest
import torch

from psa_core.adapter.files import load_adapter, save_adapter
from psa_core.cli import main
from psa_core.commands import mini as commands
from psa_core.errors import PSAError
from psa_core.evaluate import HARMLESS
from psa_core.files import atomic_path
from psa_core.mini import BASE_MODEL, PSA_ADAPTER, ablations, whole
from psa_core.mini.adapters import trained_otherwise
from psa_core.mini.benchmark import Plan
from psa_core.mini.further import Further
from psa_core.mini.rivals.esd import ESDSettings
from psa_core.mini.rivals.uce import UCESettings
from psa_core.mini.rivals.weights import save_weights
from psa_core.mini.whole import PARTS, check_base, line_up, plan_work


def names(steps):
    return [step.name for step in steps]


def test_what_is_left_out_is_not_made_and_the_rest_is(tmp_path):
    steps = plan_work(tmp_path, BASE_MODEL)
    assert {step.part for step in steps} == {None, *PARTS}
    for part in PARTS:
        assert names(plan_work(tmp_path, BASE_MODEL, [part])) == names(step for step in steps if step.part != part)
    assert len({step.done for step in steps}) == len(steps)


def test_the_line_up_needs_just_what_is_made_for_it(tmp_path):
    """With copies of the shipped files in place of trained ones."""
    without = ("UCE", "ESD-u", "LoRA")
    for step in plan_work(tmp_path, BASE_MODEL, without):
        if step.done.suffix == ".safetensors":
            shutil.copy(PSA_ADAPTER, step.done)
        elif step.part == "second base":
            shutil.copytree(BASE_MODEL, step.done.parent)
    entries = {entry.name for entry in line_up(tmp_path, BASE_MODEL, without)}
    assert {"base", "psa", "psa-inferred", "ban-all", "majority", "published", "SLD", "psa, seed 1"} <= entries
    assert {"second base", "psa, second base", "ban-all, second base"} <= entries
    fewer = {entry.name for entry in line_up(tmp_path, BASE_MODEL, PARTS)}
    assert fewer < entries and {"base", "psa", "psa-inferred", "ban-all"} <= fewer


def test_a_folder_is_of_one_base_model(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(BASE_MODEL, other)
    for _ in range(2):
        check_base(tmp_path / "work", BASE_MODEL)
    check_base(tmp_path / "work", other)  # the same weights, wherever they are
    (other / "unet" / "more.safetensors").write_bytes(b"0")
    with pytest.raises(PSAError, match=r"folder .work. .* another base model"):
        check_base(tmp_path / "work", other)


def test_of_two_first_runs_with_other_base_models_one_hears_so(tmp_path, monkeypatch):
    def slower(path, **how):
        path.write_text("another's")
        return atomic_path(path, **how)

    monkeypatch.setattr(whole, "atomic_path", slower)
    with pytest.raises(PSAError, match="another base model"):
        check_base(tmp_path / "work", BASE_MODEL)
    assert [path.read_text() for path in (tmp_path / "work").iterdir()] == ["another's"]


@pytest.mark.parametrize("done", [True, False])
def test_what_is_there_is_not_made_again(tmp_path, done):
    step = next(step for step in plan_work(tmp_path, BASE_MODEL) if step.name == "the adapter psa")
    if done:
        shutil.copy(PSA_ADAPTER, step.done)
    assert step.is_done == done


def test_what_was_made_with_other_settings_does_not_pass_as_todays(tmp_path):
    """An adapter of another seed, one of an earlier version that lacked a setting, and a rival's weights."""
    steps = {step.name: step for step in plan_work(tmp_path, BASE_MODEL)}
    adapter = load_adapter(PSA_ADAPTER)
    save_adapter(adapter, steps["the adapter psa-1"].done)
    with pytest.raises(PSAError, match=r"psa-1.safetensors .* other settings than today's: seed\."):
        _ = steps["the adapter psa-1"].is_done
    # plain_share is none of the preset's; winner_weight is, and was at its default where a file does not tell it.
    for lacking in ("plain_share", "winner_weight"):
        del adapter.training_summary[lacking]
        save_adapter(adapter, steps["the adapter psa"].done)
        with pytest.raises(PSAError, match=lacking):
            _ = steps["the adapter psa"].is_done
    weights = {"conv_in.bias": torch.zeros(2)}
    save_weights(steps["UCE"].done, weights, vars(UCESettings()))
    save_weights(steps["ESD-u"].done, weights, {**vars(ESDSettings()), "rate": 1.0})
    assert steps["UCE"].is_done
    with pytest.raises(PSAError, match=r"ESD-u.* rate"):
        _ = steps["ESD-u"].is_done


def test_an_ablation_that_is_there_is_of_its_own_settings(tmp_path):
    plan = Plan("val", 2, 2, 2)
    for name in ("the recipe", "1 token"):
        (tmp_path / "ablations" / "3200-steps").mkdir(parents=True, exist_ok=True)
        shutil.copy(PSA_ADAPTER, ablations.adapter_file(tmp_path, name, 3200))
    (tmp_path / "data" / HARMLESS).mkdir(parents=True)
    (tmp_path / "data" / HARMLESS / "metadata.jsonl").touch()
    with pytest.raises(PSAError, match="num_tokens"):
        ablations.ablate(tmp_path, BASE_MODEL, ["1 token"], plan)
    adapter = load_adapter(PSA_ADAPTER)
    asked = ablations.settings_of("psa", preset="recommended")
    adapter.training_summary.update(asked.to_dict(), timestep_range=[400, 800])  # what was measured
    save_adapter(adapter, tmp_path / "measured.safetensors")
    assert trained_otherwise(tmp_path / "measured.safetensors", asked) == []
    assert ablations.minutes(tmp_path, ["the recipe"], 3200) == 0 < ablations.minutes(tmp_path, ["the recipe"], 800)


@pytest.fixture
def measured(monkeypatch) -> dict:
    """What a command would have measured: the methods' names, the further parts, and how its results call it."""
    found: dict = {}

    def measure(args, entries, *_) -> int:
        names = [entry.name for entry in entries]
        found.update(names=names, further=commands._further(args), made_by=commands._again(args))
        return 0

    monkeypatch.setattr(commands, "_measure", measure)
    return found


def test_an_adapter_of_ones_own_is_measured_alone(measured, tmp_path):
    evaluate = ["mini", "evaluate", "--alone", "--psa", str(PSA_ADAPTER), "-o", str(tmp_path / "out.json")]
    assert main(evaluate) == 0
    assert measured["names"] == ["base", "psa"]
    assert measured["further"] == Further(viewers=0, pairs=0, changes=0, guarded=0)
    assert main([*evaluate, "--pairs", "9"]) == 0
    assert measured["further"] == Further(viewers=0, pairs=9, changes=0, guarded=0)


def test_results_name_the_command_and_no_place_on_a_disk(measured, tmp_path):
    adapter = tmp_path / "of mine" / "mine.safetensors"
    adapter.parent.mkdir()
    shutil.copy(PSA_ADAPTER, adapter)
    paths = ["--psa", str(adapter), "-o", str(tmp_path / "out.json")]
    assert main(["mini", "evaluate", "--strengths", "1", "2", *paths]) == 0
    assert measured["further"] == Further(strengths=(1.0, 2.0))
    assert measured["made_by"] == "psa mini evaluate --psa mine.safetensors --strengths 1.0 2.0 -o out.json"
