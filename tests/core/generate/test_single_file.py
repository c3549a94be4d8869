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
from ldm_vae import ldm_vae_state_dict
from safetensors.torch import load_file, save_file
from tiny_training import write_model

from psa_core import PSAError
from psa_core.generate import BaseModel, Painter, Settings
from psa_core.generate.single_file import SingleFile
from psa_core.model_folder import load_part

pytestmark = pytest.mark.filterwarnings("ignore:.*torch_dtype")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """`model` in diffusers' layout, `config` the same without weights, and `model.safetensors`, the weights alone."""
    place = tmp_path_factory.mktemp("single file")
    model = write_model(place / "model", "sd15")
    DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1).save_pretrained(
        model / "scheduler"
    )
    index = {"_class_name": "StableDiffusionPipeline", "_psa_kind": "tiny", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (model / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(model, place / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    parts = {part: load_part(model, part, torch.float32) for part in ("unet", "vae", "text_encoder")}
    tensors = ldm_state_dict(parts["unet"]) | ldm_vae_state_dict(parts["vae"])
    text = parts["text_encoder"].state_dict().items()
    tensors |= {
        f"cond_stage_model.transformer.{key if key.startswith('text_model.') else f'text_model.{key}'}": value
        for key, value in text
    }
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, place / "model.safetensors")
    return place


def test_it_draws_what_the_folder_draws(place):
    settings = Settings(steps=2, guidance=5.0, size=64)
    whole = BaseModel.read(place / "model")
    single = SingleFile.open(place / "model.safetensors", place / "config")
    assert (single.kind, single.size, single.parts) == (whole.kind, whole.size, whole.parts)
    ours, theirs = (Painter(base).draw(["a stormy sea"], [3], settings)[0] for base in (single, whole))
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    assert single.fingerprint() != whole.fingerprint() and single.fingerprint() == single.fingerprint()


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
