"""ComfyUI's IMAGE, (B, H, W, C) in [0, 1], from Pillow's pictures and back."""

from collections.abc import Sequence

import torch
from PIL import Image

from ...psa_core.pictures import to_images, to_tensor


def to_comfy(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size -> (B, H, W, 3) float32."""
    return to_tensor(images).movedim(1, -1).contiguous()


def from_comfy(pixels: torch.Tensor) -> list[Image.Image]:
    """(B, H, W, C) -> RGB pictures; channels beyond the third (alpha) are left out."""
    return to_images(pixels[..., :3].movedim(-1, 1))
