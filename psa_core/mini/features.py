"""Features of the mini world's pictures, over which Frechet distances are measured."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from .classifier import Classifier, shipped_classifier
from .detector import to_pixels

_AT_ONCE = 64


class MiniFeatures:
    """64 numbers a picture of PSA Mini: those from which its classifier answers.

    The classifier has seen renders alone, so what the base model cannot draw counts too.

    Args:
        classifier: another than the shipped one.
    """

    name = "features of PSA Mini's classifier"

    def __init__(self, classifier: Classifier | None = None) -> None:
        self._classifier = classifier or shipped_classifier()

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        parts = to_pixels(pictures).split(_AT_ONCE)
        return torch.cat([self._classifier.features(part) for part in parts]).double().numpy()
