"""Comparisons: what is drawn, the tables that show it, and where two pictures differ."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from psa_core import PSAError
from psa_core.evaluate.changes import changes
from psa_core.plots.comparison import Comparison, read_prompts, read_strengths
from psa_core.plots.differences import LEAST, difference, marked

COMPARISON = Comparison(("a meadow", "a beach"), ("L0", "山田"), (0.5, 1.0))
SIZE = (96, 64)


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", SIZE, colour)


def box_of(table: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of all that has exactly this colour."""
    rows, columns = np.nonzero((np.asarray(table) == colour).all(-1))
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None


def test_without_psa_is_drawn_once_a_prompt_and_not_once_a_viewer():
    assert COMPARISON.columns == [(None, 0.0), (0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0)]
    assert COMPARISON.count == 2 * 5
    assert str(COMPARISON) == "10 pictures (2 prompts: without PSA, and for 2 viewers at strength 0.5, 1)"
    assert Comparison(("a",), ("L0",), (1.0,)).count == 2


def test_a_table_shows_every_picture_whole_in_its_place():
    colours = [[(40 * row + 5, 30 * column + 5, 200) for column in range(5)] for row in range(2)]
    table = COMPARISON.grid([[plain(colour) for colour in row] for row in colours], "settings")
    boxes = [[box_of(table, colour) for colour in row] for row in colours]
    for row in boxes:
        assert [right - left for left, _, right, _ in row] == [SIZE[0]] * 5
        assert [bottom - top for _, top, _, bottom in row] == [SIZE[1]] * 5
        assert len({top for _, top, _, _ in row}) == 1
    assert [box[0] for box in boxes[0]] == sorted(box[0] for box in boxes[0]) == [box[0] for box in boxes[1]]
    assert boxes[0][0][1] < boxes[1][0][1]


def test_labels_tell_tables_apart_and_what_is_not_drawn_yet_is_blank():
    row = [plain((10, 20, 30))] + [None] * 4
    table = COMPARISON.grid([row, row])
    others = (
        Comparison(("a meadow", "a beach"), ("L0", "L1"), (0.5, 1.0)),
        Comparison(("a meadow", "a sea"), ("L0", "山田"), (0.5, 1.0)),
        Comparison(("a meadow", "a beach"), ("L0", "山田"), (0.5, 2.0)),
    )
    for other in others:
        assert np.array(other.grid([row, row])).tobytes() != np.array(table).tobytes()
    for colour, count in (((10, 20, 30), 1), ((232, 232, 232), 4)):  # an edge of a letter may be as grey
        assert 0 <= (np.asarray(table) == colour).all(-1).sum() - 2 * count * SIZE[0] * SIZE[1] < 50


def test_differences_are_marked_against_the_same_prompt_without_psa():
    first, changed = plain((100, 100, 100)), plain((100, 100, 100))
    changed.paste((255, 100, 100), (0, 0, 48, 64))
    table = COMPARISON.differences([[first, changed, first, first, first], [changed, changed, first, first, first]])
    colour = (255, 64, 26)  # of a full change
    pixels = (np.asarray(table) == colour).all(-1)
    assert pixels.sum() == 48 * 64 + 3 * 48 * 64  # one picture of the first row, three of the second
    assert box_of(table, (100, 100, 100)) is not None, "the first column is shown as it is"


def test_marks_are_the_formula():
    rng = np.random.default_rng(0)
    before, after = (Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)) for _ in "ab")
    picture, share = marked(before, after)
    old, new = (np.asarray(each, float) / 255 for each in (before, after))
    moved = np.abs(new - old).max(-1)
    least = 16 / 255
    weight = np.where(moved > least, np.clip((moved - least) / (0.5 - least), 0.25, 1), 0)[..., None]
    grey = (old @ [0.299, 0.587, 0.114])[..., None]
    expected = (1 - weight) * 0.45 * grey + weight * np.array([1, 0.25, 0.1])
    assert np.abs(np.asarray(picture) / 255 - expected).max() < 1.01 / 255
    assert share == pytest.approx((moved > least).mean())


def test_what_is_hardly_seen_is_no_change():
    before = plain((100, 100, 100))
    for value, share in ((100, 0), (116, 0), (117, 1)):
        assert marked(before, plain((100, value, 100)))[1] == share
    same = marked(before, before)[0]
    assert len(np.unique(np.asarray(same))) == 1


@given(st.integers(0, 2**32))
def test_evaluation_counts_the_same_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    before, after = (torch.randint(0, 40, (2, 3, 6, 5), generator=generator) / 255 for _ in "ab")
    counted = changes(before, after, torch.zeros(2, 6, 5, dtype=torch.bool))
    moved = (difference(before, after) > LEAST).flatten(1).sum(1).tolist()
    assert [round(30 * each.changed) for each in counted] == moved


def test_pictures_of_two_sizes_get_a_sentence():
    with pytest.raises(PSAError, match="one shape"):
        marked(plain((0, 0, 0)), Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("0, 0.5, 1", (0.5, 1.0)),
        ("1", (1.0,)),
        ("1;0.5;  -2", (1.0, 0.5, -2.0)),
        ("1, 1.0, 1e0, 0.0", (1.0,)),
        ("\n0.25\n10", (0.25, 10.0)),
    ],
)
def test_strengths_are_read_in_their_order_each_once(text, strengths):
    assert read_strengths(text) == strengths


@pytest.mark.parametrize("text", ["", "0", "0, 0.0", "a", "0.5, high", "nan", "inf", "11", "-10.5", "1..2"])
def test_what_is_no_strength_gets_a_sentence(text):
    with pytest.raises(PSAError, match=r"[Ss]trength"):
        read_strengths(text)


def test_prompts_are_lines():
    assert read_prompts("  a meadow \n\n a (beach:1.2)\r\n") == ("a meadow", "a (beach:1.2)")
    with pytest.raises(PSAError, match="no prompt"):
        read_prompts(" \n ")


@pytest.mark.parametrize(
    ("prompts", "size", "most"), [(52, (64, 64), 256), (13, (1024, 1024), 64), (4, (2048, 2048), 16)]
)
def test_too_many_pictures_get_a_sentence_with_both_numbers(prompts, size, most):
    many = Comparison(("a",) * prompts, ("L0", "L1"), (0.5, 1.0))
    with pytest.raises(PSAError, match=rf"{5 * prompts} pictures .*at most {most} of {size[0]} x {size[1]}"):
        many.check_count(size)
    Comparison(("a",) * (most // 5), ("L0", "L1"), (0.5, 1.0)).check_count(size)
