"""What may not be read or written is a sentence, and nothing is changed."""

import os
from pathlib import Path

import pytest
from permissions import permissions_bind

from psa_core import LEVELS
from psa_core.cli import main
from psa_core.users import write_users

pytest.importorskip("diffusers")

import killed_commands

pytestmark = permissions_bind


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts}


def refused(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.rstrip().splitlines()[-1].startswith("psa: ") and "Traceback" not in said, said
    assert said.rstrip().endswith("."), said
    return said


@pytest.mark.parametrize("command", killed_commands.COMMANDS)
def test_a_place_that_may_not_be_written_to(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    arguments = killed_commands.COMMANDS[command](tmp_path)
    (tmp_path / "state").mkdir()
    before = contents(tmp_path)
    tmp_path.chmod(0o500)
    try:
        refused(capsys, arguments)
    finally:
        tmp_path.chmod(0o700)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "--users", "IN/users.csv", "-o", "out.safetensors"],
        ["encode", "--profile", "IN/me.json", "-o", "out.npy"],
        ["convert", "IN/a.safetensors", "out.safetensors"],
        ["effect", "IN/a.safetensors", "--level", "L5", "-o", "out.safetensors"],
        ["prompts", "IN/concepts.txt", "out.jsonl"],
        ["generate", "IN/prompts.csv", "--model", "IN/model", "--out", "out"],
        ["evaluate", "--method", "a=IN", "--prompts", "IN/prompts.csv", "--judge", "mini", "-o", "out.json"],
        ["build-dataset", "IN/prompts.jsonl", "out", "--model", "IN/model"],
        ["train", "--config", "IN/run.toml"],
    ],
    ids=lambda arguments: "-".join(word for word in arguments[:2] if word.isalpha()),
)
def test_an_input_that_may_not_be_read(tmp_path, monkeypatch, capsys, arguments, what):
    monkeypatch.chdir(tmp_path)
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("users.csv", "me.json", "a.safetensors", "concepts.txt", "prompts.csv", "prompts.jsonl", "run.toml"):
        (inputs / name).write_text("x")
    write_users(inputs / "users.csv", [LEVELS["L1"]])
    for name in ("model", "train"):
        (inputs / name).mkdir()
    (inputs / "train" / "metadata.jsonl").write_text("{}\n")
    closed = [path for path in inputs.rglob("*") if path.is_file()] if what == "file" else [inputs]
    for path in closed:
        path.chmod(0)
    try:
        refused(capsys, [word.replace("IN", "in") for word in arguments])
    finally:
        for path in closed:
            path.chmod(0o700)
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_a_data_set_that_may_not_be_read(tmp_path, capsys):
    metadata = tmp_path / "train" / "metadata.jsonl"
    metadata.parent.mkdir()
    metadata.write_text("{}\n")
    for closed in (metadata, metadata.parent, tmp_path):
        closed.chmod(0)
        try:
            code = main(["dataset", "check", str(tmp_path)])
        finally:
            closed.chmod(0o700)
        told = capsys.readouterr()
        assert code in (1, 2) and "Traceback" not in told.err and "bug of ours" not in told.err
        assert "may not be read" in told.out or told.err.startswith("psa: ")
