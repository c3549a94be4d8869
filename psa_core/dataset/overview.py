"""A look at a split: its counts in words, and some of its pairs side by side."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..files import some
from ..pictures import open_picture
from ..plots.grid import labelled_grid
from .sage import SageRecord
from .split import PairSplit

_SAMPLES = 3
_SAMPLE_SIDE = 256
_LISTED = 20  # records left out; the count names the rest


def summary(dataset: PairSplit) -> str:
    """Counts, in words; nothing of a profile."""
    categories = some(f"{name} {count}" for name, count in dataset.categories.most_common())
    lines = [f"{dataset.name}: {len(dataset)} pairs, {dataset.users} users", categories, *dataset.notes]
    if dataset.skipped:
        lines += [f"{len(dataset.skipped)} records left out:", *dataset.skipped[:_LISTED]]
    return "\n".join(line for line in lines if line)


def sample_pairs(dataset: PairSplit) -> Image.Image:
    """Some pairs spread over the split, chosen beside rejected."""
    indices = np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).round().astype(int)
    pictures, labels = [], []
    for record in (dataset[int(index)] for index in indices):
        pictures += [_thumbnail(record.chosen), _thumbnail(record.rejected)]
        labels += [_label(record, "chosen"), _label(record, "rejected")]
    return labelled_grid(pictures, labels, columns=2)


def _label(record: SageRecord, which: str) -> str:
    return f"{which} ({record.category})" if record.category else which


def _thumbnail(path: Path) -> Image.Image:
    image = open_picture(path, least=(2 * _SAMPLE_SIDE, 2 * _SAMPLE_SIDE))
    return ImageOps.pad(image, (_SAMPLE_SIDE, _SAMPLE_SIDE), color="white")
