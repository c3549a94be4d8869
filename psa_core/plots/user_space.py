"""The space that people's embeddings span, flat: who bans what, and where the levels lie."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..encoders.protocol import ProfileEncoder
from ..encoders.structured import StructuredEncoder
from ..errors import PSAError
from ..profile import LEVELS, UserProfile
from ..schema import CATEGORIES
from .canvas import BACKGROUND, FONT, FRAME, INK, Box, Colour, wrap

_COLUMNS, _ROWS = 4, 2
_TITLE, _MARGIN, _NOTE = 26, 14, 44  # pixels
_LEAST_WIDTH = 600
_BANNED: Colour = (180, 50, 70)
_ALLOWED: Colour = (185, 205, 225)
_MOST_DOTS = 4000
_DOT, _RING = 2, 6  # pixels, of a radius


def user_space(
    profiles: Sequence[UserProfile], encoder: ProfileEncoder | None = None, width: int = 1200
) -> Image.Image:
    """Eight panels of the same dots, one a person: how much each one bans, then who bans each category; RGB.

    A dot's place are the first two principal components of the people's embeddings (centred, not scaled), which the
    levels L0 to L5 are projected onto, too. Of very many people the first 4,000 are drawn.

    Args:
        encoder: of profiles; `None` takes the structured one, for which what is banned counts.
        width: in pixels, at least 600.

    Raises:
        PSAError: for no person, or a smaller picture; or as the encoder does.
    """
    if not profiles:
        raise PSAError("There are no users to draw. Give at least one.")
    if width < _LEAST_WIDTH:
        raise PSAError(f"A picture of the user space needs a width of at least {_LEAST_WIDTH} pixels.")
    encoder, drawn = encoder or StructuredEncoder(), profiles[:_MOST_DOTS]
    vectors = encoder.encode([*drawn, *LEVELS.values()]).vectors.numpy().astype(np.float64)
    places, share = project(vectors[: len(drawn)], vectors)
    step = width // _COLUMNS
    image = Image.new("RGB", (width, _ROWS * step + _NOTE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    bans = [len(profile.banned_categories) for profile in drawn]
    panels = [("how many categories", [_blend(count / len(CATEGORIES)) for count in bans])]
    for category in CATEGORIES:
        banned = [category in profile.banned_categories for profile in drawn]
        panels.append(
            (f"{category}: {np.mean(banned):.0%} ban it", [_BANNED if is_so else _ALLOWED for is_so in banned])
        )
    for number, (title, colours) in enumerate(panels):
        left, top = number % _COLUMNS * step, number // _COLUMNS * step
        box = (left + _MARGIN, top + _TITLE, left + step - _MARGIN, top + step - _MARGIN)
        _draw_panel(draw, box, title, places, colours)
    few = f"the first {len(drawn)} of {len(profiles)} users" if len(drawn) < len(profiles) else f"{len(drawn)} users"
    note = (
        f"{few}, a dot each, by the two principal components of {encoder.id or 'their embeddings'}, which hold "
        f"{share:.0%} of the variance. Red: bans it. Rings: the levels L0 to L5."
    )
    draw.multiline_text((_MARGIN, _ROWS * step + 4), wrap(note, width - 2 * _MARGIN), fill=INK, font=FONT)
    return image


def project(people: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """(V, D) vectors onto the first two principal components of (P, D) people: (V, 2), and these two's share of the
    people's variance, 0 where they do not differ.

    An axis points where its largest coordinate is positive, so that the same people give the same picture.
    """
    centre = people.mean(axis=0)
    _, sizes, axes = np.linalg.svd(people - centre, full_matrices=False)
    axes = np.vstack([axes[:2], np.zeros((max(0, 2 - len(axes)), people.shape[1]))])
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[np.arange(2), largest] < 0, -1.0, 1.0)[:, None]
    variance = sizes**2
    whole = float(variance.sum())
    differ = whole > np.finfo(np.float64).eps * float((people**2).sum())  # by more than rounding
    return (vectors - centre) @ axes.T, float(variance[:2].sum()) / whole if differ else 0.0


def _draw_panel(draw: ImageDraw.ImageDraw, box: Box, title: str, places: np.ndarray, colours: Sequence[Colour]) -> None:
    """The people's dots, red ones last, and over them the levels, which `places` ends with."""
    left, top, right, bottom = box
    draw.rectangle(box, outline=FRAME)
    draw.text((left, top - 6), title, fill=INK, font=FONT, anchor="ls")
    low, high = places.min(axis=0), places.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    inset = _RING + 3
    x = left + inset + (right - left - 2 * inset) * (places[:, 0] - low[0]) / span[0]
    y = bottom - inset - (bottom - top - 2 * inset) * (places[:, 1] - low[1]) / span[1]
    for number in sorted(range(len(colours)), key=lambda number: colours[number] != _ALLOWED):
        _dot(draw, x[number], y[number], _DOT, colours[number])
    for name, at_x, at_y in zip(LEVELS, x[len(colours) :], y[len(colours) :], strict=True):
        draw.ellipse((at_x - _RING, at_y - _RING, at_x + _RING, at_y + _RING), outline=INK, width=2)
        is_right = at_x > (left + right) / 2
        place = (at_x - _RING - 2, at_y) if is_right else (at_x + _RING + 2, at_y)
        anchor = "rm" if is_right else "lm"
        draw.text(place, name, fill=INK, font=FONT, anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _blend(share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(_ALLOWED, _BANNED, strict=True))
    return red, green, blue
