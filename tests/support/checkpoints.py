"""Single-file checkpoints in the original Stable Diffusion layout, which ComfyUI's loaders read.

`ldm_state_dict` turns a diffusers UNet of any SD1.5 or SDXL kind into that layout. `small_unet`,
`preview_vae` and `write_checkpoint` make small untrained checkpoints that the stock loader takes for
SD1.5 or SDXL: for the demo, for tests and for trying a graph out. They draw no objects.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from psa_core.adapter.model import PSAAdapter
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.encoders.structured import StructuredEncoder
from psa_core.errors import PSAError
from psa_core.files import atomic_path

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
_LATENT_SCALE = {768: 0.18215, 2048: 0.13025}  # by context width: what ComfyUI divides SD1.5 and SDXL latents by

_RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER_PARTS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_SMALL_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (320, 320),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,  # diffusers' name for the number of heads
    },
    # The transformer depths (0, 1, 2) and the two layers a block are those of Segmind Vega, an SDXL kind.
    "sdxl": {
        "block_out_channels": (320, 320, 320),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 2048,
        "attention_head_dim": 5,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def ldm_state_dict(unet: Any) -> dict[str, torch.Tensor]:
    """The weights of a diffusers `UNet2DConditionModel` under the original keys, `model.diffusion_model.*`.

    The original numbers its blocks input, middle, output, resnet by resnet; the walk over the modules
    that are there covers any number of levels, layers and transformer depths. diffusers'
    `from_single_file` is the way back.

    Raises:
        PSAError: for a UNet with parts that the original layout has no place for.
    """
    prefixes = dict(_prefixes(unet))
    return {UNET_PREFIX + _ldm_key(key, prefixes): value.detach() for key, value in unet.state_dict().items()}


def small_unet(family: str, seed: int = 0) -> Any:
    """A small diffusers `UNet2DConditionModel` of random weights that ComfyUI takes for an "sd15" or "sdxl" model.

    It has noise prediction's gross behaviour (see `_pass_noise_through`), so that sampled latents have
    about the size of a real model's, whatever the number of steps.
    """
    from diffusers import UNet2DConditionModel

    if family not in _SMALL_UNETS:
        raise PSAError(f"There are small UNets of the kinds {', '.join(_SMALL_UNETS)} only.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel(**_SMALL_UNETS[family])  # Any: a Module, which diffusers' types hide
    unet.eval().requires_grad_(False)
    _pass_noise_through(unet)
    return unet


def small_adapter(unet: Any, seed: int = 0) -> PSAAdapter:
    """An untrained adapter for `unet` and structured profiles; its random weights change pictures visibly at CFG 7."""
    widths = [layer.to_q.out_features for layer in cross_attention_layers(unet)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = PSAAdapter(
            widths, unet.config.cross_attention_dim, StructuredEncoder.dim, encoder_id=StructuredEncoder.id
        )
        for layer in adapter.psa_adapter:
            torch.nn.init.normal_(layer.get_parameter("to_v_user.0.weight"), std=0.02)
    return adapter.eval().requires_grad_(False)


def preview_vae() -> Any:
    """A diffusers `AutoencoderTiny` that is linear: the first three latents are colour, the fourth is brightness.

    It upsamples smoothly and needs no training; TAESD's layers, most of them passing on their input.
    """
    from diffusers import AutoencoderTiny

    vae: Any = AutoencoderTiny()
    vae.eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.zero_()  # a residual block of zeros passes on what is not negative
    pool, smooth = torch.tensor([0.0, 1.0, 1.0]) / 2, torch.tensor([1.0, 2.0, 1.0]) / 4  # one axis' taps
    for coder, channels, taps in ((vae.encoder, 3, pool), (vae.decoder, 8, smooth)):
        for layer in coder.layers:
            if isinstance(layer, torch.nn.Conv2d) and layer.in_channels == layer.out_channels:
                layer.weight[range(channels), range(channels)] = taps.outer(taps)
    to_rgb = 0.15 * torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.5]])
    _set_centre(vae.encoder.layers[0], torch.eye(3))
    _set_centre(vae.encoder.layers[-1], torch.linalg.pinv(to_rgb))
    vae.encoder.layers[-1].bias.copy_(-torch.linalg.pinv(to_rgb) @ torch.full((3,), 0.5))
    _set_centre(vae.decoder.layers[0], torch.cat([torch.eye(4), -torch.eye(4)]))  # ReLU halves, joined again below
    _set_centre(vae.decoder.layers[-1], torch.cat([to_rgb, -to_rgb], dim=1))
    vae.decoder.layers[-1].bias.fill_(0.5)
    return vae


def write_checkpoint(path: Path | str, unet: Any, seed: int = 0) -> None:
    """Write `unet` as a whole single-file checkpoint, atomically: UNet float32, random text encoders float16.

    The text encoders are of full size (ComfyUI fixes it): 0.25 GB for SD1.5, 1.7 GB for SDXL. The VAE
    is `preview_vae`.

    Args:
        unet: a diffusers `UNet2DConditionModel` of context width 768 (SD1.5) or 2048 (SDXL).
        seed: of the text encoders' weights.
    """
    path = Path(path)
    context_width = unet.config.cross_attention_dim
    if path.suffix != ".safetensors" or context_width not in _LATENT_SCALE:
        raise PSAError("A checkpoint is written as .safetensors, from a UNet of context width 768 or 2048.")
    generator = torch.Generator().manual_seed(seed)
    if context_width == 768:
        text = _clip_l("cond_stage_model.", generator)
    else:
        text = _clip_l("conditioner.embedders.0.", generator) | _clip_g("conditioner.embedders.1.model.", generator)
    tensors = ldm_state_dict(unet) | text | _taesd_state_dict(preview_vae(), _LATENT_SCALE[context_width])
    with atomic_path(path) as temporary:
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)


def _prefixes(unet: Any) -> Iterator[tuple[str, str]]:
    """(diffusers module, original module) for the UNet's outer parts, resnets, attentions and samplers."""
    yield from _OUTER_PARTS.items()
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            yield f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0"
            yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            yield f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{number}.0"
            yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            place = 2 if getattr(block, "attentions", None) else 1
            yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number - 1}.{place}.conv"


