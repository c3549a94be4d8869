"""Features of the mini world's pictures, over which Frechet distances are measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

_AT_ONCE = 64


class MiniFeatures:
    """64 numbers a picture of PSA Mini: its VAE's latents, averaged over a grid of 4 x 4.

    Args:
        vae: diffusers' AutoencoderKL; without one, that of the shipped base model.
    """

    name = "latents of PSA Mini's VAE"

    def __init__(self, vae: Any = None) -> None:
        self._vae = _shipped_vae() if vae is None else vae

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        from ..mini.base_model import LATENT_SCALE
        from ..mini.detector import to_pixels

        latents = [
            self._vae.encode(part * 2 - 1).latent_dist.mode() * LATENT_SCALE
            for part in to_pixels(pictures).split(_AT_ONCE)
        ]
        return torch.nn.functional.adaptive_avg_pool2d(torch.cat(latents), 4).flatten(1).double().numpy()


def _shipped_vae() -> Any:
    from diffusers import AutoencoderKL

    from ..mini import BASE_MODEL

    return AutoencoderKL.from_pretrained(BASE_MODEL / "vae").float().eval()
