"""Pictures as files, as tensors, and as what Pillow calls images."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .errors import PSAError


def open_picture(path: Path) -> Image.Image:
    """Read a picture whole, as RGB.

    Raises:
        PSAError: with its name, where it is damaged or no picture.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise PSAError(f"{path.name} in {path.parent} is not a picture. Draw or copy it again.") from None
    except Exception as error:  # decoders meet damaged bytes with many kinds of exception
        raise PSAError(
            f"{path.name} in {path.parent} cannot be read ({type(error).__name__}). Draw or copy it again."
        ) from None
