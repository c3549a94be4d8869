"""The archive that is published: what it holds, and that it works as somebody installs it, in a ComfyUI of its own."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from graphs import call
from PIL import Image
from shipped import WORDS_ON_MINI, run

from psa_core.comfy_server import PACK, ComfyServer

LARGEST = 15_000_000  # bytes
NEEDED = ("nodes", "psa_core", "web", "locales", "workflows", "subgraphs")
FOR_READERS = ("docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
INSTALLED = "comfyui-psa"  # the registry's name, and so the folder's


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACK, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("comfy-cli packs what git tracks, and this folder is no git checkout")
    return [name for name in listed.stdout.split("\0") if name and (PACK / name).is_file()]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> zipfile.ZipFile:
    """What `comfy node pack` makes of the tracked files; it writes where it runs, so a copy of them."""
    folder = tmp_path_factory.mktemp("packed")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((PACK / name).read_bytes())
    for command in (["git", "init", "-q"], ["git", "add", "--force", "--all"]):
        subprocess.run(command, cwd=folder, check=True)
    home = {name: str(folder.parent) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA")}
    result = subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", "pack"],
        cwd=folder,
        env={**os.environ, **home, "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = result.stdout + result.stderr
    if result.returncode and re.search(r"connect|network|resolve|timed out", said, re.IGNORECASE):
        pytest.skip(f"comfy-cli cannot pack without a network: {said[-300:]}")
    assert result.returncode == 0, said
    return zipfile.ZipFile(folder / "node.zip")


@pytest.fixture(scope="module")
def installed(comfy, archive, tmp_path_factory) -> Iterator[ComfyServer]:
    """A ComfyUI whose only pack is the unzipped archive."""
    base = tmp_path_factory.mktemp("installed")
    folder = base / "custom_nodes" / INSTALLED
    archive.extractall(folder)
    with ComfyServer(comfy, base, packs={INSTALLED: folder}) as running:
        yield running


def below(names: list[str], folder: str) -> set[str]:
    return {name for name in names if name.startswith(f"{folder}/")}


def test_it_holds_what_is_needed_and_nothing_else(archive):
    names = archive.namelist()
    for folder in NEEDED:
        assert below(names, folder) == below(tracked(), folder) != set(), folder
    rest = {name.partition("/")[0] for name in names} - {*NEEDED, *FOR_READERS}
    assert rest == {"__init__.py", "pyproject.toml", "requirements.txt"}
    assert {"LICENSE", "psa_core/plots/font_files/LICENSE.txt", "psa_core/mini/assets/psa.safetensors"} <= set(names)


def test_it_is_small(archive):
    assert Path(archive.filename).stat().st_size < LARGEST


def test_links_between_its_pages_lead_somewhere(archive):
    names = archive.namelist()
    for page in (name for name in names if name.endswith(".md") and not name.startswith("psa_core/")):
        text = re.sub(r"```.*?```", "", archive.read(page).decode(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            if "://" not in link:
                assert os.path.normpath(Path(page).parent / link).replace(os.sep, "/") in names, (page, link)


def test_comfyui_has_all_that_it_requires(comfy, archive, tmp_path):
    """What comfy-cli and the Manager install after unpacking."""
    archive.extract("requirements.txt", tmp_path)
    pip = [comfy.python, "-m", "pip", "install", "--dry-run", "--no-index", "-r", tmp_path / "requirements.txt"]
    result = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    if "No module named pip" in result.stderr:
        pytest.skip("this ComfyUI's Python has no pip")
    assert result.returncode == 0, result.stderr
    assert "Would install" not in result.stdout


def test_templates_are_served(installed, archive):
    names = below(archive.namelist(), "workflows")
    listed = json.loads(call(installed, "/workflow_templates")[1])
    assert {f"workflows/{name}.json" for name in listed[INSTALLED]} == {name for name in names if ".json" in name}
    for name in names:
        served = call(installed, f"/api/workflow_templates/{INSTALLED}/{Path(name).name}")
        assert served == (200, archive.read(name)), name


def test_scripts_and_help_pages_are_served(installed, archive):
    names = below(archive.namelist(), "web")
    for name in names:
        served = call(installed, f"/extensions/{INSTALLED}/{name.removeprefix('web/')}")
        assert served == (200, archive.read(name)), name
    scripts = {f"/extensions/{INSTALLED}/{Path(name).name}" for name in names if name.endswith(".js")}
    assert scripts <= set(json.loads(call(installed, "/extensions")[1]))
    ours = {name for name in installed.object_info() if name.startswith("PSA")}
    assert {Path(name).stem for name in names if name.endswith(".md")} == ours


def test_languages_are_served(installed, archive):
    served = json.loads(call(installed, "/i18n")[1])
    for name in below(archive.namelist(), "locales"):
        _, language, file = name.split("/")
        words = json.loads(archive.read(name))
        shown = served[language] if file == "main.json" else served[language][Path(file).stem]
        assert words.items() <= shown.items(), name


def test_the_blueprint_is_served(installed, archive):
    status, answer = call(installed, "/global_subgraphs")
    if status == 404:
        pytest.skip("this ComfyUI has no blueprints of packs")
    ours = {key: entry for key, entry in json.loads(answer).items() if entry["info"]["node_pack"].endswith(INSTALLED)}
    assert {f"subgraphs/{entry['name']}.json" for entry in ours.values()} == below(archive.namelist(), "subgraphs")
    for key, entry in ours.items():
        served = json.loads(json.loads(call(installed, f"/global_subgraphs/{quote(key)}")[1])["data"])
        assert served == json.loads(archive.read(f"subgraphs/{entry['name']}.json"))


@pytest.mark.parametrize(
    ("name", "smaller", "pictures"),
    [
        ("psa_1_start_here", {"KSampler": {"steps": 2}}, 18),
        pytest.param("psa_words_mini", WORDS_ON_MINI, 3, marks=pytest.mark.slow),
    ],
)
def test_its_workflows_draw_and_nothing_is_written_into_it(name, smaller, pictures, installed, archive):
    folder = installed.base / "custom_nodes" / INSTALLED
    outputs = run(installed, name, smaller, folder)
    files = [image for kind, output in outputs if kind == "SaveImage" for image in output["images"]]
    assert files
    for file in files:
        picture = np.asarray(Image.open(BytesIO(installed.image(**file))).convert("RGB"), float)
        assert picture.shape[0] * picture.shape[1] >= pictures * 128**2 and picture.std() > 1
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in there if "__pycache__" not in path} == set(archive.namelist())
