"""Where two pictures of one prompt and noise differ, as numbers and as a picture."""

import torch
from PIL import Image

from ..errors import PSAError
from ..pictures import to_images, to_tensor

LEAST = 16 / 255
"""A pixel has changed where a channel has by more than this, by default: less is hardly seen."""
_FULL = 0.5  # a difference from which on a pixel has the whole colour of the mark
_FAINT = 0.45  # the brightness that is left of what did not change
_MARK = (1.0, 0.25, 0.1)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def difference(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """How far each pixel moved: `d = max over channels of |after - before|`.

    Args:
        before, after: (B, 3, H, W) in [0, 1].

    Returns:
        (B, H, W) float32 in [0, 1], in units of the whole range of a channel.

    Raises:
        PSAError: for two shapes, or another one.
    """
    if before.ndim != 4 or before.shape != after.shape:
        raise PSAError(
            "A difference needs two batches of pictures of one shape (B, 3, H, W); these have "
            f"{tuple(before.shape)} and {tuple(after.shape)}."
        )
    return (after.float() - before.float()).abs().amax(1)


def marked(before: Image.Image, after: Image.Image) -> tuple[Image.Image, float]:
    """`before`, grey and faint, with what differs in `after` in colour; and the share of pixels that changed.

    With `d` as `difference` has it and `l` = `LEAST`, the colour's weight at a pixel is
    `w = 0 where d <= l, else clip((d - l) / (0.5 - l), 0.25, 1)`, and the pixel is
    `(1 - w) * 0.45 * grey + w * (1, 0.25, 0.1)`, with grey = 0.299 R + 0.587 G + 0.114 B of `before`.

    Args:
        before, after: of one size.

    Returns:
        An RGB picture of that size, and the share of pixels with d > l, in [0, 1].

    Raises:
        PSAError: for pictures of two sizes.
    """
    old, new = to_tensor([before]), to_tensor([after])
    moved = difference(old, new)[0]
    changed = moved > LEAST
    weight = ((moved - LEAST) / (_FULL - LEAST)).clamp(0.25, 1) * changed
    grey = torch.einsum("chw,c->hw", old[0], torch.tensor(_LUMA))
    pixels = (1 - weight) * _FAINT * grey + weight * torch.tensor(_MARK)[:, None, None]
    return to_images(pixels[None])[0], changed.float().mean().item()
