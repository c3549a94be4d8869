"""Workflows as a server runs them: the shipped ones, and saved ones."""

import json
from pathlib import Path

from comfy_cli.workflow_to_api import convert_ui_to_api

from psa_core.comfy_server import PACK, ComfyServer

PAIRS = 4
WORDS_ON_MINI = {
    "KSampler": {"steps": 2},
    "PSAConcepts": {"pairs": PAIRS, "harmless": 2},
    "PSAUserSpace": {"count": 30},
    "PSABuildDataset": {"users": 30, "steps": 2},
    "PSATrain": {"steps": 2},
    "PSAEvaluate": {"count": 2, "steps": 2},
}
"""Inputs by node class that make `psa_words_mini` a short run."""


def run(server: ComfyServer, name: str, smaller: dict[str, dict], pack: Path = PACK) -> list[tuple[str, dict]]:
    """`run_file` of a workflow of `pack`."""
    return run_file(server, pack / "workflows" / f"{name}.json", smaller)


def run_file(server: ComfyServer, path: Path, smaller: dict[str, dict]) -> list[tuple[str, dict]]:
    """(class, what it showed) of the nodes of a saved workflow that was run, by node number."""
    prompt = convert_ui_to_api(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    for node in prompt.values():
        node["inputs"] |= smaller.get(node["class_type"], {})
    outputs = server.queue(prompt)
    return [(prompt[node]["class_type"], outputs[node]) for node in sorted(outputs, key=int)]
