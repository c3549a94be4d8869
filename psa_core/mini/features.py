"""Features of the mini world's pictures, over which Frechet distances are measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..model_folder import load_part
from . import BASE_MODEL
from .base_model import LATENT_SCALE
from .detector import to_pixels

_AT_ONCE = 64


class MiniFeatures:
    """64 numbers a picture of PSA Mini: its VAE's latents, averaged over a grid of 4 x 4.

    Args:
        vae: diffusers' AutoencoderKL; without one, that of the shipped base model.
    """

    name = "latents of PSA Mini's VAE"

    def __init__(self, vae: Any = None) -> None:
        self._vae = load_part(BASE_MODEL, "vae", torch.float32).eval() if vae is None else vae

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        latents = [
            self._vae.encode(part * 2 - 1).latent_dist.mode() * LATENT_SCALE
            for part in to_pixels(pictures).split(_AT_ONCE)
        ]
        return torch.nn.functional.adaptive_avg_pool2d(torch.cat(latents), 4).flatten(1).double().numpy()