def _ldm_key(key: str, prefixes: dict[str, str]) -> str:
    match = re.match(r"((?:down_|up_|mid_)blocks?\.(?:\d+\.)?(?:resnets|attentions)\.\d+)\.(.+)", key)
    module, rest = match.groups() if match else key.rsplit(".", 1)
    if ".resnets." in key:
        part, name = rest.rsplit(".", 1)
        rest = f"{_RESNET_PARTS.get(part)}.{name}"
    if module not in prefixes or rest.startswith("None"):
        raise PSAError(f"This UNet has a part, {key}, that the original Stable Diffusion layout has no place for.")
    return f"{prefixes[module]}.{rest}"


def _pass_noise_through(unet: Any) -> None:
    """Make the UNet's input a part of its output, as it is in a trained noise predictor.

    The latents and their negatives travel in the first group of channels along the outermost skip
    connection; the last norm scales them to unit size, and silu(x) - silu(-x) = x restores them.
    """
    group = unet.conv_in.out_channels // unet.config.norm_num_groups
    both_signs = torch.cat([torch.eye(4), -torch.eye(4)])
    resnet = unet.up_blocks[-1].resnets[-1]
    writers = [unet.conv_in, resnet.conv2, resnet.conv_shortcut]
    writers += [attention.proj_out for attention in getattr(unet.up_blocks[-1], "attentions", [])[-1:]]
    for layer in writers:
        layer.weight[:group] = 0
        layer.bias[:group] = 0
    _set_centre(unet.conv_in, both_signs)
    skip = resnet.conv_shortcut.in_channels - unet.conv_in.out_channels
    resnet.conv_shortcut.weight[range(8), range(skip, skip + 8)] = 1
    unet.conv_out.weight[:, :group] = 0
    _set_centre(unet.conv_out, 0.9 * both_signs.T)


def _set_centre(conv: torch.nn.Conv2d, matrix: torch.Tensor) -> None:
    rows, columns = matrix.shape
    conv.weight[:rows, :columns, 1, 1] = matrix


def _taesd_state_dict(vae: Any, latent_scale: float) -> dict[str, torch.Tensor]:
    """TAESD's keys; its decoder counts the clamp that diffusers does in `forward` as layer 0."""
    tensors = {"vae_scale": torch.tensor(latent_scale), "vae_shift": torch.tensor(0.0)}
    for coder, offset in (("encoder", 0), ("decoder", 1)):
        for key, value in getattr(vae, coder).layers.state_dict().items():
            number, rest = key.split(".", 1)
            tensors[f"taesd_{coder}.{int(number) + offset}.{rest}"] = value
    return {VAE_PREFIX + key: value for key, value in tensors.items()}


def _clip_l(prefix: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """OpenAI's CLIP-L text encoder, in transformers' layout: 12 layers of width 768."""
    tensors = {
        "embeddings.token_embedding.weight": _random(generator, 49408, 768),
        "embeddings.position_embedding.weight": _random(generator, 77, 768),
        **_norm("final_layer_norm", 768),
    }
    for layer in range(12):
        block = {
            **_norm("layer_norm1", 768),
            **_norm("layer_norm2", 768),
            **_linear("mlp.fc1", generator, 3072, 768),
            **_linear("mlp.fc2", generator, 768, 3072),
        }
        for part in ("q", "k", "v", "out"):
            block |= _linear(f"self_attn.{part}_proj", generator, 768, 768)
        tensors |= {f"encoder.layers.{layer}.{key}": value for key, value in block.items()}
    return {f"{prefix}transformer.text_model.{key}": value for key, value in tensors.items()}


def _clip_g(prefix: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """OpenCLIP's bigG text encoder: one random layer of width 1280, 32 times over."""
    block = {
        **_norm("ln_1", 1280),
        **_norm("ln_2", 1280),
        "attn.in_proj_weight": _random(generator, 3840, 1280),
        "attn.in_proj_bias": torch.zeros(3840, dtype=torch.float16),
        **_linear("attn.out_proj", generator, 1280, 1280),
        **_linear("mlp.c_fc", generator, 5120, 1280),
        **_linear("mlp.c_proj", generator, 1280, 5120),
    }
    tensors = {
        "token_embedding.weight": _random(generator, 49408, 1280),
        "positional_embedding": _random(generator, 77, 1280),
        **_norm("ln_final", 1280),
        "text_projection": _random(generator, 1280, 1280),
        "logit_scale": torch.tensor(4.6, dtype=torch.float16),
    }
    for layer in range(32):  # clones: safetensors refuses shared memory
        tensors |= {f"transformer.resblocks.{layer}.{key}": value.clone() for key, value in block.items()}
    return {prefix + key: value for key, value in tensors.items()}


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator).mul_(0.02).half()  # CLIP's own initial scale


def _linear(name: str, generator: torch.Generator, rows: int, columns: int) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": _random(generator, rows, columns),
        f"{name}.bias": torch.zeros(rows, dtype=torch.float16),
    }


def _norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": torch.ones(width, dtype=torch.float16),
        f"{name}.bias": torch.zeros(width, dtype=torch.float16),
    }
