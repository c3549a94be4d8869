"""A contact sheet: some of a data set's pairs, what shows the concept beside the same scene without it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..dataset.pair_files import PicturePair
from ..errors import PSAError
from ..pictures import open_picture
from ..plots.grid import labelled_grid

_MOST, _SIDE, _COLUMNS = 24, 192, 6


def contact_sheet(folder: Path, pairs: Sequence[PicturePair], most: int = _MOST) -> Image.Image | None:
    """Up to `most` pairs, spread over all, those whose pictures are there; `None` where none of them are."""
    numbers = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)
    chosen = [pairs[number] for number in numbers]
    pictures, labels = [], []
    for pair in chosen:
        try:
            shown = [_small(folder / name) for name in pair.pictures]
        except PSAError:  # not there yet, or a copy that was cut off
            continue
        about = f"{pair.category}: {pair.concept}" if pair.category else "harmless"
        pictures += shown
        labels += [f"{about}, {pair.asked}", f"without {pair.concept}"] if pair.category else [about] * 2
    if not pictures:
        return None
    return labelled_grid(pictures, labels, min(_COLUMNS, len(pictures)))


def _small(path: Path) -> Image.Image:
    image = open_picture(path, least=(2 * _SIDE, 2 * _SIDE))
    return ImageOps.pad(image, (_SIDE, _SIDE), color="white")
