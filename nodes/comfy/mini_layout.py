"""The mini model's files read without diffusers, and its architecture in the words that ComfyUI builds models from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...psa_core.errors import PSAError
from ...psa_core.json_text import parse_json
from ...psa_core.tensor_files import read_file

_WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def read_part(folder: Path | str, part: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and weights of a part of the model in `folder`: "unet", "vae" or "text_encoder".

    The weights are on the CPU in the file's own dtype, under the keys of diffusers or transformers.

    Raises:
        PSAError: for a file that is missing, empty, truncated or otherwise damaged.
    """
    path = Path(folder) / part
    config = _read_json(path / "config.json")
    weights = path / _WEIGHTS[part]
    try:
        return config, read_file(weights)[0]
    except PSAError:
        raise _broken(weights) from None


def tokenizer_folder(folder: Path | str) -> Path:
    """The folder of the tokenizer, its files being there.

    Raises:
        PSAError: for a file that is missing or damaged.
    """
    path = Path(folder) / "tokenizer"
    for name in ("vocab.json", "tokenizer_config.json"):
        _read_json(path / name)
    merges = path / "merges.txt"
    if not merges.is_file() or merges.stat().st_size == 0:
        raise _broken(merges)
    return path


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers `UNet2DConditionModel` config as the arguments of ComfyUI's `UNetModel`.

    The number of groups of its norms is not among them: ComfyUI builds with 32 always.
    """
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    depths = config["transformer_layers_per_block"]
    used = [
        depth if kind.startswith("CrossAttn") else 0
        for kind, depth in zip(config["down_block_types"], depths, strict=True)
    ]
    return {
        "image_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [each // channels[0] for each in channels],
        "num_res_blocks": [layers] * len(channels),
        "transformer_depth": [depth for depth in used for _ in range(layers)],
        "transformer_depth_output": [depth for depth in used for _ in range(layers + 1)],
        "transformer_depth_middle": depths[-1],
        "context_dim": config["cross_attention_dim"],
        "num_heads": config["attention_head_dim"],  # diffusers' name for the number of heads
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config["use_linear_projection"],
        "use_temporal_attention": False,
        "adm_in_channels": None,
        "legacy": False,
    }


def vae_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers `AutoencoderKL` config as the arguments of ComfyUI's; its norms as in `unet_arguments`."""
    channels = config["block_out_channels"]
    return {
        "embed_dim": config["latent_channels"],
        "ddconfig": {
            "double_z": True,
            "z_channels": config["latent_channels"],
            "resolution": config["sample_size"],
            "in_channels": config["in_channels"],
            "out_ch": config["out_channels"],
            "ch": channels[0],
            "ch_mult": [each // channels[0] for each in channels],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }


def text_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A `CLIPTextModel`'s weights under the keys of transformers before version 5, which ComfyUI has."""
    return {f"text_model.{key.removeprefix('text_model.')}": value for key, value in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path) from error
    if not isinstance(content, dict):
        raise _broken(path)
    return content


def _broken(path: Path) -> PSAError:
    return PSAError(
        f"PSA Mini cannot be loaded: {path.parent.name}/{path.name} in {path.parents[1]} is missing or damaged. "
        "The file comes with this pack: install the pack again, or put the file back."
    )
