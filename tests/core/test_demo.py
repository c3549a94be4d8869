"""`psa demo` without ComfyUI, and how it judges and lays out what was drawn."""

import argparse
import json
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psa_core import LEVELS, PSAError
from psa_core.comfy_server import PACK, comfyui_at
from psa_core.commands import demo
from psa_core.mini import LEVELS_GRAPH, SYMBOLS, Scene, parse_prompt, render
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


BROKEN = {  # a ComfyUI's main.py, and what is said of it
    "lacks its requirements": (
        "import torchsde_elsewhere",
        r"stopped while starting \(ModuleNotFoundError",
    ),
    "is too old": ("", r"is version 0\.3\.40, and 0\.3\.64 or later is needed"),
    "does not answer": ("import time; time.sleep(60)", "did not answer within 2 s"),
    "finds its port taken": ("raise OSError('[Errno 98] address already in use')", "address already in use"),
    "cannot load the pack": (
        "import http.server, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
        "base = sys.argv[sys.argv.index('--base-directory') + 1]\n"
        "print('ImportError: no comfy_api\\n   0.0 seconds (IMPORT FAILED): ' + base + '/custom_nodes/comfyui-psa')\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1])), Answer).serve_forever()",
        r"could not load the pack comfyui-psa \(ImportError: no comfy_api\)",
    ),
}


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path, monkeypatch) -> tuple[Path, str]:
    """(A ComfyUI that does not work, what is to be said of it)."""
    main, sentence = BROKEN[request.param]
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    (folder / "main.py").write_text(main)
    version = "0.3.40" if request.param == "is too old" else "0.3.64"
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    monkeypatch.setattr(demo, "_START_LIMIT", 2 if request.param == "does not answer" else 60)
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    return folder, sentence


def test_somebodys_broken_comfyui_is_told_and_done_without(broken, quick, tmp_path, monkeypatch, capsys):
    folder, sentence = broken
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(demo, "find_comfyui", lambda: comfyui_at(folder))
    assert run("--out", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(re.search(sentence, line)) for line in lines) == 1
    assert any("without ComfyUI" in line for line in lines) and (tmp_path / "out" / "levels.png").is_file()


def test_a_broken_comfyui_that_was_named_is_an_error(broken, tmp_path, monkeypatch):
    folder, sentence = broken
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    with pytest.raises(PSAError, match=sentence):
        run("--out", tmp_path / "out")
    assert not (tmp_path / "out" / "levels.png").exists()


def test_the_demos_graph_is_the_levels_workflows():
    """The server's form of the workflow that artists open, cut to one prompt and its pictures one by one."""
    workflow = json.loads((PACK / "workflows" / "psa_1_start_here.json").read_text(encoding="utf-8"))
    graph = json.loads(LEVELS_GRAPH.read_text(encoding="utf-8"))
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for number in graph.keys() & nodes.keys():
        node, ours = nodes[number], graph[number]
        assert ours["class_type"] == node["type"]
        wired = {entry["name"]: links[entry["link"]] for entry in node["inputs"] if entry.get("link") is not None}
        assert {name: value for name, value in ours["inputs"].items() if isinstance(value, list)} == wired
    assert {ours["class_type"] for number, ours in graph.items() if number not in nodes} == {"VAEDecode", "SaveImage"}
    (sampler,) = (node for node in graph.values() if node["class_type"] == "KSampler")
    saved = nodes["17"]["widgets_values"]
    values = [sampler["inputs"][name] for name in ("steps", "cfg", "sampler_name", "scheduler", "denoise")]
    assert [saved[0], *saved[2:]] == [demo.SEED, *values]


def test_a_wrong_comfyui_path_is_no_reason_to_go_on_without(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(PSAError, match=r"no main\.py"):
        run("--out", tmp_path / "out")
    assert not (tmp_path / "out" / "levels.png").exists()
