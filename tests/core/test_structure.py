"""The house keeps its import rules, stays light to import, and packs the method alone."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "psa_core").rglob("*.py"))
PACK = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py"))]
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
HEAVY = {"accelerate", "diffusers", "torchdata", "transformers"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def absolute_imports(nodes: Iterator[ast.AST]) -> set[str]:
    """The top packages that `nodes` import by absolute name, `import_module("...")` included."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return {name.split(".")[0] for name in names}


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside functions and `if TYPE_CHECKING` blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from at_import_time(child)


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_check():
    assert len(CORE) > 5
    assert len(PACK) > 3


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_the_core_knows_no_comfyui(path):
    assert absolute_imports(ast.walk(tree(path))) & COMFYUI == set()


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_the_core_stays_inside_itself(path):
    depth = len(path.relative_to(ROOT).parts) - 1
    levels = [node.level for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
    assert max(levels, default=0) <= depth


@pytest.mark.parametrize("path", CORE + PACK, ids=ids)
def test_nothing_unpickles(path):
    """torch.load runs code in spite of `weights_only` up to 2.5.1; numpy's reader unpickles where it is let to."""
    nodes = [*ast.walk(tree(path))]
    assert absolute_imports(iter(nodes)) & {"pickle", "dill", "joblib", "shelve", "marshal"} == set()
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert {ast.unparse(call.func) for call in calls} & {"torch.load", "load_torch_file"} == set()
    for call in calls:
        if ast.unparse(call.func).endswith(("np.load", "format.read_array")):
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert said["allow_pickle"] == "False"


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_heavy_libraries_are_imported_inside_functions(path):
    assert absolute_imports(at_import_time(tree(path))) & HEAVY == set()


@pytest.mark.parametrize("path", PACK, ids=ids)
def test_the_nodes_reach_the_core_by_relative_import(path):
    """ComfyUI loads the pack under a made-up name: an absolute import would load the core twice."""
    assert absolute_imports(ast.walk(tree(path))) & ({"psa_core", "nodes"} | HEAVY) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=ids)
def test_schemas_know_comfyui_by_its_api_alone(path):
    """What talks to its insides is in nodes/comfy/."""
    assert absolute_imports(ast.walk(tree(path))) & COMFYUI <= {"comfy_api"}


@pytest.mark.parametrize("path", PACK, ids=ids)
def test_the_nodes_leave_the_import_path_alone(path):
    """With the pack's root on it, our `nodes` would shadow ComfyUI's."""
    assert "sys.path" not in {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    assert "path" not in {
        alias.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module == "sys"
        for alias in node.names
    }


def rooms_entered(path: Path) -> set[str]:
    """The rooms of the core, folders and single modules alike, that a module imports from, its own left out."""
    own = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = own[: len(own) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join((*base, name)).split(".")[1] for name in names}
    return found - {own[1]}


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms that it imports from; `__init__` hands out names and is no room."""
    found: dict[str, set[str]] = {}
    for path in CORE:
        room = path.relative_to(ROOT / "psa_core").with_suffix("").parts[0]
        if room != "__init__":
            found.setdefault(room, set()).update(rooms_entered(path))
    return found


def test_no_rooms_import_each_other_in_a_circle():
    TopologicalSorter(arrows()).prepare()  # raises with the circle, where there is one


def test_no_general_room_knows_a_special_one():
    """The small world may use any room, and commands may use all; nobody else knows of either."""
    known_by = {room: {other for other, used in arrows().items() if room in used} for room in ("mini", "commands")}
    assert known_by == {"mini": {"commands"}, "commands": set()}


def test_importing_the_core_is_light(tmp_path):
    listed = "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    script = f"import json, sys, psa_core; {listed}; from psa_core import *; {listed}"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    alone, whole = (set(json.loads(line)) for line in result.stdout.splitlines())
    assert "psa_core" in alone and "torch" not in alone, "a command can be interrupted before it has imported torch"
    assert "torch" in whole and whole & (HEAVY | COMFYUI) == set()


@pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None,
    reason="building a wheel offline needs pip and setuptools in this environment",
)
def test_the_wheel_holds_the_core_alone(tmp_path):
    source = tmp_path / "a checkout"
    source.mkdir()
    for name in ("psa_core", "nodes", "tests/support", "bench", "web"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    result = subprocess.run([*build, "-w", tmp_path, source], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        packed = [name for name in file.namelist() if not name.split("/")[0].endswith(".dist-info")]
    assert {name.split("/")[0] for name in packed} == {"psa_core"}
    files = {path for path in (ROOT / "psa_core").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert set(packed) == {path.relative_to(ROOT).as_posix() for path in files}
