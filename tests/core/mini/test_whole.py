"""The whole benchmark: what is made for which part of the line-up, and what is left out."""

import shutil

import pytest

from psa_core.cli import main
from psa_core.commands import mini as commands
from psa_core.mini import BASE_MODEL, PSA_ADAPTER
from psa_core.mini.further import Further
from psa_core.mini.whole import PARTS, line_up, plan_work


def names(steps):
    return [step.name for step in steps]


def test_what_is_left_out_is_not_made_and_the_rest_is(tmp_path):
    whole = plan_work(tmp_path, BASE_MODEL)
    assert {step.part for step in whole} == {None, *PARTS}
    for part in PARTS:
        assert names(plan_work(tmp_path, BASE_MODEL, [part])) == names(step for step in whole if step.part != part)
    assert len({step.done for step in whole}) == len(whole)


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


@pytest.mark.parametrize("done", [True, False])
def test_what_is_there_is_not_made_again(tmp_path, done):
    step = next(step for step in plan_work(tmp_path, BASE_MODEL) if step.name == "UCE")
    if done:
        shutil.copy(PSA_ADAPTER, step.done)
    assert step.is_done == done


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
