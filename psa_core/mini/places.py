"""Where in a picture of the mini world its symbol is."""

import torch
import torch.nn.functional as F

_DARK = 110 / 255  # nothing but a symbol's ink is darker in all of red, green and blue
_MARGIN = 8  # pixels: the white rim, and the blur of drawing


def symbol_places(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, H, W): true on dark ink and its rim, nowhere where there is no symbol."""
    dark = (pixels.amax(1, keepdim=True) < _DARK).float()
    return F.max_pool2d(dark, 2 * _MARGIN + 1, 1, _MARGIN)[:, 0] > 0
