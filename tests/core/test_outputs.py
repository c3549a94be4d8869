"""Where a command may write is found out before any work, and nobody else's file is replaced unasked."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_training import write_split

from psa_core import LEVELS, PSAError, StructuredEncoder, load_embedding
from psa_core.cli import main
from psa_core.commands import dataset, effect, mini
from psa_core.dataset.check_result import DatasetCheck
from psa_core.mini import PSA_ADAPTER, ablations
from psa_core.outputs import check_target, made_by_line, made_by_marks, says_made_by


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / "data", "train", range(4), 8)
    return tmp_path


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Whatever takes time fails."""

    def work(*_, **__) -> None:
        pytest.fail("it worked")

    places = (dataset, "check_dataset"), (mini, "train_adapter"), (mini, "train_classifier"), (effect, "save_effect")
    for place, name in (*places, (ablations, "ablate"), (StructuredEncoder, "encode")):
        monkeypatch.setattr(place, name, work)


COMMANDS = {
    "dataset check --json": (["dataset", "check", "data", "--json"], "out.json"),
    "dataset check --picture": (["dataset", "check", "data", "--picture"], "out.png"),
    "mini train-adapter": (["mini", "train-adapter", "psa", "data", "run", "-o"], "out.safetensors"),
    "mini train-classifier": (["mini", "train-classifier"], "out.safetensors"),
    "mini ablate": (["mini", "ablate", "work", "-o"], "out.md"),
    "encode": (["encode", "--level", "L3", "-o"], "out.npy"),
    "effect": (["effect", str(PSA_ADAPTER), "--level", "L5", "-o"], "out.safetensors"),
}


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("command", "name"), COMMANDS.values(), ids=COMMANDS)
def test_a_place_that_cannot_be_is_found_before_the_work(here, capsys, no_work, command, name):
    if name.endswith(("safetensors", "md")):
        pytest.importorskip("diffusers")
    (here / "file").write_text("in the way")
    (here / f"folder{Path(name).suffix}").mkdir()
    assert "name" in refused(capsys, *command, "out.txt")
    if command[0] != "encode":  # which writes into a folder, whatever it is called
        assert "folder" in refused(capsys, *command, f"folder{Path(name).suffix}")
    assert "written" in refused(capsys, *command, f"file/{name}")
    (here / name).write_text("a stranger's")
    assert "--force" in refused(capsys, *command, name)
    assert (here / name).read_text() == "a stranger's"
    (here / name).unlink()
    (here / name).symlink_to("nowhere")
    assert "--force" in refused(capsys, *command, name)
    assert os.path.lexists(here / name)


def test_a_data_sets_own_description_is_not_replaced(here, capsys, no_work):
    (here / "data" / "dataset.json").write_text('{"licence": "CC0-1.0"}')
    assert "--force" in refused(capsys, "dataset", "check", "data", "--json", "data/dataset.json")
    assert (here / "data" / "dataset.json").read_text() == '{"licence": "CC0-1.0"}'


def test_a_command_replaces_its_own_files_and_with_force_all(here):
    check = ["dataset", "check", "data", "--json", "a.json", "--picture", "a.png"]
    (here / "a.json").write_text("theirs")
    assert main([*check, "--force"]) == main(check) == 0
    assert json.loads((here / "a.json").read_text())["made_by"] == made_by_line("psa dataset check")
    encode = ["encode", "--level", "L3", "-o", "out.npy"]
    (here / "out.npy").write_text("theirs")
    assert main([*encode, "--force"]) == main(encode) == 0
    assert load_embedding(here / "out.npy").dim == StructuredEncoder.dim and LEVELS


def test_what_is_to_be_written_is_written_before_anybody_reads(here, monkeypatch):
    def gone(_):
        raise BrokenPipeError

    monkeypatch.setattr(DatasetCheck, "to_text", gone)
    assert main(["dataset", "check", "data", "--json", "a.json", "--picture", "a.png"]) == 141
    assert says_made_by(here / "a.json") and says_made_by(here / "a.png")


def test_an_adapter_is_replaced_by_the_run_that_goes_on_alone(here, monkeypatch):
    pytest.importorskip("diffusers")
    shutil.copy(PSA_ADAPTER, here / "out.safetensors")
    monkeypatch.setattr(mini, "train_adapter", lambda *_, **__: pytest.fail("it worked"))
    arguments = ["mini", "train-adapter", "psa", "data", "run", "-o", "out.safetensors"]
    assert main(arguments) == 2

    class Began(BaseException):
        pass

    def began(*_, **__) -> None:
        raise Began

    (here / "run").mkdir()
    (here / "run" / "state.safetensors").write_bytes(b"a run's")
    monkeypatch.setattr(mini, "train_adapter", began)
    with pytest.raises(Began):
        main(arguments)


@pytest.mark.parametrize("ending", [".json", ".md", ".png"])
def test_a_file_says_what_made_it(tmp_path, ending):
    path, line = tmp_path / f"a{ending}", made_by_line("psa mini ablate work")
    if ending == ".png":
        Image.new("RGB", (4, 4)).save(path, pnginfo=made_by_marks(line))
    else:
        path.write_text(f"# Results\n\n{line}\n")
    assert says_made_by(path) and says_made_by(path, "psa mini ablate") and not says_made_by(path, "psa evaluate")
    path.write_bytes(b"\xff\0")
    assert not says_made_by(path)


def test_a_name_with_a_nul_is_a_sentence():
    with pytest.raises(PSAError, match="NUL"):
        check_target("a\0.json", (".json",), False)
