"""A base model's folder from anybody: read whole, or refused before it fills the memory."""

import json
import shutil

import pytest
import torch

pytest.importorskip("diffusers")

from psa_core import PSAError
from psa_core.mini import BASE_MODEL
from psa_core.model_folder import load_part
from psa_core.tensor_files import read_file, save_file
from psa_core.training import TrainConfig
from psa_core.training.diffusers_models import DiffusersFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*torch_dtype")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BASE_MODEL, tmp_path / "model")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_lack_a_tensor_are_refused(folder, part):
    """Random ones would stand in for it, and the pictures would be noise."""
    (path,) = (folder / part).glob("*.safetensors")
    assert load_part(folder, part, torch.float32) is not None
    tensors, metadata = read_file(path)
    lost = sorted(tensors)[3]
    save_file({key: value.clone() for key, value in tensors.items() if key != lost}, path, metadata)
    with pytest.raises(PSAError, match=f"part '{part}' is missing or damaged .it lacks weights"):
        load_part(folder, part, torch.float32)


@pytest.mark.parametrize(
    "part, lie",
    [
        ("unet", {"block_out_channels": [4096] * 3}),
        ("unet", {"layers_per_block": 10**6}),
        ("unet", {"transformer_layers_per_block": 10**6}),
        ("vae", {"block_out_channels": [4096] * 4}),
        ("vae", {"layers_per_block": 10**6}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
        ("text_encoder", {"vocab_size": 10**9}),
        ("text_encoder", {"max_position_embeddings": 10**9}),
    ],
    ids=str,
)
def test_a_configuration_of_a_larger_model_is_refused_at_once(folder, part, lie):
    """Each of these would take gigabytes, or hours."""
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lie))
    with pytest.raises(PSAError, match="larger model than its weights"):
        load_part(folder, part, torch.float32)


@pytest.mark.parametrize("timesteps", [2**33, 0, -1, 1000.5, "many", None, [1000]])
def test_a_schedule_whose_table_would_fill_the_memory_is_refused_at_once(folder, timesteps):
    path = folder / "scheduler" / "scheduler_config.json"
    assert len(load_part(folder, "scheduler", torch.float32).alphas_cumprod) == 1000
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": timesteps}))
    with pytest.raises(PSAError, match="num_train_timesteps must be a whole number from 1 to 100,000"):
        load_part(folder, "scheduler", torch.float32)
    with pytest.raises(PSAError, match="num_train_timesteps"):
        DiffusersFolder(folder, torch.device("cpu"), TrainConfig(precision="fp32")).denoiser()


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "NoScheduler", "os", None])
def test_a_scheduler_of_another_kind_of_model_is_not_called_unknown(folder, name):
    """diffusers has the first of these."""
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    with pytest.raises(PSAError, match="of no class that diffusers has for Stable Diffusion"):
        load_part(folder, "scheduler", torch.float32)


def test_a_tokenizer_that_does_not_say_how_long_texts_may_be(folder):
    path = folder / "tokenizer" / "tokenizer_config.json"
    said = json.loads(path.read_text())
    assert load_part(folder, "tokenizer", torch.float32).model_max_length == said.pop("model_max_length")
    path.write_text(json.dumps(said))
    assert load_part(folder, "tokenizer", torch.float32).model_max_length == 77
