"""Keeps what this version saves in tests/data/workflows/<version>/; before a release, once.

    python tests/browser/save_workflows.py

Of every node: the graph as ComfyUI's page saves it, and what it sends to be run. And the workflows that need no file.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "support")]

import every_node  # noqa: E402
from comfy_versions import installed  # noqa: E402
from in_page import find_chromium, opened  # noqa: E402

from psa_core.comfy_server import PACK, ComfyServer  # noqa: E402


def main() -> None:
    version = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    folder = PACK / "tests" / "data" / "workflows" / version
    if folder.exists():
        raise SystemExit(f"{folder} is there: what a version saved is not written again.")
    lowest = installed()[0]
    with (
        tempfile.TemporaryDirectory() as user,
        ComfyServer(lowest, startup_timeout=600) as server,
        opened(server, find_chromium(), Path(user)) as page,
    ):
        page.evaluate(every_node.MAKE)
        saved, prompt = page.evaluate("() => app.graph.serialize()"), page.evaluate(every_node.PROMPT)
    folder.mkdir(parents=True)
    for name, content in (("every_node", saved), ("every_node.prompt", prompt)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for path in [*(PACK / "workflows").glob("*_mini.json"), PACK / "workflows" / "psa_1_start_here.json"]:
        shutil.copy(path, folder)


if __name__ == "__main__":
    main()
