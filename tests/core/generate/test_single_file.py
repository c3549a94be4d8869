"""A checkpoint in one file draws what the same weights in a folder draw, and nothing is downloaded for it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from checkpoints import ldm_state_dict
from diffusers import DDIMScheduler
from ldm_text import clip_state_dict, open_clip_state_dict
from ldm_vae import ldm_vae_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_training import write_model

from psa_core import PSAError
from psa_core.cli import main
from psa_core.concepts.pairs import PromptPair, write_prompt_pairs
from psa_core.generate import BaseModel, Painter, Settings
from psa_core.generate.single_file import SingleFile
from psa_core.model_folder import load_part

pytestmark = pytest.mark.filterwarnings("ignore:.*torch_dtype")


def write(place: Path, family: str) -> Path:
    """`model` in diffusers' layout, `config` the same without weights, and `model.safetensors`, the weights alone."""
    model = write_model(place / "model", family)
    DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1).save_pretrained(
        model / "scheduler"
    )
    kind = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[family]
    index = {"_class_name": kind, "_psa_kind": "tiny", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    parts = ["unet", "vae", "text_encoder"]
    if family == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    else:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
        parts.append("text_encoder_2")
    (model / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(model, place / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    loaded = {part: load_part(model, part, torch.float32) for part in parts}
    tensors = ldm_state_dict(loaded["unet"]) | ldm_vae_state_dict(loaded["vae"])
    if family == "sd15":
        tensors |= clip_state_dict(loaded["text_encoder"], "cond_stage_model.")
    else:
        tensors |= clip_state_dict(loaded["text_encoder"], "conditioner.embedders.0.")
        tensors |= open_clip_state_dict(loaded["text_encoder_2"], "conditioner.embedders.1.model.")
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, place / "model.safetensors")
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("single file"), "sd15")


@pytest.fixture(scope="module")
def sdxl_place(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("single SDXL file"), "sdxl")


@pytest.mark.parametrize("family", ["place", "sdxl_place"])
def test_it_draws_what_the_folder_draws(family, request):
    place = request.getfixturevalue(family)
    settings = Settings(steps=2, guidance=5.0, size=64)
    whole = BaseModel.read(place / "model")
    single = SingleFile.open(place / "model.safetensors", place / "config")
    assert (single.kind, single.size, single.parts) == (whole.kind, whole.size, whole.parts)
    ours, theirs = (Painter(base).draw(["a stormy sea"], [3], settings)[0] for base in (single, whole))
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    assert single.fingerprint() != whole.fingerprint() and single.fingerprint() == single.fingerprint()
    assert single.is_sdxl == (family == "sdxl_place")


def test_a_data_set_is_built_with_an_sdxl_checkpoint_in_one_file(sdxl_place, tmp_path, monkeypatch):
    """By the command; the same pictures as with the folder of its weights."""
    monkeypatch.chdir(tmp_path)
    scenes = [f"a garden {name}" for name in ("in the morning", "at noon", "at dusk")]
    pairs = [PromptPair("Violence", "toy sword", f"{s}, with a toy sword", s, "named", "by hand") for s in scenes]
    write_prompt_pairs("prompts.jsonl", pairs)
    how = ["--count", "4", "--steps", "2", "--size", "64", "--precision", "fp32"]
    single = ["--model", str(sdxl_place / "model.safetensors"), "--config", str(sdxl_place / "config")]
    assert main(["build-dataset", "prompts.jsonl", "single", *single, *how]) == 0
    assert main(["build-dataset", "prompts.jsonl", "folder", "--model", str(sdxl_place / "model"), *how]) == 0
    pictures = sorted(path.name for path in Path("single", "pictures").iterdir())
    assert len(pictures) == 6 == len({Path("single", "pictures", name).read_bytes() for name in pictures})
    for name in pictures:
        one, other = (np.asarray(Image.open(Path(data, "pictures", name)), int) for data in ("single", "folder"))
        assert np.abs(one - other).max() <= 2


def test_an_sdxl_checkpoint_without_a_text_encoder_or_with_configurations_of_sd15_is_a_sentence(
    place, sdxl_place, tmp_path
):
    tensors = load_file(sdxl_place / "model.safetensors")
    for prefix in ("conditioner.embedders.0.", "conditioner.embedders.1.", "first_stage_model."):
        save_file({k: v for k, v in tensors.items() if not k.startswith(prefix)}, tmp_path / "part.safetensors")
        with pytest.raises(PSAError, match=r"part.safetensors"):
            Painter(SingleFile.open(tmp_path / "part.safetensors", sdxl_place / "config"))
    for file, config in ((place, sdxl_place), (sdxl_place, place)):
        with pytest.raises(PSAError, match=r"SD1\.5 or SDXL"):
            Painter(SingleFile.open(file / "model.safetensors", config / "config"))


def test_what_is_missing_is_said(place, tmp_path):
    with pytest.raises(PSAError, match=r"Give, as --config, a folder of its kind"):
        SingleFile.open(place / "model.safetensors", None)
    (tmp_path / "a.ckpt").write_bytes(b"pickle")
    with pytest.raises(PSAError, match="others can carry code"):
        SingleFile.open(tmp_path / "a.ckpt", place / "config")
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    with pytest.raises(PSAError, match="is damaged"):
        SingleFile.open(tmp_path / "a.safetensors", place / "config")
    shutil.copytree(place / "config", tmp_path / "config")
    shutil.rmtree(tmp_path / "config" / "tokenizer")
    with pytest.raises(PSAError, match="has no 'tokenizer'"):
        SingleFile.open(place / "model.safetensors", tmp_path / "config")


def test_a_checkpoint_without_a_part_or_of_another_shape_is_a_sentence(place, tmp_path):
    tensors = load_file(place / "model.safetensors")
    for prefix in ("first_stage_model.", "cond_stage_model.", "model.diffusion_model."):
        save_file({k: v for k, v in tensors.items() if not k.startswith(prefix)}, tmp_path / "part.safetensors")
        with pytest.raises(PSAError, match=r"part.safetensors"):
            Painter(SingleFile.open(tmp_path / "part.safetensors", place / "config"))
    shutil.copytree(place / "config", tmp_path / "config")
    path = tmp_path / "config" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_per_block": 3}))
    with pytest.raises(PSAError, match="does not fit the configurations"):
        Painter(SingleFile.open(place / "model.safetensors", tmp_path / "config"))


def test_configurations_that_name_other_libraries_are_refused(place, tmp_path):
    shutil.copytree(place / "config", tmp_path / "config")
    path = tmp_path / "config" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unet": ["evil", "Evil"]}))
    with pytest.raises(PSAError, match="other libraries"):
        Painter(SingleFile.open(place / "model.safetensors", tmp_path / "config"))


@pytest.mark.parametrize("lie", [{"num_train_timesteps": 2**33}, {"_class_name": "os"}, {"beta_start": "low"}])
def test_a_scheduler_of_anyones_making_is_a_sentence(place, tmp_path, lie):
    shutil.copytree(place / "config", tmp_path / "config")
    path = tmp_path / "config" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lie))
    with pytest.raises(PSAError, match="scheduler"):
        Painter(SingleFile.open(place / "model.safetensors", tmp_path / "config"))
