"""A contact sheet: some of a data set's pairs, what shows the concept beside the same scene without it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..dataset.pair_files import PicturePair
from ..generate.run import is_whole
from ..pictures import open_picture
from ..plots.grid import labelled_grid

_MOST, _SIDE, _COLUMNS = 24, 192, 6


def contact_sheet(folder: Path, pairs: Sequence[PicturePair], most: int = _MOST) -> Image.Image | None:
    """Up to `most` pairs, spread over all, those whose pictures are there; `None` where none of them are."""
    numbers = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)
    chosen = [pairs[number] for number in numbers]
    there = [pair for pair in chosen if all(is_whole(folder / name) for name in pair.pictures)]
    if not there:
        return None
    pictures, labels = [], []
    for pair in there:
        about = f"{pair.category}: {pair.concept}" if pair.category else "harmless"
        for name, label in zip(pair.pictures, (f"{about}, {pair.asked}", f"without {pair.concept}"), strict=True):
            image = open_picture(folder / name, least=(2 * _SIDE, 2 * _SIDE))
            pictures.append(ImageOps.pad(image, (_SIDE, _SIDE), color="white"))
            labels.append(label if pair.category else about)
    return labelled_grid(pictures, labels, min(_COLUMNS, len(pictures)))
