"""`psa demo` without ComfyUI."""

import argparse
import os
import sys

import numpy as np
import pytest
from PIL import Image

from psa_core import PSAError, demo


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return demo.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(demo, "SIZE", 64)
    monkeypatch.setattr(demo, "STEPS", 3)


def panels(picture: Image.Image) -> list[np.ndarray]:
    """The six pictures of a 3 x 2 grid, labels left out."""
    pixels = np.asarray(picture, dtype=float)
    height, width = pixels.shape[:2]
    cells = [
        pixels[row * height // 2 : (row + 1) * height // 2, column * width // 3 : (column + 1) * width // 3]
        for row in range(2)
        for column in range(3)
    ]
    return [cell[-40:-8, 16:48] for cell in cells]


def test_six_viewers_get_six_pictures(quick, tmp_path, capsys):
    assert run("--out", tmp_path / "out", "--without-comfyui") == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "out" / "levels.png") in printed and "without ComfyUI" in printed
    cells = panels(Image.open(tmp_path / "out" / "levels.png"))
    differences = [np.abs(a - b).mean() for i, a in enumerate(cells) for b in cells[i + 1 :]]
    assert min(differences) > 2, "two viewers' pictures look alike"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["levels.png"]


def test_the_same_picture_each_time(quick, tmp_path):
    for name in "ab":
        run("--out", tmp_path / name, "--without-comfyui")
    assert (tmp_path / "a" / "levels.png").read_bytes() == (tmp_path / "b" / "levels.png").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for comfy-cli is a shell script")
def test_a_failed_install_is_said_in_one_line_and_leaves_nothing(quick, tmp_path, monkeypatch, capsys):
    """A stand-in for comfy-cli that does as it does without a network: some files, then an error."""
    programs = tmp_path / "programs"
    programs.mkdir()
    stand_in = programs / "comfy"
    stand_in.write_text('#!/bin/sh\nmkdir -p "$4/.git"\necho "could not clone"\nexit 1\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(demo, "find_comfyui", lambda: None)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    assert run("--out", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("could not install ComfyUI" in line for line in lines) == 1
    assert any("without ComfyUI" in line for line in lines)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["install.log", "levels.png"]
    assert "could not clone" in (tmp_path / "out" / "install.log").read_text()


def test_a_wrong_comfyui_path_is_no_reason_to_go_on_without(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(PSAError, match=r"no main\.py"):
        run("--out", tmp_path / "out")
    assert not (tmp_path / "out" / "levels.png").exists()
