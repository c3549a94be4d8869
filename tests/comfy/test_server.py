"""A real ComfyUI starts with the pack in it, answers, and goes without a trace."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from graphs import Graph, draw, psa, same, txt2img
from small_models import add_models

from psa_core import PSAError
from psa_core.comfy_server import PACK, ComfyServer, find_comfyui

NODE_IDS = {
    id for path in (PACK / "nodes").glob("*.py") for id in re.findall(r'node_id="(\w+)"', path.read_text("utf-8"))
}
SCRIPTS = Path(__file__).parent / "scripts"


def ours(server: ComfyServer) -> set[str]:
    return {name for name, node in server.object_info().items() if node["category"].split("/")[0] == "PSA"}


def answers(url: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except OSError:
        return False
    return True


def test_the_server_has_every_node(server):
    assert ours(server) == NODE_IDS
    assert {"PSAUserProfile", "PSAEncode", "PSAApply", "PSALoadAdapter", "PSALabelGrid"} <= NODE_IDS


def test_every_input_has_a_tooltip(server):
    info = server.object_info()
    silent = [
        f"{node}.{name}"
        for node in NODE_IDS
        for kind in ("required", "optional")
        for name, (_, *options) in info[node]["input"].get(kind, {}).items()
        if not (options and options[0].get("tooltip"))
    ]
    assert silent == []


def test_every_node_is_found_by_other_words(server):
    """Where ComfyUI is new enough to look for them."""
    info = server.object_info()
    if "search_aliases" in info["PSAApply"]:
        assert [node for node in NODE_IDS if not info[node]["search_aliases"]] == []


def test_loading_the_pack_imports_no_large_library(comfy_python):
    """What takes seconds to import is imported when it is used: ComfyUI's start stays as quick as it was."""
    imported = json.loads(comfy_python(SCRIPTS / "load_pack.py").splitlines()[-1])
    assert any(name.endswith("psa_core.adapter") for name in imported)
    large = {"transformers", "diffusers", "accelerate", "torchdata", "datasets", "tensorboard", "matplotlib", "pandas"}
    assert large.isdisjoint(name.split(".")[0] for name in imported)


def test_a_copied_pack_in_a_folder_with_spaces_works_alone(comfy, sd15_checkpoint, server, tmp_path):
    """As an installer leaves it: a copy, no git; and ComfyUI's own folders stay as they were."""
    folders = [comfy.folder / name for name in ("custom_nodes", "input", "output", "temp", "user")]
    before = [sorted(folder.rglob("*")) for folder in folders]
    base = tmp_path / "a folder with spaces"
    add_models(base, sd15_checkpoint)
    with ComfyServer(comfy, base, packs={"Personalized Safety Alignment": PACK}, copy=True) as own:
        pack = base / "custom_nodes" / "Personalized Safety Alignment"
        assert pack.is_dir() and not pack.is_symlink() and not (pack / ".git").exists()
        assert ours(own) == NODE_IDS
        assert same(draw(own, txt2img(psa("L5"))), draw(server, txt2img(psa("L5"))))
        assert "Traceback" not in own.log and "IMPORT FAILED" not in own.log
        assert re.search(r" +[\d.]+ seconds: .*Personalized Safety Alignment$", own.log, re.MULTILINE)
    assert [sorted(folder.rglob("*")) for folder in folders] == before


def test_nothing_is_left_of_a_server_with_a_temporary_base(comfy):
    with pytest.raises(ZeroDivisionError), ComfyServer(comfy, packs={}) as server:  # ended by an error of ours
        assert answers(server.url) and ours(server) == set()
        raise ZeroDivisionError
    assert not answers(server.url)
    assert not server.base.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single process")
