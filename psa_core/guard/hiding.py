"""Pictures that stand where a viewer is not to see another."""

from PIL import Image, ImageOps

from ..errors import PSAError

HIDINGS = ("blur", "replace")
_CELLS = 8  # of a blurred picture's longer side: nothing finer is left of it
_GREY = (128, 128, 128)


def hide(picture: Image.Image, how: str, card: Image.Image | None = None) -> Image.Image:
    """A picture of the same size that does not show what this one does.

    Args:
        how: `blur`, which leaves eight by eight mean colours; or `replace`.
        card: what a replaced picture becomes, cut to its size; `None`: plain grey.

    Raises:
        PSAError: for another way.
    """
    if how not in HIDINGS:
        raise PSAError(f"'{how}' is no way to hide a picture. There are: {', '.join(HIDINGS)}.")
    if how == "replace":
        return ImageOps.fit(card.convert("RGB"), picture.size) if card else Image.new("RGB", picture.size, _GREY)
    longer = max(picture.size)
    cells = (max(1, picture.width * _CELLS // longer), max(1, picture.height * _CELLS // longer))
    return picture.convert("RGB").resize(cells, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)
