"""The shipped model's files, read without diffusers: whole, or refused with a sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from in_comfyui import pack_module
from mini_models import write_untrained_base

from psa_core.mini import base_model

layout = pack_module("nodes.comfy.mini_layout")
read_part, tokenizer_folder, text_weights = layout.read_part, layout.tokenizer_folder, layout.text_weights
unet_arguments, vae_arguments = layout.unet_arguments, layout.vae_arguments
PSAError = pack_module("psa_core").PSAError

FILES = {
    "unet": ["config.json", "diffusion_pytorch_model.safetensors"],
    "vae": ["config.json", "diffusion_pytorch_model.safetensors"],
    "text_encoder": ["config.json", "model.safetensors"],
    "tokenizer": ["vocab.json", "merges.txt", "tokenizer_config.json"],
}
DAMAGES = [
    (part, name, damage)
    for part, names in FILES.items()
    for name in names
    for damage in ("missing", "empty", "half")
    if (name, damage) != ("merges.txt", "half")  # half a list of merges is a list of merges
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_untrained_base(tmp_path_factory.mktemp("mini") / "base")


def read(folder: Path, part: str) -> None:
    if part == "tokenizer":
        tokenizer_folder(folder)
    else:
        read_part(folder, part)


@pytest.mark.parametrize(("part", "name", "damage"), DAMAGES)
def test_a_damaged_file_is_named(part, name, damage, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "base")
    path = folder / part / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2 if damage == "half" else 0])
    with pytest.raises(PSAError, match=rf"{part}/{name} in .*missing or damaged.*install the pack again"):
        read(folder, part)


def test_a_config_that_is_no_object_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "base")
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(PSAError, match=r"unet/config\.json"):
        read_part(folder, "unet")


def test_the_whole_model_is_read_as_it_was_written(whole):
    for part in ("unet", "vae"):
        _, tensors = read_part(whole, part)
        model = {"unet": base_model.new_unet, "vae": base_model.new_vae}[part]()
        assert {key: value.shape for key, value in tensors.items()} == {
            key: value.shape for key, value in model.state_dict().items()
        }
        assert {value.dtype for value in tensors.values()} == {torch.float16}
    tokenizer_folder(whole)


def test_architectures_in_comfyuis_words(whole):
    """Written out, so that an error in both the model and its reader cannot hide."""
    unet = unet_arguments(read_part(whole, "unet")[0])
    assert (unet["model_channels"], unet["channel_mult"], unet["num_res_blocks"]) == (64, [1, 1, 1], [1, 1, 1])
    assert unet["transformer_depth"] == [0, 2, 2] and unet["transformer_depth_middle"] == 2
    assert unet["transformer_depth_output"] == [0, 0, 2, 2, 2, 2]
    assert (unet["context_dim"], unet["num_heads"], unet["num_head_channels"]) == (64, 4, -1)
    vae = vae_arguments(read_part(whole, "vae")[0])
    assert vae["embed_dim"] == vae["ddconfig"]["z_channels"] == 4
    assert (vae["ddconfig"]["ch"], vae["ddconfig"]["ch_mult"]) == (32, [1, 1, 2, 2])


@pytest.mark.parametrize("prefix", ["", "text_model."], ids=["transformers 5", "transformers 4"])
def test_text_weights_have_one_name_whatever_wrote_them(prefix):
    weight = torch.ones(1)
    assert text_weights({f"{prefix}final_layer_norm.bias": weight}) == {"text_model.final_layer_norm.bias": weight}
