"""Workflows that earlier versions of the pack saved mean what they meant, and run."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from every_node import lost
from PIL import Image
from shipped import WORDS_ON_MINI, run_file

SAVED = Path(__file__).parents[1] / "data" / "workflows"
VERSIONS = sorted(folder.name for folder in SAVED.glob("*"))
SHORT = {"psa_1_start_here": {"KSampler": {"steps": 2}}, "psa_words_mini": WORDS_ON_MINI}


def read(version: str, name: str) -> dict:
    return json.loads((SAVED / version / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_nodes_values_are_where_they_were(version, server):
    kept = {
        number: node
        for number, node in read(version, "every_node.prompt").items()
        if node["class_type"].startswith("PSA")
    }
    assert len(kept) >= 24
    assert lost(kept, convert_ui_to_api(read(version, "every_node"), server.object_info())) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_nodes_inputs_take_what_they_took_and_outputs_are_where_they_were(version, server):
    """But for what lies on a disk: models, data sets, profiles."""
    info = server.object_info()
    for number, node in read(version, "every_node.prompt").items():
        described = info[node["class_type"]]["input"]
        for name, value in node["inputs"].items():
            kind, *rest = {**described["required"], **described.get("optional", {})}[name]
            menu = kind if isinstance(kind, list) else rest[0].get("options", []) if kind == "COMBO" else []
            on_disk = name in ("adapter_name", "embedding_name", "effect_name", "profile_name", "folder", "model")
            assert isinstance(value, list) or not menu or on_disk or value in menu, (number, node["class_type"], name)
    outputs = {str(node["id"]): (node["type"], node["outputs"]) for node in read(version, "every_node")["nodes"]}
    for kind, saved in outputs.values():
        names = [(each["name"], each["type"]) for each in saved]
        now = list(zip(info[kind]["output_name"], info[kind]["output"], strict=True))
        assert now[: len(names)] == names, kind


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["psa_1_start_here", pytest.param("psa_words_mini", marks=pytest.mark.slow)])
def test_they_draw(name, version, server):
    outputs = run_file(server, SAVED / version / f"{name}.json", SHORT[name])
    (saved,) = (output["images"][0] for kind, output in outputs if kind == "SaveImage")
    picture = np.asarray(Image.open(BytesIO(server.image(**saved))).convert("RGB"), float)
    assert picture.shape[1] >= 3 * 128 and picture.std() > 1
