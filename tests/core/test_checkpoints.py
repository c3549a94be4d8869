"""Checkpoints in the original layout, proved by diffusers' own reader of it."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import ldm_state_dict, preview_vae, small_adapter, small_unet, write_checkpoint
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

from psa_core import LEVELS, PSAError, StructuredEncoder
from psa_core.diffusers_unet import cross_attention_layers, psa_applied

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
LAYOUTS = {
    "three levels, two layers": {
        "block_out_channels": (32, 64, 96),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "four levels, one layer, depth": {
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 3, 2),
        "use_linear_projection": True,
    },
    "one level": {
        "block_out_channels": (32,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
}


def read_back(unet, folder: Path):
    """The UNet that diffusers reads from the original layout."""
    save_file({key: value.contiguous() for key, value in ldm_state_dict(unet).items()}, folder / "unet.safetensors")
    unet.save_config(folder)
    return UNet2DConditionModel.from_single_file(str(folder / "unet.safetensors"), config=str(folder)).eval()


def predict(unet, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    added = {}
    if unet.config.addition_embed_type:
        time_width = 6 * unet.config.addition_time_embed_dim
        text_width = unet.config.projection_class_embeddings_input_dim - time_width
        added = {
            "text_embeds": torch.randn(2, text_width, generator=generator),
            "time_ids": torch.rand(2, 6, generator=generator) * 100,
        }
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 7, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([20, 700]), text, added_cond_kwargs=added).sample


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_diffusers_reads_the_same_unet_back(layout, tmp_path):
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**layout, cross_attention_dim=48, attention_head_dim=8).eval()
    assert torch.equal(predict(read_back(unet, tmp_path)), predict(unet))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_reads_the_golden_unets_back(family, tmp_path):
    config = json.loads((GOLDEN / family / "unet_config.json").read_text())
    torch.manual_seed(2)
    unet = UNet2DConditionModel.from_config(config).eval()
    assert torch.equal(predict(read_back(unet, tmp_path)), predict(unet))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_reads_the_small_unets_back(family, tmp_path):
    unet = small_unet(family)
    assert torch.equal(predict(read_back(unet, tmp_path)), predict(unet))


def test_parts_without_a_place_are_refused():
    unet = UNet2DConditionModel(
        **LAYOUTS["one level"], cross_attention_dim=48, attention_head_dim=8, time_cond_proj_dim=16
    )
    with pytest.raises(PSAError, match=r"time_embedding\.cond_proj"):
        ldm_state_dict(unet)


def test_a_checkpoint_is_whole_and_the_same_each_time(tmp_path):
    for name in ("a", "b"):
        write_checkpoint(tmp_path / f"{name}.safetensors", small_unet("sd15"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        keys = set(file.keys())
        assert all(torch.isfinite(file.get_tensor(key)).all() for key in keys)
    assert sum(key.endswith("attn2.to_v.weight") for key in keys) == 7
    assert {key.split(".")[0] for key in keys} == {"model", "first_stage_model", "cond_stage_model"}
    assert len(list(tmp_path.iterdir())) == 2


def test_checkpoints_of_other_unets_are_refused(tmp_path):
    unet = UNet2DConditionModel(**LAYOUTS["one level"], cross_attention_dim=48, attention_head_dim=8)
    with pytest.raises(PSAError, match="768 or 2048"):
        write_checkpoint(tmp_path / "a.safetensors", unet)
    with pytest.raises(PSAError, match="sd15, sdxl"):
        small_unet("sd3")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_sampling_stays_finite_and_levels_differ(family):
    unet = small_unet(family)
    adapter = small_adapter(unet)
    adapter.check_fits([layer.to_q.out_features for layer in cross_attention_layers(unet)], adapter.cross_attention_dim)
    tokens = adapter.user_tokens(StructuredEncoder().encode([LEVELS["L0"], LEVELS["L5"]]))
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(20)
    torch.manual_seed(3)
    latents = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1) * scheduler.init_noise_sigma
    text = torch.randn(2, 77, adapter.cross_attention_dim).repeat_interleave(2, dim=0)
    added = {}
    if family == "sdxl":
        added = {"text_embeds": torch.randn(1, 1280).repeat(4, 1), "time_ids": torch.ones(4, 6) * 64}
    with torch.no_grad(), psa_applied(unet, adapter, torch.cat([tokens, adapter.uncond_tokens(2)])):
        for timestep in scheduler.timesteps:
            inputs = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1)
            cond, uncond = unet(inputs, timestep, text, added_cond_kwargs=added).sample.chunk(2)
            latents = scheduler.step(uncond + 7 * (cond - uncond), timestep, latents).prev_sample
    assert torch.isfinite(latents).all()
    assert 0.3 < latents.std() < 20  # a real model's are about 1; pure noise would stay at 14.6 and grow
    assert (latents[0] - latents[1]).abs().mean() > 0.5


def test_the_vae_gives_a_smooth_picture_back():
    vae = preview_vae()
    gradient = torch.linspace(-0.5, 0.5, 64)
    picture = torch.stack([gradient.expand(64, 64), gradient.expand(64, 64).T, gradient.flip(0).expand(64, 64)])
    with torch.no_grad():
        again = vae.decode(vae.encode(picture[None]).latents).sample[0]
    inner = slice(16, 48)  # convolutions darken the border
    assert (again - picture)[:, inner, inner].abs().max() < 0.05
