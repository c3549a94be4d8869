"""Inside ComfyUI: the zero-shot judge on its CLIP_VISION and CLIP, small ones with random weights."""

import json
import tempfile
from pathlib import Path

from in_comfyui import pack_module, run_checks, start_comfyui

start_comfyui()

import torch
from comfy.clip_vision import ClipVisionModel
from PIL import Image

judges, mini, mini_model, errors, zero_shot = (
    pack_module(name)
    for name in (
        "nodes.comfy.judges",
        "psa_core.mini",
        "nodes.comfy.mini_model",
        "psa_core.errors",
        "psa_core.judges.zero_shot",
    )
)
WIDTH = 64  # of the small text encoder
CONFIG = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_channels": 3,
    "patch_size": 56,
    "image_size": 224,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "model_type": "clip_vision_model",
}
COLOURS = [Image.new("RGB", (224, 224), colour) for colour in zero_shot._COLOURS.values()]

with torch.inference_mode():
    clip = mini_model.load_clip(mini.BASE_MODEL)


def clip_vision(width):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({**CONFIG, "projection_dim": width}))
        made = ClipVisionModel(str(path))
    generator = torch.Generator().manual_seed(0)
    made.load_sd({key: 0.3 * torch.randn(value.shape, generator=generator) for key, value in made.get_sd().items()})
    return made


def pair():
    """Towers that belong together: the projection is the one that puts each colour where its word is."""
    tower = clip_vision(CONFIG["hidden_size"])
    identity = {**tower.get_sd(), "visual_projection.weight": torch.eye(CONFIG["hidden_size"])}
    tower.load_sd(identity)
    seen = torch.cat([tower.encode_image(judges.to_comfy([picture]))["image_embeds"] for picture in COLOURS]).float()
    said = torch.cat(
        [
            clip.encode_from_tokens(clip.tokenize(f"a plain {name} picture"), return_pooled=True)[1]
            for name in zero_shot._COLOURS
        ]
    ).float()
    said = said - said.mean(0)  # what all have in common tells none apart
    projection = torch.linalg.lstsq(seen, said).solution.T
    whole = clip_vision(WIDTH)
    whole.load_sd({**tower.get_sd(), "visual_projection.weight": projection})
    return whole


def refused(make):
    try:
        make()
    except errors.PSAError as error:
        return str(error)
    raise AssertionError("it was taken")


@torch.inference_mode()
def check_a_pair_judges_pictures():
    judge = judges.zero_shot_judge(pair(), clip, 0.5)
    alone = judge.likelihoods(COLOURS[:1])
    assert alone.shape == (1, 7) and bool(alone.isfinite().all())
    assert torch.allclose(judge.likelihoods([COLOURS[1], COLOURS[0]])[1], alone[0], atol=1e-4)
    large = COLOURS[0].resize((640, 512))
    assert torch.allclose(judge.likelihoods([large])[0], alone[0], atol=1e-2)  # of any size


@torch.inference_mode()
def check_towers_of_different_widths_are_refused():
    said = refused(lambda: judges.zero_shot_judge(clip_vision(48), clip, 0.5))
    assert "48 numbers" in said and f"{WIDTH} numbers" in said, said


@torch.inference_mode()
def check_towers_that_do_not_belong_together_are_refused():
    assert "plain colours" in refused(lambda: judges.zero_shot_judge(clip_vision(WIDTH), clip, 0.5))


@torch.inference_mode()
def check_a_tower_that_is_missing_is_named():
    for towers in ((None, clip), (clip_vision(WIDTH), None)):
        assert "both of its towers" in refused(lambda towers=towers: judges.zero_shot_judge(*towers, 0.5))


run_checks(globals())
