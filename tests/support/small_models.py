"""Random model files for the small SD1.5 checkpoint, in the layouts that ComfyUI and other packs load."""

import shutil
from itertools import pairwise
from pathlib import Path

import torch
from checkpoints import UNET_PREFIX, ldm_state_dict, small_adapter, small_unet
from safetensors.torch import save_file

from psa_core.adapter.files import save_adapter

_HINT_CHANNELS = (3, 16, 16, 32, 32, 96, 96, 256, 320)  # ControlNet's way from a picture to the first feature map


def add_models(base: Path, checkpoint: Path, adapter: str = "psa.safetensors", family: str = "sd15") -> None:
    """Put a small checkpoint and a matching adapter for structured profiles into a server's `models`."""
    folder = base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{family}.safetensors"
    if not target.exists():
        try:
            target.hardlink_to(checkpoint)
        except OSError:
            shutil.copyfile(checkpoint, target)
    save_adapter(small_adapter(small_unet(family)), base / "models" / "psa_adapters" / adapter)


def write_lora(path: Path, rank: int = 4) -> None:
    """A LoRA on the small UNet's every attention, in the kohya layout."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for key, value in ldm_state_dict(small_unet("sd15")).items():
        if ".attn" in key and key.endswith(".weight"):
            name = "lora_unet_" + key.removeprefix(UNET_PREFIX).removesuffix(".weight").replace(".", "_")
            tensors[f"{name}.lora_down.weight"] = _random(generator, rank, value.shape[1])
            tensors[f"{name}.lora_up.weight"] = _random(generator, value.shape[0], rank)
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    _save(tensors, path)


def write_controlnet(path: Path) -> None:
    """A ControlNet in the original (cldm) layout: another small UNet's encoder, with outputs that are not zero."""
    generator = torch.Generator().manual_seed(4)
    unet = {key.removeprefix(UNET_PREFIX): value for key, value in ldm_state_dict(small_unet("sd15", seed=5)).items()}
    encoder = ("input_blocks.", "middle_block.", "time_embed.")
    tensors = {key: value for key, value in unet.items() if key.startswith(encoder)}
    blocks = len({key.split(".")[1] for key in tensors if key.startswith("input_blocks.")})
    for block in range(blocks):
        tensors |= _conv(f"zero_convs.{block}.0", generator, 320, 320, 1)
    tensors |= _conv("middle_block_out.0", generator, 320, 320, 1)
    for number, (inputs, outputs) in enumerate(pairwise(_HINT_CHANNELS)):
        tensors |= _conv(f"input_hint_block.{2 * number}", generator, outputs, inputs, 3)
    _save(tensors, path)


def write_ip_adapter(path: Path, embeds: Path, embed_width: int = 32) -> None:
    """An SD1.5 IP-Adapter of the first kind, and the embeddings `image.ipadpt` and `nothing.ipadpt` of two pictures."""
    generator = torch.Generator().manual_seed(6)
    tensors = {
        "image_proj.proj.weight": _random(generator, 4 * 768, embed_width),
        "image_proj.proj.bias": torch.zeros(4 * 768),
        "image_proj.norm.weight": torch.ones(768),
        "image_proj.norm.bias": torch.zeros(768),
    }
    for layer in range(1, 32, 2):  # all 16 of SD1.5: the pack makes them, whether or not the UNet has the block
        for kind in "kv":
            tensors[f"ip_adapter.{layer}.to_{kind}_ip.weight"] = _random(generator, 320, 768)
    _save(tensors, path)
    embeds.mkdir(parents=True, exist_ok=True)
    torch.save(torch.randn(1, embed_width, generator=generator), embeds / "image.ipadpt")
    torch.save(torch.zeros(1, embed_width), embeds / "nothing.ipadpt")


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator) / shape[-1] ** 0.5 * 2


def _conv(name: str, generator: torch.Generator, outputs: int, inputs: int, size: int) -> dict[str, torch.Tensor]:
    weight = _random(generator, outputs, inputs * size * size).reshape(outputs, inputs, size, size)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
