"""What all figures share: colours, the font, scales, lines and text that wraps."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]  # left, top, right, bottom

FONT = ImageFont.load_default(size=13)
_MOST_LINES = 8
BACKGROUND, INK, FRAME = (255, 255, 255), (32, 32, 32), (200, 200, 200)
PALETTE: tuple[Colour, ...] = (
    (31, 90, 166),
    (214, 96, 30),
    (52, 140, 70),
    (150, 60, 150),
    (120, 120, 40),
    (70, 160, 180),
    (180, 50, 70),
    (110, 110, 110),
)


def draw_scale(draw: ImageDraw.ImageDraw, box: Box, low: float, high: float, steps: int = 4) -> None:
    """Lines at equal steps from `low` to `high` up a panel's axes, with numbers to their left."""
    left, top, right, bottom = box
    for part in range(steps + 1):
        y = bottom - (bottom - top) * part / steps
        draw.line((left, y, right, y), fill=FRAME)
        text = f"{low + (high - low) * part / steps:.2g}"
        draw.text((left - 6, y), text, fill=INK, font=FONT, anchor="rm")


def draw_names(draw: ImageDraw.ImageDraw, place: tuple[float, float], names: Sequence[str]) -> None:
    """Names in a row, each in its colour of the palette; `place` is the left end of their base line."""
    x, y = place
    for text, colour in zip(names, cycle(PALETTE), strict=False):
        draw.text((x, y), text, fill=colour, font=FONT, anchor="ls")
        x += FONT.getlength(text) + 16


def draw_line(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, width: int) -> None:
    """A line through points, or a dot where there is but one."""
    if len(points) == 1:
        (x, y), r = points[0], width
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif points:
        draw.line(list(points), fill=colour, width=width)


def wrap_lines(text: str, width: float, font: Any = FONT) -> str:
    """Each of the first lines of a text, as `wrap` does it."""
    return "\n".join(wrap(line, width, font) for line in text.splitlines()[:_MOST_LINES])


def wrap(text: str, width: float, font: Any = FONT) -> str:
    """At most three lines of at most `width` pixels, broken between words, or inside a word too long for a line."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < 3:
        end = _fitting(rest, width, font)
        if end < len(rest):
            space = rest.rfind(" ", 0, end + 1)
            end = space if space > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return "\n".join(lines)


def _fitting(text: str, width: float, font: Any) -> int:
    """How many of the first characters are at most `width` pixels wide: one at least, and as fast for any length."""
    bound = 1
    while bound < len(text) and font.getlength(text[:bound]) <= width:
        bound *= 2
    counts = range(1, min(bound, len(text)) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: font.getlength(text[:count])))


def text_height(text: str, font: Any = FONT) -> int:
    """In pixels; an empty text has a line's."""
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text or " ", font=font)
    return round(box[3])
