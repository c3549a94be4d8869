import pytest
from PIL import Image, ImageChops

from psa_core import PSAError
from psa_core.grid import labelled_grid

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200)]
PICTURES = [Image.new("RGB", (96, 64), colour) for colour in COLOURS]
LABELS = ["L0", "L1", "L2", "L3", "L4"]


def boxes(grid: Image.Image) -> list[tuple[int, int, int, int]]:
    """Where each picture's colour is."""
    found = []
    for colour in COLOURS:
        difference = ImageChops.difference(grid, Image.new("RGB", grid.size, colour)).convert("L")
        found.append(difference.point(lambda value: 255 * (value == 0)).getbbox())
    return found


def test_every_picture_is_whole_and_in_its_place():
    found = boxes(labelled_grid(PICTURES, LABELS, columns=3))
    assert all((right - left, bottom - top) == (96, 64) for left, top, right, bottom in found)
    lefts, tops = [box[0] for box in found], [box[1] for box in found]
    assert lefts[0] < lefts[1] < lefts[2] and lefts[3:] == lefts[:2]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4]


@pytest.mark.parametrize("label", ["L0", "a label that is much too wide for one line", "W" * 60])
def test_the_label_stands_above_its_picture_and_covers_none(label):
    plain = labelled_grid(PICTURES, [""] * 5, columns=5)
    grid = labelled_grid(PICTURES, [label, *LABELS[1:]], columns=5)
    left, top, right, _ = boxes(grid)[0]
    assert boxes(grid)[0][2] - left == 96 and grid.height >= plain.height
    ink = ImageChops.invert(grid.convert("L")).crop((left, 0, right, top)).getbbox()
    assert ink is not None and ink[3] - ink[1] >= 5, "no readable text above the picture"
    beyond = ImageChops.invert(grid.convert("L")).crop((right, 0, boxes(grid)[1][0], top))
    assert beyond.getbbox() is None, "the label runs into the next one's place"


def test_fewer_pictures_than_columns_leave_no_gap():
    assert labelled_grid(PICTURES, LABELS, columns=9).size == labelled_grid(PICTURES, LABELS, columns=5).size


@pytest.mark.parametrize(
    ("pictures", "labels", "columns", "sentence"),
    [
        (PICTURES, LABELS[:4], 3, "5 pictures and 4 labels"),
        ([], [], 3, "0 pictures"),
        (PICTURES, LABELS, 0, "at least 1 column"),
        ([PICTURES[0], Image.new("RGB", (8, 8))], LABELS[:2], 2, "one size"),
    ],
)
def test_bad_input_gets_a_sentence(pictures, labels, columns, sentence):
    with pytest.raises(PSAError, match=sentence):
        labelled_grid(pictures, labels, columns)
