"""Every shipped workflow runs on the real server, as its file is, but for size and steps."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from checkpoints import small_adapter, small_unet
from graphs import call
from PIL import Image
from shipped import PAIRS, WORDS_ON_MINI, run
from small_models import add_models
from tiny_llm import make_tiny_llm

from psa_core import PSAAdapter, load_adapter
from psa_core.comfy_server import PACK
from psa_core.dataset import read_split
from psa_core.encoders.language_model import LanguageModelEncoder
from psa_core.language_model import DEFAULT_MODEL
from psa_core.schema import CATEGORIES

SIZE = 64
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
SMALLER = {
    "EmptyLatentImage": {"width": SIZE, "height": SIZE},
    "KSampler": {"steps": 2},
}


def test_the_template_browser_lists_the_workflows_by_name_and_the_one_to_start_with_first(server):
    for route in ("/workflow_templates", "/api/workflow_templates"):
        lists = json.loads(call(server, route)[1]).values()
        (ours,) = (names for names in lists if "psa_1_start_here" in names)
        assert ours == [path.stem for path in WORKFLOWS] and ours[0] == "psa_1_start_here"


def test_no_workflow_and_no_blueprint_holds_a_node_that_comfyui_lets_go(server):
    """Those show as [DEPR]."""
    info = server.object_info()
    for path in (*WORKFLOWS, *(PACK / "subgraphs").glob("*.json")):
        text = json.loads(path.read_text(encoding="utf-8"))
        graphs = [text, *text.get("definitions", {}).get("subgraphs", [])]
        kinds = {node["type"] for graph in graphs for node in graph["nodes"]}
        assert [kind for kind in kinds if info.get(kind, {}).get("deprecated")] == [], path.name


def shown(server, output: dict) -> list[np.ndarray]:
    files = output.get("images", ())
    return [np.asarray(Image.open(BytesIO(server.image(**file))).convert("RGB"), float) for file in files]


def pictures(server, name) -> list[np.ndarray]:
    """What the workflow's save nodes wrote, by node number."""
    return [picture for _, output in run(server, name, SMALLER) for picture in shown(server, output)]


@pytest.mark.parametrize(
    ("name", "family", "checkpoint", "adapter"),
    [
        ("psa_sd15_basic", "sd15", "v1-5-pruned-emaonly", "psa_sd15"),
        ("psa_sdxl_basic", "sdxl", "sd_xl_base_1.0", "psa_sdxl"),
    ],
)
def test_basic(name, family, checkpoint, adapter, server, request):
    add_models(server.base, request.getfixturevalue(f"{family}_checkpoint"), f"{adapter}.safetensors", family)
    give(server, f"{family}.safetensors", f"{checkpoint}.safetensors")
    viewer, plain = pictures(server, name)
    assert viewer.shape == plain.shape == (SIZE, SIZE, 3)
    assert np.abs(viewer - plain).mean() > 1


def test_levels(server, sd15_checkpoint):
    add_models(server.base, sd15_checkpoint, "psa_sd15.safetensors")
    give(server, "sd15.safetensors", "v1-5-pruned-emaonly.safetensors")
    on_the_node, saved = pictures(server, "psa_levels_sd15")
    assert on_the_node.shape == saved.shape
    assert saved.shape[1] > 3 * SIZE and saved.shape[0] > 2 * SIZE


def test_published_weights_and_language_model(server, sd15_checkpoint):
    """A tiny language model under the real one's name, and an adapter for it in the published file format."""
    give(server, "sd15.safetensors", "v1-5-pruned-emaonly.safetensors")
    models = server.base / "models"
    encoder = LanguageModelEncoder(make_tiny_llm(models / "LLM" / DEFAULT_MODEL))
    templates = models / "psa_templates" / "published"
    templates.mkdir(parents=True)
    for path in (PACK / "psa_core" / "encoders" / "templates").iterdir():
        (templates / path.name).write_bytes(path.read_bytes())
    torch.save(published_format(encoder.dim), models / "psa_adapters" / "psa_adapter.bin")
    (picture,) = pictures(server, "psa_published_weights")
    assert picture.shape == (SIZE, SIZE, 3) and picture.std() > 1
    cache = server.base / "user" / "__psa_cache"
    assert len(list(cache.glob("*.safetensors"))) == 1


