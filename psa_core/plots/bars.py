"""Panels of bars or lines with error bars, as a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image, ImageDraw

from ..errors import PSAError
from .canvas import (
    BACKGROUND,
    FONT,
    FRAME,
    INK,
    PALETTE,
    Box,
    Colour,
    draw_line,
    draw_names,
    draw_scale,
    text_height,
    wrap_lines,
)

_PANEL_HEIGHT, _NAMES_HEIGHT, _LEAST_WIDTH = 220, 34, 500
_MARGINS = (56, 34, 16, 44)  # left, top, right, bottom of a panel's axes
_NAMELESS: Colour = (120, 132, 150)
_GROUP_GAP, _TWO_LINES = 8, text_height("a\na")
_BAR, _GAP = 54, 0.3  # a bar's greatest width in pixels; the share of a group's width that is left free


class Interval(Protocol):
    """A value with the ends of its error bar."""

    @property
    def value(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Panel:
    """Figures by group and by name: bars side by side, or a line a name across the groups.

    The name "" stands for bars without one; `under` has a second line of text below a group.
    """

    title: str
    groups: Mapping[str, Mapping[str, Interval]]
    lines: bool = False
    under: Mapping[str, str] = field(default_factory=dict)


def draw_panels(panels: Sequence[Panel], width: int) -> Image.Image:
    """Panels under each other, and over them each name in its colour; RGB.

    Raises:
        PSAError: for a width under 500 pixels, or no panel.
    """
    if width < _LEAST_WIDTH:
        raise PSAError(f"A figure needs a width of at least {_LEAST_WIDTH} pixels.")
    if not panels:
        raise PSAError("There is no figure to draw.")
    names = list(dict.fromkeys(name for panel in panels for bars in panel.groups.values() for name in bars if name))
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}
    texts = [_texts(panel, (width - _MARGINS[0] - _MARGINS[2]) / len(panel.groups) - _GROUP_GAP) for panel in panels]
    # Two lines of text have their place; more of them make the panel higher.
    more = [max(0, *(text_height(text) for text in under.values()), _TWO_LINES) - _TWO_LINES for under in texts]
    image = Image.new("RGB", (width, _NAMES_HEIGHT + _PANEL_HEIGHT * len(panels) + sum(more)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw_names(draw, (_MARGINS[0], _NAMES_HEIGHT - 10), names)
    top = _NAMES_HEIGHT
    for panel, under, extra in zip(panels, texts, more, strict=True):
        box = (_MARGINS[0], top + _MARGINS[1], width - _MARGINS[2], top + _PANEL_HEIGHT - _MARGINS[3])
        _draw_panel(draw, panel, box, colours, under)
        top += _PANEL_HEIGHT + extra
    return image


def _texts(panel: Panel, width: float) -> dict[str, str]:
    """What stands under each group, in lines no wider than it."""
    return {group: wrap_lines(f"{group}\n{panel.under.get(group, '')}".strip(), width) for group in panel.groups}


def _draw_panel(
    draw: ImageDraw.ImageDraw, panel: Panel, box: Box, colours: Mapping[str, Colour], under: Mapping[str, str]
) -> None:
    left, top, right, bottom = box
    figures = [figure for bars in panel.groups.values() for figure in bars.values()]
    low, high, steps = _scale(min(figure.low for figure in figures), max(figure.high for figure in figures))

    def height(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    draw.text((left, top - 10), panel.title, fill=INK, font=FONT, anchor="ls")
    draw_scale(draw, box, low, high, steps)
    group_width = (right - left) / len(panel.groups)
    names = list(dict.fromkeys(name for bars in panel.groups.values() for name in bars))
    bar = min(_BAR, group_width * (1 - _GAP) / len(names))
    dots: dict[str, list[tuple[float, float]]] = {}
    for number, (group, bars) in enumerate(panel.groups.items()):
        middle = left + group_width * (number + 0.5)
        for place, name in enumerate(names):
            if name not in bars:
                continue
            figure, colour = bars[name], colours.get(name, _NAMELESS)
            if panel.lines:
                x = middle + 5 * (place - (len(names) - 1) / 2)  # beside each other, so that error bars stay apart
                dots.setdefault(name, []).append((x, height(figure.value)))
            else:
                x = middle + bar * (place - (len(names) - 1) / 2)
                ends = sorted((height(figure.value), height(0)))
                draw.rectangle((x - 0.45 * bar, ends[0], x + 0.45 * bar, ends[1]), fill=colour)
            if figure.low < figure.high:
                _draw_error(draw, x, height(figure.low), height(figure.high), colour if panel.lines else INK)
        draw.multiline_text((middle, bottom + 6), under[group], fill=INK, font=FONT, anchor="ma", align="center")
    for name, points in dots.items():
        draw_line(draw, points, colours[name], 2)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colours[name])
    draw.line((left, height(0), right, height(0)), fill=FRAME if low < 0 else INK)


def _scale(least: float, most: float) -> tuple[float, float, int]:
    """(low, high, steps): shares have one axis everywhere, from 0 to 1; figures beyond stretch it by whole steps."""
    step = 0.25
    while max(1.0, most) - min(0.0, least) > 7 * step:
        step *= 2
    first, last = math.floor(min(0.0, least) / step), math.ceil(max(1.0, most) / step)
    return first * step, last * step, last - first


def _draw_error(draw: ImageDraw.ImageDraw, x: float, low: float, high: float, colour: Colour) -> None:
    draw.line((x, low, x, high), fill=colour)
    for y in (low, high):
        draw.line((x - 4, y, x + 4, y), fill=colour)
