"""Telling from pixels what a picture of the mini world shows: matched templates, nothing learned.

A symbol is dark and nothing else is; a shape has its colour's hue. So each is found in a map of one
number a pixel (darkness, or nearness to a colour), by normalised cross-correlation with templates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from ..errors import PSAError
from ..pictures import to_tensor
from .world import BACKGROUNDS, COLOURS, SHAPES, SIZE, SYMBOLS, Asked, outline


@dataclass(frozen=True)
class _Scale:
    """At which a thing is looked for: its radii and its window, and how many are averaged to one before, in pixels."""

    radii: tuple[float, ...]
    window: int
    coarse: int


_LARGE = _Scale((21.5, 23.0, 24.5), 60, 4)
_SMALL = _Scale((14.3, 15.3, 16.3), 42, 2)
_LEAST_CORRELATION = 0.6
_LEAST_MASS = 0.4  # of the template's: a correlation says nothing of how strong the thing is drawn
_DARK, _DARKEST = 110.0, 30.0  # the largest of red, green and blue at which darkness begins, and is full
_COLOUR_REACH = 80.0  # distance in RGB at which nothing of a colour is left


@dataclass(frozen=True)
class Detection:
    """What one picture shows: the symbol or `None`, the background, each colour's shape, and the symbol's size and
    middle (x, y) in pixels."""

    symbol: str | None
    background: str
    shapes: tuple[tuple[str, str], ...]
    size: str | None = None
    place: tuple[float, float] | None = None

    def agrees(self, asked: Asked) -> bool:
        """Whether background and shapes are those of the prompt; symbols are judged apart."""
        return self.background == asked.background and set(self.shapes) == set(asked.shapes)


class Detector:
    """Detects what pictures of the mini world show.

    >>> from psa_core.mini.world import parse_prompt, render, sample_scene
    >>> scene = sample_scene(np.random.default_rng(0), "star")
    >>> (found,) = Detector()(to_pixels([render(scene)]))  # (B, 3, 128, 128) in [0, 1] -> B detections
    >>> found.symbol, found.agrees(parse_prompt(scene.prompt))
    ('star', True)
    """

    def __init__(self) -> None:
        symbols = tuple(SYMBOLS.values())
        self._symbols = {"large": _Templates(symbols, _LARGE), "small": _Templates(symbols, _SMALL)}
        self._shapes = _Templates(SHAPES, _LARGE)
        self._backgrounds = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)  # (6, 2, 3)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> list[Detection]:
        """Detect in pictures (B, 3, 128, 128) with values in [0, 1].

        Raises:
            PSAError: for pictures of another shape.
        """
        check_pixels(pixels, "detector")
        pixels = pixels.float() * 255
        darkness = _darkness(pixels)
        at_sizes = [self._found(darkness, size) for size in self._symbols]
        symbols = [max(matches) for matches in zip(*at_sizes, strict=True)]
        colours = [self._shapes.best(_nearness(pixels, colour)) for colour in COLOURS.values()]
        backgrounds = self._nearest_backgrounds(pixels)
        return [
            Detection(
                symbol.word,
                backgrounds[row],
                tuple(
                    (name, shape) for name, found in zip(COLOURS, colours, strict=True) if (shape := found[row].word)
                ),
                size if symbol.word else None,
                symbol.place if symbol.word else None,
            )
            for row, (symbol, size) in enumerate(symbols)
        ]

    def _found(self, darkness: torch.Tensor, size: str) -> list[tuple["_Match", str]]:
        return [(match, size) for match in self._symbols[size].best(darkness)]

    def _nearest_backgrounds(self, pixels: torch.Tensor) -> list[str]:
        """By the median colour of the top and the bottom rows, which things leave mostly free."""
        edges = torch.stack([pixels[:, :, :4], pixels[:, :, -4:]], 1).flatten(3).median(-1).values  # (B, 2, 3)
        distances = (edges[:, None] - self._backgrounds).square().sum((2, 3))
        return [list(BACKGROUNDS)[number] for number in distances.argmin(1).tolist()]


@dataclass(frozen=True, order=True)
class _Match:
    """The best match of a map: its correlation, 0 where it is none; its word and its middle (x, y) in pixels."""

    score: float
    word: str | None
    place: tuple[float, float]


class _Templates:
    """Filled outlines of `words` at a few sizes, matched at every place of a map."""

    def __init__(self, words: tuple[str, ...], scale: _Scale) -> None:
        self.words, self.scale = words, scale
        drawn = torch.stack([_template(word, radius, scale) for word in words for radius in scale.radii])
        self._mass = drawn.sum((1, 2, 3))
        centred = drawn - drawn.mean((1, 2, 3), keepdim=True)
        self._kernels = centred / centred.square().sum((1, 2, 3), keepdim=True).sqrt()

    def best(self, values: torch.Tensor) -> list[_Match]:
        """A match for each map of (B, 1, 128, 128)."""
        scale = self.scale
        values = F.avg_pool2d(values, scale.coarse)
        window = scale.window // scale.coarse
        pad, area, side = window // 2, window**2, values.shape[-1]
        correlation = F.conv2d(values, self._kernels, padding=pad)
        mass = F.avg_pool2d(values, window, 1, pad) * area
        spread = F.avg_pool2d(values.square(), window, 1, pad) * area - mass.square() / area
        correlation = correlation / spread.clamp(min=1e-3).sqrt()
        correlation = correlation.masked_fill(mass < _LEAST_MASS * self._mass.view(1, -1, 1, 1), 0.0)
        scores, places = correlation.flatten(1).max(1)
        matches = []
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            template, cell = divmod(place, side**2)
            y, x = divmod(cell, side)
            middle = ((x + 0.5) * scale.coarse, (y + 0.5) * scale.coarse)
            known = score >= _LEAST_CORRELATION
            matches.append(
                _Match(score if known else 0.0, self.words[template // len(scale.radii)] if known else None, middle)
            )
        return matches


def check_pixels(pixels: torch.Tensor, whose: str) -> None:
    """Raise PSAError for what are no pictures of the world's size."""
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, SIZE, SIZE):
        raise PSAError(
            f"The mini world's {whose} takes pictures of {SIZE} x {SIZE} pixels, as (pictures, 3, {SIZE}, {SIZE}); "
            f"these have the shape {tuple(pixels.shape)}."
        )


def to_pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL pictures -> (B, 3, 128, 128) in [0, 1]; one of another size is scaled."""
    return to_tensor([image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for image in images])


def _darkness(pixels: torch.Tensor) -> torch.Tensor:
    return ((_DARK - pixels.amax(1, keepdim=True)) / (_DARK - _DARKEST)).clamp(0, 1)


def _nearness(pixels: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    distance = (pixels - torch.tensor(colour, dtype=torch.float32).view(3, 1, 1)).square().sum(1, keepdim=True).sqrt()
    return (2 - 2 * distance / _COLOUR_REACH).clamp(0, 1)


def _template(word: str, radius: float, scale: _Scale) -> torch.Tensor:
    """(1, H, W): the thing's ink, averaged down from a larger drawing."""
    finer, middle = 4, scale.window / 2
    image = Image.new("L", (scale.window * finer,) * 2)
    draw = ImageDraw.Draw(image)
    points = [((middle + radius * x) * finer, (middle + radius * y) * finer) for x, y in outline(word)]
    draw.polygon(points, fill=255)
    if word == "ring":
        draw.ellipse([(middle + sign * 0.45 * radius) * finer for sign in (-1, -1, 1, 1)], fill=0)
    return torch.from_numpy(np.asarray(image.reduce(finer * scale.coarse), np.float32) / 255)[None]
