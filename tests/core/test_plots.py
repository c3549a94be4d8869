"""The picture of a training run."""

import numpy as np
import pytest
from PIL import Image

from psa_core import PSAError
from psa_core.plots.training import training_plot, with_pictures


def rows(steps: int, falling: bool = True) -> list[dict[str, float]]:
    done = [step / steps for step in range(1, steps + 1)]
    return [
        {"step": step, "preference_loss": 1 - share if falling else share, "accuracy": 0.5, "winner_gap": 0}
        for step, share in enumerate(done, start=1)
    ]


def line_heights(plot: Image.Image) -> np.ndarray:
    """Where the training line is in the loss panel, as a share of its height from the top, column by column."""
    panel = np.asarray(plot)[: plot.height // 3]
    is_line = (panel == (31, 90, 166)).all(-1)
    is_line[:26] = False  # the title has the line's colour
    columns = np.flatnonzero(is_line.any(0))
    return np.array([np.flatnonzero(is_line[:, column]).mean() / len(panel) for column in columns])


@pytest.mark.parametrize("steps", [20, 2000])
def test_a_falling_loss_falls_in_the_picture_from_side_to_side(steps):
    falling, rising = (line_heights(training_plot(rows(steps, falling))) for falling in (True, False))
    assert len(falling) > 600
    assert falling[0] < 0.35 < 0.65 < falling[-1]
    assert rising[-1] < 0.35 < 0.65 < rising[0]


def test_held_out_splits_are_drawn_too():
    with_held_out = rows(10)
    with_held_out[4]["val/accuracy"] = 0.7
    difference = np.asarray(training_plot(with_held_out)) != np.asarray(training_plot(rows(10)))
    changed = np.flatnonzero(difference.any((1, 2)))
    assert changed.min() >= 256 and changed.max() < 512  # in the accuracy panel alone


@pytest.mark.parametrize("some", [[], rows(1), [{"step": 1, "preference_loss": 0.7}]])
def test_a_run_that_has_hardly_begun(some):
    assert training_plot(some, 400, 300).size == (400, 300)


def test_too_small_a_picture_is_refused():
    with pytest.raises(PSAError, match="300 x 300"):
        training_plot([], 100, 400)


def test_pictures_stand_under_the_plot():
    plot = training_plot(rows(3))
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    below = np.asarray(with_pictures(plot, pictures, ["one", "two"]))[plot.height :]
    red, blue = ((below == colour).all(-1) for colour in ((250, 0, 0), (0, 0, 250)))
    assert red.sum() == blue.sum() > 200**2
    assert np.flatnonzero(red.any(0)).max() < np.flatnonzero(blue.any(0)).min()
