"""Shipped workflows, as a server runs them."""

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
    """(class, what it showed) of the nodes of a workflow of `pack` that was run, by node number."""
    workflow = json.loads((pack / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(workflow, server.object_info())
    for node in prompt.values():
        node["inputs"] |= smaller.get(node["class_type"], {})
    outputs = server.queue(prompt)
    return [(prompt[node]["class_type"], outputs[node]) for node in sorted(outputs, key=int)]
