"""The shipped workflow "train an adapter", run in a real ComfyUI with small numbers."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from tiny_training import write_split

from psa_core import load_adapter
from psa_core.training import read_metrics

WORKFLOW = Path(__file__).parents[2] / "workflows" / "psa_train_sd15.json"
STEPS = 6
SMALL = {  # node class -> inputs that make the run a short one
    "CheckpointLoaderSimple": {"ckpt_name": "sd15.safetensors"},
    "PSALoadDataset": {"folder": "train-workflow"},
    "PSATrain": {
        "preset": "custom",
        "steps": STEPS,
        "learning_rate": 1e-2,
        "batch_size": 1,
        "resolution": 64,
        "preview_every": 3,
    },
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
}


@pytest.fixture(scope="module")
def prompt(server) -> dict[str, dict]:
    """The workflow as the server takes it."""
    folder = server.base / "input" / "train-workflow"
    write_split(folder, "train", range(0, 4), 6)
    write_split(folder, "val", range(4, 6), 3)
    prompt = convert_ui_to_api(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.object_info())
    for node in prompt.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
    return prompt


@pytest.fixture(scope="module")
def outputs(server, prompt) -> dict[str, list[dict]]:
    """What each node showed when the workflow was run, by its title."""
    titles = {str(node["id"]): node.get("title", node["type"]) for node in json.loads(WORKFLOW.read_text())["nodes"]}
    return {titles[node]: shown for node, shown in server.queue(prompt).items()}


def pixels(server, entry: dict) -> np.ndarray:
    (image,) = entry["images"]
    return np.asarray(Image.open(BytesIO(server.image(**image))).convert("RGB"), dtype=np.float32)


def test_it_trains_and_keeps_the_adapter(server, prompt, outputs):
    (train,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PSATrain")
    run = server.base / "user" / "__psa_training" / train["run_name"]
    assert [row["step"] for row in read_metrics(run)] == list(range(1, STEPS + 1))
    (save,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PSASaveAdapter")
    kept = load_adapter(server.base / "models" / "psa_adapters" / f"{save['name']}.safetensors")
    assert kept.training_summary["pairs"] == 6 and kept.encoder_id == "structured-v1"
    assert any(layer.to_v_user[0].weight.any() for layer in kept.psa_adapter)


def test_it_shows_the_pairs_and_the_curves(server, outputs):
    for title in ("Pairs to learn from", "Pairs to measure on", "The curves"):
        assert np.ptp(pixels(server, outputs[title])) > 100, title


def test_the_job_is_known_by_its_curves_and_they_hold_no_graph(server, prompt, outputs):
    """ComfyUI's list of jobs shows the first picture that was saved, or else the first preview: of the data set."""
    saved = [image for entry in outputs.values() for image in entry.get("images", ()) if image["type"] == "output"]
    (train,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PSATrain")
    assert saved[0]["filename"].startswith(f"{train['run_name']}_curves")
    assert Image.open(BytesIO(server.image(**saved[0]))).info.keys().isdisjoint({"prompt", "workflow"})


def test_it_draws_other_pictures_for_l0_and_l5(server, outputs):
    grid = pixels(server, outputs["L0 and L5"])
    one, other = grid[-64:, :64], grid[-64:, -64:]
    assert min(one.std(), other.std()) > 2 < np.abs(one - other).mean()
