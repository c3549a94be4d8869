import pytest
from PIL import Image, ImageChops, ImageFont

from psa_core import PSAError
from psa_core.plots.canvas import FONT, wrap
from psa_core.plots.fonts import font_for
from psa_core.plots.grid import Cell, labelled_grid, labelled_table, labels_in_turn

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


def table_of(captions=("", "", "", ""), frames=(None, None, None, None), columns=("x", "y"), rows=("1", "2"), note=""):
    panels = [Cell(*each) for each in zip(PICTURES[:4], captions, frames, strict=True)]
    return labelled_table([panels[:2], panels[2:]], rows, columns, note)


def ink(table: Image.Image, box) -> tuple | None:
    """Where something darker than the paper is, inside a box."""
    return ImageChops.invert(table.convert("L").crop(box)).getbbox()


def test_a_tables_pictures_are_whole_and_in_rows_and_columns():
    found = boxes(table_of(captions=["a caption of more words than one line has"] * 4, frames=[(0, 0, 0)] * 4))[:4]
    assert all((right - left, bottom - top) == (96, 64) for left, top, right, bottom in found)
    lefts, tops = [box[0] for box in found], [box[1] for box in found]
    assert lefts[0] == lefts[2] < lefts[1] == lefts[3] and tops[0] == tops[1] < tops[2] == tops[3]


def test_a_tables_labels_captions_and_note_stand_where_they_belong():
    plain, table = table_of(rows=(" ", " "), columns=(" ", " ")), table_of(captions=["kept"] * 4, note="what is seen")
    left, top, right, bottom = boxes(table)[0]
    next_row = boxes(table)[2][1]
    places = {
        "column": (left, 0, right, top),
        "row": (0, top, left, bottom),
        "caption": (left, bottom, right, next_row),
    }
    assert all(ink(table, box) for box in places.values())
    assert ink(plain, (0, 0, plain.width, boxes(plain)[0][1])) is None
    under = boxes(table)[3][3]
    last_caption = ink(table, (0, under, table.width, table.height))
    assert ink(table, (0, under + 20, left, table.height)) and last_caption[3] < table.height - under


def test_a_line_of_a_label_stays_a_line():
    one, two = table_of(columns=("L5 bans", "y")), table_of(columns=("L5\nbans", "y"))
    assert two.height > one.height


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"columns": ("x",)}, "every column"), ({"rows": ("1",)}, "each row"), ({"columns": ()}, "at least one picture")],
)
def test_a_table_of_other_labels_gets_a_sentence(changes, sentence):
    with pytest.raises(PSAError, match=sentence):
        table_of(**changes)


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


@pytest.mark.parametrize("label", ["é", "émile's", "山田", "한글", "مريم", "Ω Ж ß", "漢字かな", "a 山田", "Zoe\u0308"])
def test_letters_of_many_scripts_are_no_boxes(label):
    font = font_for(label, 32)
    box = bytes(font.getmask("\U0010ffff"))
    assert all(bytes(font.getmask(letter)) != box for letter in label if not letter.isspace())


def test_what_no_font_has_is_still_drawn():
    assert labelled_grid(PICTURES[:1], ["anna \U0010fffd"], columns=1).size[0] > 96


def test_plain_labels_look_as_they_did():
    assert font_for("L0: heart fine", 20).getname() == ImageFont.load_default(size=20).getname()


@pytest.mark.parametrize("label", ["x" * 1_000_000, "x " * 500_000, "\u0301" * 1_000_000])
def test_a_label_of_any_length_is_wrapped_by_a_few_measurements(label):
    measured: list[str] = []

    class Counting:
        def getlength(self, text: str) -> float:
            measured.append(text)
            return FONT.getlength(text)

    lines = wrap(label, 128, Counting()).split("\n")
    assert len(lines) <= 3 and all(FONT.getlength(line) <= 128 for line in lines)
    assert len(measured) < 200 and "".join(lines).replace(" ", "") in label.replace(" ", "")


def test_labels_start_over_with_the_viewers_of_a_batch():
    assert labels_in_turn(["L0", "L5"], 4) == ["L0", "L5", "L0", "L5"]
    assert labels_in_turn(["L0", "L5"], 2) == ["L0", "L5"]


@pytest.mark.parametrize(
    ("labels", "pictures", "sentence"),
    [
        (LABELS, 1, "1 picture and 5 labels. Set batch_size .* to 5"),
        (LABELS, 12, "12 pictures and 5 labels"),
        (LABELS[:1], 0, "0 pictures and 1 label"),
        ([], 2, "2 pictures and 0 labels"),
    ],
)
def test_labels_that_do_not_go_round_get_a_sentence(labels, pictures, sentence):
    with pytest.raises(PSAError, match=sentence):
        labels_in_turn(labels, pictures)
