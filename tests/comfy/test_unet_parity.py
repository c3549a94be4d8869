"""The same weights in diffusers' UNet and in ComfyUI's, with the adapter applied, predict the same noise.

This proves the layer order: down, up, mid in a checkpoint against input, middle, output in ComfyUI.
"""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import ldm_state_dict
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from psa_core import PSAAdapter, save_adapter
from psa_core.diffusers_unet import cross_attention_layers, psa_applied

SCRIPT = Path(__file__).parent / "scripts" / "run_unet.py"
COMMON = {"in_channels": 4, "out_channels": 4, "image_size": 32, "use_spatial_transformer": True, "legacy": False}
DIFFUSERS = {
    "sd15": {
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 2,
        "cross_attention_dim": 48,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "cross_attention_dim": 96,
        "attention_head_dim": (2, 4),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 3),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
}
COMFYUI = {
    "sd15": COMMON
    | {
        "model_channels": 32,
        "channel_mult": [1, 2, 2],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 48,
        "num_heads": 4,
        "adm_in_channels": None,
        "use_linear_in_transformer": False,
    },
    "sdxl": COMMON
    | {
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_res_blocks": [2, 2],
        "transformer_depth": [0, 0, 3, 3],
        "transformer_depth_output": [0, 0, 0, 3, 3, 3],
        "transformer_depth_middle": 3,
        "context_dim": 96,
        "num_heads": -1,
        "num_head_channels": 16,
        "num_classes": "sequential",
        "adm_in_channels": 80,
        "use_linear_in_transformer": True,
    },
}


@pytest.mark.parametrize("num_tokens", [1, 2])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_both_unets_predict_the_same(family, num_tokens, comfy_python, tmp_path):
    torch.manual_seed(num_tokens)
    unet = UNet2DConditionModel(**DIFFUSERS[family]).eval()
    layers = cross_attention_layers(unet)
    adapter = PSAAdapter([layer.to_q.out_features for layer in layers], layers[0].to_k.in_features, 24, num_tokens)
    for layer in adapter.psa_adapter:  # another scale in each layer, so that layers cannot be confused
        for linear in (layer.to_k_user[0], layer.to_v_user[0]):
            torch.nn.init.normal_(linear.weight, std=torch.rand(1).item())
    embedding = torch.randn(3, 24)
    inputs = {
        "latents": torch.randn(3, 4, 16, 16),
        "text": torch.randn(3, 7, layers[0].to_k.in_features),
        "timesteps": torch.tensor([1.0, 500.0, 999.0]),
    }
    added = {}
    if family == "sdxl":
        added = {"text_embeds": torch.randn(3, 32), "time_ids": torch.randn(3, 6).abs() * 100}
        times = unet.add_time_proj(added["time_ids"].flatten()).reshape(3, -1)
        inputs["y"] = torch.cat([added["text_embeds"], times], dim=1)
    (tmp_path / "config.json").write_text(json.dumps({"family": family, "unet": COMFYUI[family]}))
    save_file({key: value.contiguous() for key, value in ldm_state_dict(unet).items()}, tmp_path / "unet.safetensors")
    save_file(inputs | {"user_embedding": embedding}, tmp_path / "inputs.safetensors")
    save_adapter(adapter, tmp_path / "adapter.safetensors")

    comfy_python(SCRIPT, tmp_path)

    actual = load_file(tmp_path / "eps.safetensors")
    rows = {"cond": adapter.user_tokens(embedding), "uncond": adapter.uncond_tokens(3)}
    plain = predict(unet, adapter, rows["cond"], 0.0, inputs, added)
    for name, eps in actual.items():
        kind, strength = name.split("_")
        expected = predict(unet, adapter, rows[kind], float(strength), inputs, added)
        assert (eps - expected).norm() / expected.norm() < 1e-4, name
        assert float(strength) == 0 or (expected - plain).norm() / plain.norm() > 1e-2, "the adapter has no effect"


def predict(unet, adapter, tokens, strength, inputs, added) -> torch.Tensor:
    with torch.no_grad(), psa_applied(unet, adapter, tokens, strength=strength):
        return unet(inputs["latents"], inputs["timesteps"], inputs["text"], added_cond_kwargs=added).sample
