"""A small network that tells what a picture of the mini world shows, trained on renders alone.

It is no kin of the base model, whose pictures its features measure; and it is not the detector, which can so referee
a guard that looks through it.
"""

import io
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import nn

from ..errors import PSAError
from ..files import atomic_path, existing_file, printable
from ..pictures import to_tensor
from ..seeds import draw_seed
from ..tensor_files import read_file, save_file
from .detector import Detection, check_pixels
from .world import BACKGROUNDS, COLOURS, SHAPES, SYMBOLS, Scene, render, sample_scene

SHIPPED = Path(__file__).parent / "assets" / "classifier.safetensors"
FEATURES = 64
STEPS, BATCH, RATE = 900, 32, 3e-3
_LAYERS = ((3, 32, 5, 2), (32, 64, 3, 2), (64, 64, 3, 1), (64, 64, 3, 2), (64, 64, 3, 1))  # in, out, kernel, stride
_KIND = "psa mini classifier, 1"
_SYMBOLS, _SHAPES = (None, *SYMBOLS.values()), (None, *SHAPES)
_ANSWERS = (_SYMBOLS, tuple(BACKGROUNDS), *[_SHAPES] * len(COLOURS))
_SAFE_SHARE = 0.25  # of the scenes
_WORN_SHARE = 0.5  # of the pictures, for blur and JPEG each
_BLUR, _QUALITY, _NOISE = 1.5, (30, 95), 0.06  # radius in pixels; JPEG's; spread, of 1: the worst
_REPORT_EVERY = 50

Say = Callable[[str], None]


class Classifier(nn.Module):
    """Says of pictures which symbol they show, if any, which background, and each colour's shape.

    Five convolutions on the picture at half its size; their means and maxima over the picture become `FEATURES`
    numbers, of which each answer is a linear function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*[module for layer in _LAYERS for module in _layer(*layer)])
        self.summary = nn.Linear(2 * _LAYERS[-1][1], FEATURES)
        self.answers = nn.Linear(FEATURES, sum(map(len, _ANSWERS)))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, 128, 128) in [0, 1] -> (B, 64), none below 0.

        Raises:
            PSAError: for pictures of another shape.
        """
        check_pixels(pixels, "classifier")
        halved = F.avg_pool2d(pixels.float(), 2) * 4 - 2
        maps = self.body(halved.contiguous(memory_format=torch.channels_last))
        return F.relu(self.summary(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, a tensor a question: the symbol (B, 8), the background (B, 6), each of five colours' shape (B, 5)."""
        return self.answers(self.features(pixels)).split([len(answers) for answers in _ANSWERS], 1)

    @torch.no_grad()
    def detect(self, pixels: torch.Tensor) -> list[Detection]:
        """As the detector, without sizes and places.

        Raises:
            PSAError: for pictures of another shape.
        """
        rows = torch.stack([logits.argmax(1) for logits in self(pixels)], 1).tolist()
        return [_detection(*[answers[n] for answers, n in zip(_ANSWERS, row, strict=True)]) for row in rows]


def load_classifier(path: Path | str = SHIPPED) -> Classifier:
    """Read what `save_classifier` wrote.

    Raises:
        PSAError: for a file that is missing, damaged, or not such a one.
    """
    path = existing_file(path, "classifier of PSA Mini")
    tensors, metadata = read_file(path)
    classifier = Classifier()
    expected = {key: value.shape for key, value in classifier.state_dict().items()}
    if metadata.get("kind") != _KIND or {key: value.shape for key, value in tensors.items()} != expected:
        raise PSAError(
            f"{printable(path.name)} is no classifier of PSA Mini, or another version's. Make one with: psa mini "
            "train-classifier."
        )
    weights = {key: value.float() for key, value in tensors.items()}
    if not all(torch.isfinite(value).all() for value in weights.values()):  # it would find nothing in any picture
        raise PSAError(f"{printable(path.name)} is damaged: it holds NaN or infinite weights. Use another copy.")
    classifier.load_state_dict(weights)
    return classifier.eval().requires_grad_(False)


@cache
def shipped_classifier() -> Classifier:
    """The one that comes with the pack, read once."""
    return load_classifier()


def save_classifier(classifier: Classifier, path: Path | str) -> None:
    """Write a classifier, in half precision, whole or not at all.

    Raises:
        PSAError: where the file cannot be written.
    """
    tensors = {key: value.half() for key, value in classifier.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"kind": _KIND})


def train_classifier(seed: int = 0, steps: int = STEPS, report: Say = lambda _: None) -> Classifier:
    """Train on fresh renders, each worn a little; of one seed, machine and thread count, the same weights.

    Raises:
        PSAError: for no step.
    """
    if steps < 1:
        raise PSAError("Training takes at least one step.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, "classifier"))
        classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=RATE, weight_decay=1e-2)
    for step in range(steps):
        pixels, answers = renders(draw_seed(seed, "classifier", step), BATCH, worn=True)
        loss = sum(F.cross_entropy(logits, answers[:, n]) for n, logits in enumerate(classifier(pixels)))
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 50, 0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        optimizer.step()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == steps:
            report(f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}")
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(classifier: Classifier, seed: int, count: int, worn: bool = False) -> dict[str, float]:
    """The shares of fresh renders of which `symbol`, `background`, and all colours' `shapes` are right."""
    pixels, answers = renders(draw_seed(seed, "accuracy"), count, worn)
    said = [torch.stack([logits.argmax(1) for logits in classifier(part)], 1) for part in pixels.split(BATCH)]
    right = (torch.cat(said) == answers).float()
    shares = {"symbol": right[:, 0], "background": right[:, 1], "shapes": right[:, 2:].amin(1)}
    return {name: float(values.mean()) for name, values in shares.items()}


def renders(seed: int, count: int, worn: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (count, 3, 128, 128), and the number of the right answer to each question (count, 7).

    Args:
        worn: with blur, JPEG's marks and noise, each at times and more or less.
    """
    pictures, answers = [], []
    for number in range(count):
        rng = np.random.default_rng(draw_seed(seed, number))
        symbol = None if rng.random() < _SAFE_SHARE else str(rng.choice(list(SYMBOLS.values())))
        scene = sample_scene(rng, symbol)
        picture = render(scene)
        pictures.append(_worn(picture, rng) if worn else picture)
        answers.append(_answers(scene))
    pixels = to_tensor(pictures)
    if worn:
        noise = torch.Generator().manual_seed(seed)
        spreads = _NOISE * torch.rand(count, 1, 1, 1, generator=noise)
        pixels = pixels + spreads * torch.randn(pixels.shape, generator=noise)
    return pixels, torch.tensor(answers)


def _layer(inputs: int, outputs: int, kernel: int, stride: int) -> Sequence[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def _answers(scene: Scene) -> list[int]:
    shapes = {shape.colour_word: shape.word for shape in scene.shapes}
    right = [scene.symbol and scene.symbol.word, scene.background, *map(shapes.get, COLOURS)]
    return [answers.index(answer) for answers, answer in zip(_ANSWERS, right, strict=True)]


def _detection(symbol: str | None, background: str, *shapes: str | None) -> Detection:
    return Detection(symbol, background, tuple((c, shape) for c, shape in zip(COLOURS, shapes, strict=True) if shape))


def _worn(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < _WORN_SHARE:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, _BLUR))))
    if rng.random() < _WORN_SHARE:
        kept = io.BytesIO()
        picture.save(kept, "JPEG", quality=int(rng.integers(*_QUALITY, endpoint=True)))
        picture = Image.open(kept).convert("RGB")
    return picture