def test_ctrl_c_takes_the_server_along(comfy, tmp_path):
    script = (
        "import sys, time\n"
        "from psa_core.comfy_server import ComfyServer, find_comfyui\n"
        "with ComfyServer(find_comfyui(), packs={}) as server:\n"
        "    print(server.url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=PACK, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    assert answers(url)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert not answers(url)


@pytest.mark.parametrize(
    ("name", "source", "sentence"),
    [
        ("dies", "raise SystemExit(3)", "stopped while starting"),
        ("fails", "raise RuntimeError", "could not load the pack fails"),
    ],
)
def test_a_failure_to_start_is_reported_with_the_log(name, source, sentence, comfy, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"import logging\nlogging.error('no such luck')\n{source}\n")
    with pytest.raises(PSAError, match=rf"{sentence}(.|\n)*no such luck"):
        ComfyServer(comfy, packs={name: tmp_path / name}).__enter__()


def test_progress_and_the_outputs(server):
    seen = []
    graph = txt2img(steps=4, seed=101)
    graph.add("PreviewImage", images=graph.add("VAEDecode", samples=graph.samples, vae=graph.vae))
    outputs = server.queue(graph.prompt, lambda *event: seen.append(event))
    steps = [step for name, step, count in seen if (name, count) == ("KSampler", 4)]  # a quick one may be left out
    assert ("KSampler", 0, 0) in seen and steps == sorted(steps) and len(steps) > 1 and steps[-1] == 4
    (image,) = (image for entry in outputs.values() for image in entry["images"])
    assert image["type"] == "temp" and server.image(**image).startswith(b"\x89PNG")


def test_a_graph_that_is_refused_gets_a_sentence(server):
    with pytest.raises(PSAError, match=r"CheckpointLoaderSimple.*'none\.safetensors' not in"):
        draw(server, txt2img(checkpoint="none.safetensors"))


def test_a_node_that_fails_gets_its_own_sentence(server):
    graph = Graph()
    images = graph.add("EmptyImage", width=16, height=16, batch_size=3, color=0)
    grid = graph.add("PSALabelGrid", images=images, labels="L0\nL1", columns=2)
    graph.add("PreviewImage", images=grid)
    with pytest.raises(PSAError, match=r"^PSALabelGrid failed: .*3 pictures and 2 labels"):
        server.queue(graph.prompt)


def test_interrupting_stops_the_run(server):
    graph = txt2img(steps=1000, seed=102)

    def interrupt_from_the_third_step_on(name: str, step: int, _steps: int) -> None:
        if name == "KSampler" and step >= 3:  # a quick one may be left out
            server.interrupt()

    graph.add("SaveLatent", samples=graph.samples, filename_prefix="never")
    with pytest.raises(PSAError, match="interrupted"):
        server.run(graph.prompt, interrupt_from_the_third_step_on)


def test_a_run_that_takes_too_long_is_stopped(server):
    graph = txt2img(steps=1000, seed=103)
    graph.add("SaveLatent", samples=graph.samples, filename_prefix="never")
    with pytest.raises(PSAError, match="within 3 s"):
        server.run(graph.prompt, timeout=3)
    start = time.monotonic()
    server.run(txt2img_preview().prompt, timeout=60)  # the server is free again
    assert time.monotonic() - start < 60


def txt2img_preview() -> Graph:
    graph = txt2img(seed=104)
    graph.add("PreviewImage", images=graph.add("VAEDecode", samples=graph.samples, vae=graph.vae))
    return graph


def make_comfyui(folder: Path, *pythons: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    for python in pythons:
        (folder / python).parent.mkdir(parents=True)
        (folder / python).touch(mode=0o755)
    return folder


@pytest.fixture
def no_variables(monkeypatch, tmp_path):
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):  # of Linux and macOS, and of Windows
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr("psa_core.comfy_server.PACK", tmp_path / "checkout")


def test_comfyui_is_found_where_it_is_said_to_be(no_variables, monkeypatch, tmp_path):
    assert find_comfyui() is None
    at_home = make_comfyui(tmp_path / "home" / "comfy" / "ComfyUI")
    assert find_comfyui().folder == at_home
    around = make_comfyui(tmp_path / "around")
    monkeypatch.setattr("psa_core.comfy_server.PACK", around / "custom_nodes" / "comfyui-psa")
    assert find_comfyui().folder == around
    named = make_comfyui(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert find_comfyui().folder == named


@pytest.mark.skipif(os.name == "nt", reason="the layout of a virtual environment differs")
def test_its_python_is_found_in_it_or_beside_it(no_variables, monkeypatch, tmp_path):
    folder = make_comfyui(tmp_path / "home" / "comfy" / "ComfyUI")
    assert find_comfyui().python == Path(sys.executable)
    for place in ("../venv/bin/python", "../.venv/bin/python", "venv/bin/python", ".venv/bin/python"):
        python = Path(os.path.normpath(folder / place))
        python.parent.mkdir(parents=True)
        python.touch(mode=0o755)
        assert find_comfyui().python == python
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    assert find_comfyui().python == Path(sys.executable)


def test_a_variable_that_names_nothing_is_not_passed_over(no_variables, monkeypatch, tmp_path):
    make_comfyui(tmp_path / "home" / "comfy" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "none"))
    with pytest.raises(PSAError, match="COMFYUI_PYTHON"):
        find_comfyui()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(PSAError, match=r"COMFYUI_PATH.*no main\.py"):
        find_comfyui()
