"""Every shipped workflow runs on the real server, as its file is, but for size and steps."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from checkpoints import small_adapter, small_unet
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from small_models import add_models
from tiny_llm import make_tiny_llm

from psa_core import PSAAdapter
from psa_core.comfy_server import PACK
from psa_core.encoders.language_model import LanguageModelEncoder
from psa_core.language_model import DEFAULT_MODEL

SIZE = 64
SMALLER = {
    "EmptyLatentImage": {"width": SIZE, "height": SIZE},
    "KSampler": {"steps": 2},
}


def pictures(server, name) -> list[np.ndarray]:
    """What the workflow's save nodes wrote, by node number."""
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(workflow, server.object_info())
    for node in prompt.values():
        node["inputs"] |= SMALLER.get(node["class_type"], {})
    outputs = server.queue(prompt)
    files = [image for node in sorted(outputs, key=int) for image in outputs[node].get("images", ())]
    return [np.asarray(Image.open(BytesIO(server.image(**file))).convert("RGB"), float) for file in files]


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
