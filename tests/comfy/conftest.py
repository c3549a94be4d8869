"""A real ComfyUI for the tests: its servers, and small models that it takes for SD1.5 and SDXL."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from checkpoints import small_unet, write_checkpoint
from comfy_versions import installed, name
from script_checks import Outcomes
from small_models import add_models

from psa_core.comfy_server import ComfyServer, ComfyUI

SUPPORT = Path(__file__).parents[1] / "support"


_FOUND = installed()


def pytest_report_header() -> str:
    named = ", ".join(f"{name(each)} in {each.folder}" for each in _FOUND)
    return f"ComfyUI: {named or 'none was found'}"


# What depends on ComfyUI's insides: in the normal tier the lowest version runs these alone, the newest all.
_INSIDES = {"apply", "beside", "composition", "pictures", "server", "unet_parity", "workflows"}


@pytest.hookimpl(tryfirst=True)  # before marks decide what is run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if len(_FOUND) > 1 else ():
        version = getattr(item, "callspec", None) and item.callspec.params.get("comfy")
        if version is _FOUND[0] and item.path.stem.removeprefix("test_") not in _INSIDES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=_FOUND or [None], ids=[name(each) for each in _FOUND] or ["none"])
def comfy(request) -> ComfyUI:
    """A ComfyUI of this machine, each version in turn; a test that needs one is skipped where there is none."""
    if request.param is None:
        pytest.skip("no ComfyUI was found; set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python)")
    return request.param


@pytest.fixture(autouse=True)
def _is_the_one_that_is_found(request, monkeypatch) -> None:
    """What looks for a ComfyUI by itself, such as a command, finds the one under test."""
    if "comfy" in request.fixturenames:
        comfy = request.getfixturevalue("comfy")
        monkeypatch.setenv("COMFYUI_PATH", str(comfy.folder))
        monkeypatch.setenv("COMFYUI_PYTHON", str(comfy.python))


@pytest.fixture(scope="session")
def sd15_checkpoint(tmp_path_factory) -> Path:
    return _checkpoint("sd15", tmp_path_factory)


@pytest.fixture(scope="session")
def sdxl_checkpoint(tmp_path_factory) -> Path:
    """2.1 GB: made when the first test asks for it."""
    return _checkpoint("sdxl", tmp_path_factory)


def _checkpoint(family: str, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / f"{family}.safetensors"
    write_checkpoint(path, small_unet(family))
    return path


@pytest.fixture(scope="session")
def server(comfy, sd15_checkpoint, tmp_path_factory) -> Iterator[ComfyServer]:
    """One server for all tests that need nothing special: `sd15.safetensors`, and `psa.safetensors` to go with it."""
    base = tmp_path_factory.mktemp("comfyui")
    add_models(base, sd15_checkpoint)
    with ComfyServer(comfy, base) as running:
        yield running


@pytest.fixture(scope="session")
def comfy_python(comfy) -> Callable[..., str]:
    """Runs a script by ComfyUI's Python in ComfyUI's folder, `tests/support` being importable; returns what it printed.

    The script calls `start_comfyui()` (tests/support/in_comfyui.py) before it imports ComfyUI's modules.
    """

    def run(script: Path, *arguments: object, timeout: float = 600) -> str:
        result = _run_in(comfy, script, arguments, timeout)
        assert result.returncode == 0, f"{script.name} ended with {result.returncode}:\n{result.stderr[-6000:]}"
        return result.stdout

    return run


@pytest.fixture(scope="session")
def comfy_checks(comfy, tmp_path_factory) -> Callable[..., Outcomes]:
    """Runs a script of `check_*` functions as `comfy_python` does; returns what became of each."""

    def run(script: Path, *arguments: object, timeout: float = 1200) -> Outcomes:
        written = tmp_path_factory.mktemp("outcomes") / "outcomes.jsonl"
        result = _run_in(comfy, script, arguments, timeout, PSA_OUTCOMES=str(written))
        return Outcomes.read(written, result.stdout + result.stderr)

    return run


def _run_in(
    comfy: ComfyUI, script: Path, arguments: Sequence[object], timeout: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [comfy.python, script, *map(str, arguments)],
        cwd=comfy.folder,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
