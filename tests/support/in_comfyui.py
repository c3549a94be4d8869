"""For scripts that run inside ComfyUI's own Python, its folder being the current one."""

import importlib
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

_PACK = Path(__file__).parents[2]
_NAME = "pack_under_test"


def start_comfyui(*arguments: str) -> None:
    """Make ComfyUI's modules importable, with its command line set to `--cpu` and `arguments`."""
    sys.argv = [sys.argv[0], "--cpu", *arguments]
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401  as main.py does: before another module called utils is found


def pack_module(name: str) -> ModuleType:
    """Import a module of the pack (such as `nodes.apply`) under a made-up package name, as ComfyUI does.

    The pack's door and the list of nodes are left out: they register with a running server.
    """
    for package in (_NAME, f"{_NAME}.nodes"):
        if package not in sys.modules:
            module = importlib.util.module_from_spec(importlib.util.spec_from_loader(package, None, is_package=True))
            module.__path__ = [str(_PACK / package.removeprefix(_NAME).lstrip("."))]
            sys.modules[package] = module
    return importlib.import_module(f"{_NAME}.{name}")


def run_checks(namespace: dict) -> None:
    """Call every `check_*` function of a script, whatever became of those before it.

    Each outcome is a line of JSON, [name, traceback or null], in the file that PSA_OUTCOMES names (see
    script_checks.py); without one, as when a person runs the script, failures go to the screen.
    """
    outcomes = os.environ.get("PSA_OUTCOMES")
    for name, check in list(namespace.items()):
        if not name.startswith("check_"):
            continue
        print(name, flush=True)
        failure = None
        try:
            check()
        except Exception:
            failure = traceback.format_exc()
            print(failure, file=sys.stderr)
        if outcomes:
            with open(outcomes, "a", encoding="utf-8") as file:
                print(json.dumps([name, failure]), file=file)
