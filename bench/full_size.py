"""SD1.5 and SDXL at full size with random weights, and the reference's training loop on them: what benches measure."""

import copy
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from psa_core import LEVELS, PSAAdapter, StructuredEncoder, dpo_loss
from psa_core.diffusers_unet import cross_attention_layers, psa_applied
from psa_core.mini import BASE_MODEL

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from full_size_unets import FULL_SIZE

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 49408,
}
_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "vocab_size": 49408,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_LEARNING_RATE = 5e-6
_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Family:
    """A family of base models: sizes of its parts, and what the paper's launcher trains it with.

    Attributes:
        scaling: of the VAE's latents.
        pixels: a picture's side.
        at_once: pairs in a forward pass.
        checkpointing: whether activations are computed again in the backward pass.
    """

    name: str
    unet: dict[str, Any]
    scaling: float
    pixels: int
    at_once: int
    checkpointing: bool

    @property
    def is_sdxl(self) -> bool:
        return self.name == "SDXL"

    def new_unet(self) -> UNet2DConditionModel:
        return UNet2DConditionModel(**self.unet)

    def new_vae(self) -> AutoencoderKL:
        return AutoencoderKL(**_VAE, scaling_factor=self.scaling)

    def new_text_encoders(self) -> list[Any]:
        first = CLIPTextModel(CLIPTextConfig(**_CLIP_L))
        return [first, CLIPTextModelWithProjection(CLIPTextConfig(**_BIG_G))] if self.is_sdxl else [first]


SD15 = Family("SD1.5", FULL_SIZE["sd15"], 0.18215, pixels=512, at_once=6, checkpointing=False)
SDXL = Family("SDXL", FULL_SIZE["sdxl"], 0.13025, pixels=1024, at_once=2, checkpointing=True)


class ReferenceLoop:
    """A training loop as the reference's is described: a second whole UNet for the reference pass, and the VAE and the
    text encoders on every picture at every step.

    Args:
        dtype: of the frozen models; with another than float32 the passes run under autocast, as the adapter is float32.
        every: passes an optimizer step.
    """

    def __init__(self, family: Family, unet: UNet2DConditionModel, dtype: torch.dtype, every: int = 1) -> None:
        self.family, self.policy, self._every = family, unet, every
        self.device, self._dtype = unet.device, dtype
        self.reference = copy.deepcopy(unet)
        self.vae = frozen(family.new_vae(), self.device, dtype)
        self.text_encoders = [frozen(model, self.device, dtype) for model in family.new_text_encoders()]
        self.adapter = new_adapter(unet).to(self.device)
        kind = torch.optim.Adafactor if family.is_sdxl else torch.optim.AdamW
        self._optimizer = kind(self.adapter.parameters(), lr=_LEARNING_RATE)
        self._scheduler = DDPMScheduler(**_SCHEDULER)
        self._embedding = StructuredEncoder().encode([LEVELS["L5"]]).vectors.to(self.device)
        self._passes = 0

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.adapter.parameters())

    @property
    def weight_bytes(self) -> int:
        models = [self.policy, self.reference, self.vae, *self.text_encoders, self.adapter]
        return sum(parameter.nbytes for model in models for parameter in model.parameters())

    def step(self, pixels: torch.Tensor) -> None:
        """A forward and a backward pass of pairs (2B, 3, H, W), chosen ones first; every so often an optimizer step."""
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            self._backward(pixels.to(self.device))
        self._passes += 1
        if self._passes % self._every == 0:
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()

    def _backward(self, pixels: torch.Tensor) -> None:
        rows = len(pixels)
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self._dtype)).latent_dist.sample().float() * self.family.scaling
            call = self._conditioning(rows)
        noise = torch.randn_like(latents[: rows // 2]).repeat(2, 1, 1, 1)
        timesteps = torch.randint(0, 1000, (rows // 2,), device=self.device).repeat(2)
        noisy = self._scheduler.add_noise(latents, noise, timesteps).to(self._dtype)
        with torch.no_grad():
            reference = self.reference(noisy, timesteps, **call).sample.float()
        with psa_applied(self.policy, self.adapter, self.adapter.user_tokens(self._embedding)):
            prediction = self.policy(noisy, timesteps, **call).sample.float()
            dpo_loss(prediction, reference, noise).loss.backward()

    def _conditioning(self, rows: int) -> dict[str, Any]:
        tokens = torch.randint(0, 49408, (rows, 77), device=self.device)
        outputs = [model(tokens, output_hidden_states=self.family.is_sdxl) for model in self.text_encoders]
        if not self.family.is_sdxl:
            return {"encoder_hidden_states": outputs[0].last_hidden_state}
        side = float(self.family.pixels)
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=self.device).repeat(rows, 1)
        return {
            "encoder_hidden_states": torch.cat([output.hidden_states[-2] for output in outputs], -1),
            "added_cond_kwargs": {"text_embeds": outputs[1].text_embeds, "time_ids": sizes},
        }


def write_model(family: Family, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
    """A model folder in diffusers' layout, as `psa train` reads it; the words are PSA Mini's."""
    with device:
        parts = {"unet": family.new_unet(), "vae": family.new_vae()}
        texts = family.new_text_encoders()
    parts |= {f"text_encoder{'_2' * number}": model for number, model in enumerate(texts)}
    for name, model in parts.items():
        model.to(dtype).save_pretrained(folder / name)
    for number in range(len(texts)):
        shutil.copytree(Path(BASE_MODEL) / "tokenizer", folder / f"tokenizer{'_2' * number}")
    DDPMScheduler(**_SCHEDULER).save_pretrained(folder / "scheduler")


def write_pairs(folder: Path, pixels: int, count: int = 8) -> None:
    """Pairs of noise pictures in Sage's format."""
    split = folder / "train"
    split.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        names = [f"{number}_{kind}.png" for kind in "su"]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (pixels, pixels, 3), np.uint8)).save(split / name)
        record = {"chosen": names[0], "rejected": names[1], "caption": f"picture {number}"}
        lines.append(json.dumps(record | {"user_data": LEVELS["L5"].to_dict()}))
    (split / "metadata.jsonl").write_text("\n".join(lines))


def load_pixels(paths: Sequence[Path]) -> torch.Tensor:
    """Pictures of one size: (B, 3, H, W) in [-1, 1]."""
    pictures = [np.asarray(Image.open(path).convert("RGB"), np.float32) for path in paths]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def new_adapter(unet: UNet2DConditionModel) -> PSAAdapter:
    widths = [layer.to_q.out_features for layer in cross_attention_layers(unet)]
    return PSAAdapter(widths, unet.config.cross_attention_dim, StructuredEncoder.dim)


def frozen(model: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    model = model.to(device)
    return (model if model.dtype == dtype else model.to(dtype)).eval().requires_grad_(False)
