"""UNets with random weights in ComfyUI's own classes; needs `start_comfyui()` first."""

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import torch

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "legacy": False,
    "use_temporal_attention": False,
}
SDXL = SD15 | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}

SMALL = {
    "sd15": SD15
    | {
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 0],
        "transformer_depth_output": [1, 1, 0, 0],
        "context_dim": 48,
        "num_heads": 4,
    },
    "sdxl": SDXL
    | {
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [0, 2],
        "transformer_depth_output": [0, 0, 2, 2],
        "transformer_depth_middle": 2,
        "context_dim": 48,
        "num_head_channels": 16,
        "adm_in_channels": 64,
    },
}


def unet_model(family: str, config: dict, dtype: torch.dtype = torch.float32) -> comfy.model_patcher.ModelPatcher:
    """A MODEL around a UNet of `config`, uninitialised: fill it, or load a state dict into it."""
    kind = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    model_config = kind(dict(config))
    model_config.unet_config = config | {"dtype": dtype}
    model_config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(comfy.model_base.BaseModel(model_config, device=cpu), cpu, cpu)


def full_size_model(family: str, dtype: torch.dtype) -> comfy.model_patcher.ModelPatcher:
    """SD1.5 or SDXL base at full size with small random weights, alike in every layer: quick to make."""
    model = unet_model(family, {"sd15": SD15, "sdxl": SDXL}[family], dtype)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    for parameter in model.model.diffusion_model.parameters():
        flat = parameter.data.view(-1)
        for start in range(0, flat.numel(), block.numel()):
            part = flat[start : start + block.numel()]
            part.copy_(block[: part.numel()])
    return model


def small_model(family: str, dtype: torch.dtype = torch.float32) -> comfy.model_patcher.ModelPatcher:
    """One of `SMALL`, with random weights that are the same each time."""
    model = unet_model(family, SMALL[family], dtype)
    torch.manual_seed(0)
    for parameter in model.model.diffusion_model.parameters():
        parameter.data.normal_(std=0.1)
    return model
