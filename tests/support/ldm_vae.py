"""An `AutoencoderKL`'s weights under the original Stable Diffusion keys, the way that `from_single_file` goes back."""

import re
from typing import Any

import torch

_PARTS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
}


def ldm_vae_state_dict(vae: Any) -> dict[str, torch.Tensor]:
    levels = len(vae.config.block_out_channels)
    found = {}
    for key, value in vae.state_dict().items():
        for name, original in _PARTS.items():
            key = key.replace(name, original)
        key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
        key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", key)
        key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
        if "mid.attn_1" in key and value.ndim == 2:
            value = value[:, :, None, None]  # 1 x 1 convolutions there
        found[f"first_stage_model.{key}"] = value.detach()
    return found
