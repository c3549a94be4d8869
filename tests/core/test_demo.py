"""`psa demo` without ComfyUI, and how it judges and lays out what was drawn."""

import argparse
import os
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from psa_core import LEVELS, PSAError
from psa_core.commands import demo
from psa_core.mini import SYMBOLS, Scene, parse_prompt, render
from psa_core.mini.world import BACKGROUNDS, COLOURS, Thing

QUARTERS = ((32, 32), (96, 32), (32, 96))


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return demo.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(demo, "PROMPTS", demo.PROMPTS[:1])


def picture_of(prompt: str, with_symbol: bool = True) -> Image.Image:
    """What a prompt asks for, rendered."""
    asked = parse_prompt(prompt)
    shapes = [
        Thing(shape, *QUARTERS[place], 23.0, colour, COLOURS[colour])
        for place, (colour, shape) in enumerate(asked.shapes)
    ]
    symbol = Thing(asked.symbol, *QUARTERS[2], 23.0) if asked.symbol and with_symbol else None
    return render(Scene(asked.background, BACKGROUNDS[asked.background], 64.0, tuple(shapes), symbol))


def symbols_banned() -> list[list[bool]]:
    """For each prompt and level, whether the level bans the prompt's symbol."""
    category = {symbol: name for name, symbol in SYMBOLS.items()}
    return [
        [category.get(parse_prompt(prompt).symbol) in viewer.banned_categories for viewer in LEVELS.values()]
        for prompt in demo.PROMPTS
    ]


def perfect_rows() -> list[list[Image.Image]]:
    return [
        [picture_of(prompt, not banned) for banned in row]
        for prompt, row in zip(demo.PROMPTS, symbols_banned(), strict=True)
    ]


def framed(table: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pictures have a frame of this colour: each has one unbroken upper edge, wider than a picture."""
    is_colour = (np.asarray(table) == colour).all(-1)
    edges = 0
    for above, line in pairwise(is_colour):
        starts = np.flatnonzero(np.diff(np.concatenate([[0], line & ~above, [0]])))
        edges += sum(end - start > demo._SHOWN_SIDE for start, end in zip(starts[::2], starts[1::2], strict=True))
    return edges


def test_every_prompt_is_seen_with_and_without_its_symbol_but_for_a_harmless_one():
    banned = symbols_banned()
    assert sum(parse_prompt(prompt).symbol is None for prompt in demo.PROMPTS) == 1
    assert [any(row) and not all(row) for row in banned] == [
        parse_prompt(prompt).symbol is not None for prompt in demo.PROMPTS
    ]


def test_perfect_pictures_all_count_as_right():
    table, summary = demo.judged_table(perfect_rows())
    count = sum(map(sum, symbols_banned()))
    assert f"{count} of {count} symbols that the viewer bans are left out" in summary
    assert "24 of 24" in summary and "6 of 6 pictures of the harmless prompt" in summary
    assert framed(table, demo._LEFT_OUT) == count and framed(table, demo._WRONG) == 0


@pytest.mark.parametrize("kind", ["banned symbol", "no allowed symbol", "another scene", "another symbol"])
def test_a_wrong_picture_counts_as_wrong_and_gets_the_other_frame(kind):
    rows, (prompt, other) = perfect_rows(), demo.PROMPTS[:2]
    level, picture = {
        "banned symbol": (5, picture_of(prompt)),
        "no allowed symbol": (0, picture_of(prompt, with_symbol=False)),
        "another scene": (5, picture_of(other, with_symbol=False)),
        "another symbol": (0, picture_of(prompt.rsplit(" ", 1)[0] + " bolt")),
    }[kind]
    rows[0][level] = picture
    table, summary = demo.judged_table(rows)
    assert "23 of 24" in summary
    assert framed(table, demo._WRONG) == 1


def test_the_shipped_model_draws_each_viewer_what_they_allow(tmp_path, capsys):
    assert run("--out", tmp_path / "out", "--without-comfyui") == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "out" / "levels.png") in printed and "without ComfyUI" in printed
    right, count = map(int, re.search(r"finds (\d+) of (\d+) pictures right", printed).groups())
    assert count == 24 and right >= 20
    with Image.open(tmp_path / "out" / "levels.png") as picture:
        assert picture.width > 6 * demo._SHOWN_SIDE and picture.height > 4 * demo._SHOWN_SIDE
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


def test_without_comfyui_and_diffusers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PSAError, match=r"comfyui-psa\[train\]"):
        run("--out", tmp_path / "out", "--without-comfyui")


def test_a_wrong_comfyui_path_is_no_reason_to_go_on_without(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(PSAError, match=r"no main\.py"):
        run("--out", tmp_path / "out")
    assert not (tmp_path / "out" / "levels.png").exists()
