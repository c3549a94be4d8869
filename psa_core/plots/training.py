"""A training run's loss, accuracy and drift over the steps, as a picture."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from ..errors import PSAError
from .canvas import BACKGROUND, FONT, INK, PALETTE, Points, draw_line, draw_names, draw_scale
from .grid import labelled_grid

_FAINT, _TRAINING, _HELD_OUT = (190, 208, 232), PALETTE[0], PALETTE[1:]
_MARGINS = (64, 30, 16, 30)  # left, top, right, bottom of a panel's axes


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
    image = Image.new("RGB", (width, height), BACKGROUND)
    for number, (metric, title, limits) in enumerate(_PANELS):
        top, bottom = (height * edge // len(_PANELS) for edge in (number, number + 1))
        _draw_panel(image, (0, top, width, bottom), rows, metric, title, limits)
    return image


def with_pictures(plot: Image.Image, pictures: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """The plot with a row of labelled pictures of one size under it, as wide as the plot."""
    side = plot.width // (len(pictures) + 1)
    grid = labelled_grid([picture.resize((side, side)) for picture in pictures], labels, len(pictures))
    image = Image.new("RGB", (plot.width, plot.height + grid.height), BACKGROUND)
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
    draw = ImageDraw.Draw(image)
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

    draw_scale(draw, (left, top, right, bottom), low, high)
    for part in range(3):
        x = left + (right - left) * part / 2
        draw.text((x, bottom + 6), f"{last * part / 2:.0f}", fill=INK, font=FONT, anchor=("la", "ma", "ra")[part])
    draw_line(draw, [place(point) for point in steps], _FAINT, 1)
    draw_line(draw, [place(point) for point in average], _TRAINING, 2)
    names = [title, *(key.removesuffix(f"/{metric}") for key in held_out)]
    draw_names(draw, (left, top - 8), names)
    for points, colour in zip(held_out.values(), _HELD_OUT, strict=False):
        placed = [place(point) for point in points]
        draw_line(draw, placed, colour, 2)
        for x, y in placed:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)


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
