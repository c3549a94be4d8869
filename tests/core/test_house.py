"""The files around the code say what is true."""

import argparse
import ast
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from golden import load_unet

from psa_core import StructuredEncoder, save_adapter
from psa_core.diffusers_unet import cross_attention_layers

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings its forerunner
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
MARKDOWN = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "web" / "docs").glob("*.md")),
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def read_pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_requirements_are_those_of_pyproject():
    assert lines("requirements.txt") == read_pyproject()["project"]["dependencies"]


def test_constraints_pin_every_direct_dependency():
    project = read_pyproject()["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    name = re.compile(r"[\w.-]+")
    direct = {name.match(requirement)[0].lower() for requirement in project["dependencies"] + extras}
    pinned = {line.split("==")[0].lower() for line in lines("constraints.txt")}
    assert pinned == direct - {project["name"]}


def test_actions_are_pinned_by_commit():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: *(\S+)", path.read_text(encoding="utf-8")):
            assert used.startswith("./") or re.search(r"@[0-9a-f]{40}$", used), f"{path.name}: {used}"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_github_can_read_the_workflow_and_what_it_calls(path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is missing; comfy-cli brings it")
    for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
        assert job.keys() & {"steps", "uses"}, name
        if job.get("uses", "").startswith("./"):
            called = yaml.safe_load((ROOT / job["uses"]).read_text(encoding="utf-8"))
            taken = called[True]["workflow_call"] or {}  # YAML takes "on" for a yes
            given = job.get("with", {})
            assert given.keys() <= taken.get("inputs", {}).keys(), name
            assert all(given.get(each) for each, how in taken.get("inputs", {}).items() if how.get("required")), name


def test_what_publishing_installs_is_pinned_by_hash():
    """The job that holds the registry's token runs nobody's package but those that were looked at."""
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    flags = {"--no-deps", "--only-binary", "--require-hashes", ".github/publish.txt"}
    installs = re.findall(r"pip install (.*)", workflow)
    assert len(installs) == 1 and flags <= set(installs[0].split())
    whole = "\n".join(lines(".github/publish.txt")).replace("\\\n", "")
    assert all(re.fullmatch(r"[\w.-]+==\S+( *--hash=sha256:[0-9a-f]{64} *)+", line) for line in whole.splitlines())
    pinned = {line.split()[0] for line in whole.splitlines()}
    assert {line for line in lines("constraints.txt") if line.startswith("comfy-cli")} <= pinned


def test_readme_names_both_commands_and_the_makefile_has_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^make {target}$", readme, re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_resolve(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.split("#")[0] for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []


def test_every_workflow_is_in_the_readme_and_every_named_one_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"workflows/([\w.-]+\.json)", readme))
    assert named == {path.name for path in (ROOT / "workflows").glob("*.json")}


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    unet = load_unet("sd15")
    context = unet.config.cross_attention_dim
    widths = tuple(layer.to_q.out_features for layer in cross_attention_layers(unet))
    adapter = random_adapter(widths, context, StructuredEncoder.dim, encoder_id=StructuredEncoder.id)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    latents, text = torch.randn(1, 4, 16, 16).repeat(2, 1, 1, 1), torch.randn(1, 5, context).repeat(2, 1, 1)
    names = {"unet": unet, "latents": latents, "timesteps": 7, "text": text}
    with torch.no_grad():
        negative, positive = runpy.run_path("snippet.py", init_globals=names)["noise"]
    assert not torch.allclose(negative, positive)  # the rows differ by the profile alone


@pytest.mark.skipif(importlib.util.find_spec("comfy_cli") is None, reason="comfy-cli is not installed")
def test_comfy_node_validate_has_nothing_to_say(tmp_path):
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA")}
    result = subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", "validate"],
        cwd=ROOT,
        env={**os.environ, **home, "DO_NOT_TRACK": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "All validation checks passed" in said
    assert not re.search(r"warning|error", said, re.IGNORECASE), said


def test_make_bench_runs_scripts_that_need_no_arguments():
    named = re.search(r"^BENCHES := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    needs = {}
    for path in (ROOT / "bench").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' not in text:
            continue  # what others import
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        added = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
        needs[path.stem] = any(
            not call.args[0].value.startswith("-") or any(word.arg == "required" for word in call.keywords)
            for call in added
        )
    assert {name for name, does in needs.items() if not does} == set(named)


def test_the_recipe_from_words_has_settings_and_targets_in_the_bench():
    bench = runpy.run_path(str(ROOT / "bench" / "pairs_needed.py"))
    recipe = tomllib.loads((ROOT / "docs" / "words.md").read_text(encoding="utf-8").split("```toml")[1].split("```")[0])
    with tempfile.TemporaryDirectory() as folder:
        given = argparse.Namespace(words=True, set=["steps = 7"], work=Path(folder))
        assert bench["settings"](given) == {**recipe["training"], "steps": 7}
    limits = [(target.what, target.limit, target.at_least) for target in bench["words_targets"]("psa")]
    assert sorted(limits) == [
        ("Seen users: IP, named", 0.10, False),
        ("Seen users: allowed kept", 0.90, True),
        ("Unseen users: IP, named", 0.10, False),
        ("Unseen users: allowed kept", 0.90, True),
        ("price, Frechet rise", 0.05, False),
    ]
