"""Where in the picture the user's term counts: masks, and what they say at each query of a cross-attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..errors import PSAError

Box = tuple[int, int, int, int]
"""A part of the latents: top, left, height and width, in latent pixels."""


class Region:
    """Masks over the picture: at 1 the user's term counts in full, at 0 not at all, in between in part.

    A cross-attention has a query for each of its tokens, which lie in a grid over the picture. The term at a token is
    weighted by the mask's mean over the token's share of the picture: `w * Attn(q, K_user, V_user)`. What the model
    does at one place reaches others (convolutions, self-attention), so that a picture changes a little beyond a mask.

    Args:
        masks: (H, W), (M, H, W) or (M, 1, H, W), of any size and real dtype; values are cut to 0 ... 1. One mask
            serves all pictures; of several, picture i takes mask i mod M.

    Raises:
        PSAError: for another shape, no mask, or values that are no numbers.
    """

    def __init__(self, masks: torch.Tensor) -> None:
        if not isinstance(masks, torch.Tensor) or masks.is_complex():
            raise PSAError("A mask must be a tensor of real numbers from 0 to 1.")
        masks = masks.detach().float().cpu()
        if masks.ndim == 2:
            masks = masks[None]
        if masks.ndim == 4 and masks.shape[1] == 1:
            masks = masks[:, 0]
        if masks.ndim != 3 or 0 in masks.shape:
            raise PSAError(
                f"A mask must have a height and a width, or several masks one shape (M, H, W); this has the shape "
                f"{tuple(masks.shape)}."
            )
        if masks.isnan().any():
            raise PSAError("The mask holds values that are no numbers. Make it again.")
        self.masks = masks.clamp(0, 1)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def is_everywhere(self) -> bool:
        """1 at every place: as if there were no mask."""
        return bool((self.masks == 1).all())

    @property
    def is_nowhere(self) -> bool:
        """0 at every place: as if there were no user's term."""
        return not self.masks.any()

    def check_viewers(self, viewers: int) -> None:
        """Make sure that masks and viewers go round together.

        Raises:
            PSAError: for several masks that are not one, or the same number, for each viewer.
        """
        if len(self) > 1 and len(self) % viewers:
            raise PSAError(
                f"There are {len(self)} masks for {viewers} viewers. Give one mask for all, or one for each viewer."
            )

    def weights(
        self,
        numbers: Sequence[int],
        grid: tuple[int, int],
        boxes: Sequence[Box] | None = None,
        latents: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """How much the user's term counts at each token of each row.

        Args:
            numbers: for each row the number of its mask.
            grid: the layer's tokens, (height, width), over the row's part of the picture.
            boxes: for each row its part of the picture; `None`: every row is a whole picture.
            latents: with boxes: the whole picture's latents, (height, width).

        Returns:
            (rows, grid height * grid width, 1) float32, in [0, 1].
        """
        if boxes is None or latents is None:
            return _means(self.masks, grid)[list(numbers)]
        whole = _resized(self.masks, latents)
        parts = {
            (top, left, height, width): _means(whole[:, top : top + height, left : left + width], grid)
            for top, left, height, width in set(boxes)
        }
        return torch.stack([parts[box][number] for number, box in zip(numbers, boxes, strict=True)])


def token_grid(latents: tuple[int, int], queries: int) -> tuple[int, int]:
    """The grid, (height, width), in which a layer's queries lie over latents of that size.

    An SD-family UNet halves height and width between its stages and rounds up, as a convolution of stride 2 does.

    Raises:
        PSAError: where no number of halvings gives so many queries.
    """
    height, width = latents
    while height * width > queries and height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != queries:
        raise PSAError(
            f"A mask cannot be laid over {queries} positions of the attention for latents of "
            f"{latents[0]} x {latents[1]}. Take the mask away, or what changes the positions."
        )
    return height, width


def _means(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(M, H, W) -> (M, grid height * grid width, 1)"""
    return _resized(masks, grid).flatten(1)[..., None]


def _resized(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Each new pixel is the mean of the old ones that it covers."""
    return F.interpolate(masks[:, None], size=size, mode="area")[:, 0]
