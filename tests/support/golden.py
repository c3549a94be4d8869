"""The golden vectors: what the method's reference code computed on small random UNets."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
KINDS = ("sd15", "sdxl")
TOLERANCE = 1e-4


def adapter_path(kind: str) -> Path:
    return GOLDEN / kind / "psa_adapter.bin"


def vectors(kind: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / kind / "expected.safetensors")


def layer_names(kind: str) -> list[str]:
    return json.loads((GOLDEN / kind / "layers.json").read_text())["cross_attention_layers_in_checkpoint_order"]


def load_unet(kind: str) -> Any:
    """The diffusers UNet2DConditionModel of a kind, float32, in evaluation mode."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(json.loads((GOLDEN / kind / "unet_config.json").read_text()))
    unet.load_state_dict(load_file(GOLDEN / kind / "unet.safetensors"))
    return unet.eval()


def run_unet(unet: Any, given: dict[str, torch.Tensor], rows: slice = slice(None)) -> torch.Tensor:
    """The UNet's prediction for (some rows of) the golden inputs, in the UNet's dtype."""
    inputs = {key: value.to(unet.dtype) if value.is_floating_point() else value for key, value in given.items()}
    added = {key: inputs[key][rows] for key in ("text_embeds", "time_ids") if key in inputs}
    return unet(
        inputs["latents"][rows], inputs["timesteps"][rows], inputs["text"][rows], added_cond_kwargs=added or None
    ).sample


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest deviation as a share of the largest expected value."""
    assert actual.shape == expected.shape
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max()).item()
