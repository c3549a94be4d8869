"""A training run as a picture: loss, accuracy and drift over the steps."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from .errors import PSAError
from .grid import labelled_grid

_BACKGROUND, _INK, _FRAME = (255, 255, 255), (32, 32, 32), (200, 200, 200)
_FAINT, _TRAINING = (190, 208, 232), (31, 90, 166)
_HELD_OUT = ((214, 96, 30), (52, 140, 70), (150, 60, 150), (120, 120, 40))
_MARGINS = (64, 30, 16, 30)  # left, top, right, bottom of a panel's axes

Points = Sequence[tuple[float, float]]


_PANELS: tuple[tuple[str, str, tuple[float, float] | None], ...] = (
    ("preference_loss", "loss", None),
    ("accuracy", "accuracy", (0.0, 1.0)),
    ("winner_gap", "error on chosen pictures, above the base model's", None),
)


def training_plot(rows: Sequence[Mapping[str, float]], width: int = 768, height: int = 768) -> Image.Image:
    """LPPD's loss, its accuracy, and the winner error against the reference's (rising: the run drifts to noise).

    Each step faintly, a moving average over it, and held-out splits as lines with dots.

    Args:
        rows: as `psa_core.training.read_metrics` returns them: `step`, `preference_loss`, `accuracy`,
            `winner_gap` and, for held-out splits, `{split}/preference_loss` and so on.
        width, height: of the RGB picture, in pixels; at least 300 each.

    Raises:
        PSAError: for a smaller picture.
    """
    if min(width, height) < 300:
        raise PSAError("A training plot needs at least 300 x 300 pixels.")
    image = Image.new("RGB", (width, height), _BACKGROUND)
    for number, (metric, title, limits) in enumerate(_PANELS):
        top, bottom = (height * edge // len(_PANELS) for edge in (number, number + 1))
        _draw_panel(image, (0, top, width, bottom), rows, metric, title, limits)
    return image


def with_pictures(plot: Image.Image, pictures: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """The plot with a row of labelled pictures of one size under it, as wide as the plot."""
    side = plot.width // (len(pictures) + 1)
    grid = labelled_grid([picture.resize((side, side)) for picture in pictures], labels, len(pictures))
    image = Image.new("RGB", (plot.width, plot.height + grid.height), _BACKGROUND)
    image.paste(plot, (0, 0))
    image.paste(grid, ((plot.width - grid.width) // 2, plot.height))
    return image


def _draw_panel(
    image: Image.Image,
    box: tuple[int, int, int, int],
    rows: Sequence[Mapping[str, float]],
    metric: str,
    title: str,
    limits: tuple[float, float] | None,
) -> None:
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    left, top, right, bottom = box[0] + _MARGINS[0], box[1] + _MARGINS[1], box[2] - _MARGINS[2], box[3] - _MARGINS[3]
    steps = _points(rows, metric)
    average = _moving_average(steps)
    held_out = {
        key: _points(rows, key) for key in sorted({key for row in rows for key in row if key.endswith(f"/{metric}")})
    }
    last = max([x for x, _ in steps], default=1.0)
    low, high = limits or _limits([average, *held_out.values()])

    def place(point: tuple[float, float]) -> tuple[float, float]:
        share = min(1.0, max(0.0, (point[1] - low) / (high - low)))
        return left + (right - left) * point[0] / last, bottom - (bottom - top) * share

    for part in range(5):
        y = bottom - (bottom - top) * part / 4
        draw.line((left, y, right, y), fill=_FRAME)
        draw.text((left - 6, y), f"{low + (high - low) * part / 4:.2g}", fill=_INK, font=font, anchor="rm")
    for part in range(3):
        x = left + (right - left) * part / 2
        draw.text((x, bottom + 6), f"{last * part / 2:.0f}", fill=_INK, font=font, anchor=("la", "ma", "ra")[part])
    _draw_line(draw, [place(point) for point in steps], _FAINT, 1)
    _draw_line(draw, [place(point) for point in average], _TRAINING, 2)
    x = left
    names = [title, *(key.removesuffix(f"/{metric}") for key in held_out)]
    for text, colour in zip(names, [_TRAINING, *_HELD_OUT], strict=False):
        draw.text((x, top - 8), text, fill=colour, font=font, anchor="ls")
        x += font.getlength(text) + 16
    for points, colour in zip(held_out.values(), _HELD_OUT, strict=False):
        placed = [place(point) for point in points]
        _draw_line(draw, placed, colour, 2)
        for x, y in placed:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)


def _draw_line(draw: ImageDraw.ImageDraw, points: Points, colour: tuple[int, int, int], width: int) -> None:
    if len(points) == 1:
        (x, y), r = points[0], width
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif points:
        draw.line(list(points), fill=colour, width=width)


def _points(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in rows if key in row]


def _moving_average(points: Points) -> list[tuple[float, float]]:
    """An exponential average over about a twentieth of the run, without the bias of its start."""
    keep = 1 - 1 / max(1.0, len(points) / 20)
    result, total, weight = [], 0.0, 0.0
    for x, y in points:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        result.append((x, total / weight))
    return result


def _limits(lines: Sequence[Points]) -> tuple[float, float]:
    """The averages' range with some air; single steps may leave it."""
    values = [y for points in lines for _, y in points] or [0.0, 1.0]
    air = max(0.1 * (max(values) - min(values)), 0.01 * abs(max(values)), 1e-6)
    return min(values) - air, max(values) + air