CONCEPTS = f"# Shocking\nspider = eight legs on a web\n# Violence\ntoy sword\n# {CATEGORIES[0]}\nmegaphone\n"
FROM_WORDS = {
    **SMALLER,
    "PSAConcepts": {"concepts": CONCEPTS, "pairs": PAIRS, "harmless": 2},
    "PSAUserSpace": {"count": 30},
    "PSABuildDataset": {"users": 30, "steps": 2, "width": SIZE, "height": SIZE},
    "PSATrain": {"preset": "custom", "steps": 2, "batch_size": 1, "resolution": SIZE, "learning_rate": 1e-2},
}


@pytest.mark.parametrize(
    ("name", "checkpoint", "smaller"),
    [
        ("psa_words_mini", "", WORDS_ON_MINI),
        ("psa_words_sd15", "v1-5-pruned-emaonly", FROM_WORDS),
        pytest.param("psa_words_sdxl", "sd_xl_base_1.0", FROM_WORDS, marks=pytest.mark.slow),
    ],
)
def test_from_words_to_pictures(name, checkpoint, smaller, server, request):
    """One Run writes the prompts, draws the data set, trains on it, keeps the adapter, and draws with it."""
    if checkpoint:
        family = name.rpartition("_")[2]
        add_models(server.base, request.getfixturevalue(f"{family}_checkpoint"), f"{name}.safetensors", family)
        give(server, f"{family}.safetensors", f"{checkpoint}.safetensors")
    outputs = run(server, name, smaller)
    said = {kind: "\n".join(output.get("text", ())) for kind, output in outputs}
    run_name = name.removeprefix("psa_").replace("_", "-")
    folder = server.base / "input" / "psa_datasets" / run_name
    told = json.loads((folder / "dataset.json").read_text())
    assert told["people"].startswith("virtual users only") and told["labels"] == "rule"
    assert read_split(folder, "train").users == 24
    assert "Virtual users only" in said["PSABuildDataset"] and run_name in said["PSACheckDataset"]
    assert "Leakage: none" in said["PSACheckDataset"] and "Unreadable: none" in said["PSACheckDataset"]
    adapter = load_adapter(server.base / "models" / "psa_adapters" / f"{run_name}.safetensors")
    assert adapter.training_summary["steps"] == 2
    assert any(layer.to_v_user[0].weight.any() for layer in adapter.psa_adapter)
    side = 128 if not checkpoint else SIZE
    (saved,) = (picture for kind, output in outputs if kind == "SaveImage" for picture in shown(server, output))
    assert saved.shape[1] >= 3 * side and saved.shape[0] >= side and saved.std() > 1  # three viewers in a row
    if not checkpoint:
        assert "2 records" in said["PSAEvaluate"] and "mini detector" in said["PSAEvaluate"]


def give(server, checkpoint, name) -> None:
    """Let the server have the small checkpoint under the name that a workflow asks for."""
    folder = server.base / "models" / "checkpoints"
    if not (folder / name).exists():
        (folder / name).hardlink_to(folder / checkpoint)


def published_format(embedding_dim: int) -> dict[str, dict[str, torch.Tensor]]:
    small = small_adapter(small_unet("sd15"))
    adapter = PSAAdapter(small.layer_widths, small.cross_attention_dim, embedding_dim)
    adapter.psa_adapter.load_state_dict(small.psa_adapter.state_dict())
    groups: dict[str, dict[str, torch.Tensor]] = {"psa_adapter": {}, "user_proj": {}}
    for key, value in adapter.state_dict().items():
        group, rest = key.split(".", 1)
        groups[group][rest] = value
    return groups
