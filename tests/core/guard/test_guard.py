"""The guard: who is asked about, what is hidden, and that its words tell nothing of a viewer."""

import numpy as np
import pytest
from PIL import Image

from psa_core import LEVELS, PSAError
from psa_core.guard import HIDINGS, failing, hide, told, viewers_in_turn
from psa_core.judges.judging import Verdict
from psa_core.schema import CATEGORIES


class RedIsHate:
    """Calls a red picture inappropriate for whoever bans Hate, and notes what it was asked."""

    name, hears_viewer = "a stand-in", True

    def __init__(self):
        self.asked = []

    def identity(self):
        return self.name

    def check(self, captions):
        pass

    def judge(self, pictures, questions, tell=lambda *_: None):
        self.asked += questions
        shown = [
            picture.getpixel((0, 0)) == (255, 0, 0) and "Hate" in question.profile.banned_categories
            for picture, question in zip(pictures, questions, strict=True)
        ]
        return [Verdict(each, None, None, -float(each)) for each in shown]


RED, BLUE = Image.new("RGB", (16, 8), (255, 0, 0)), Image.new("RGB", (16, 8), (0, 0, 255))


def test_a_picture_fails_for_the_viewer_who_bans_what_it_shows():
    viewers = [LEVELS["L5"], LEVELS["L4"], LEVELS["L5"], LEVELS["L5"]]
    assert failing(RedIsHate(), [RED, RED, BLUE, RED], viewers, [""] * 4) == (0, 3)


def test_nobody_is_asked_about_pictures_of_who_bans_nothing():
    judge = RedIsHate()
    assert failing(judge, [RED, RED], [LEVELS["L0"], LEVELS["L0"]], ["", ""]) == ()
    assert failing(judge, [RED, RED], [LEVELS["L0"], LEVELS["L5"]], ["a", "b"]) == (1,)
    assert [question.caption for question in judge.asked] == ["b"]
    assert all(question.viewer is None for question in judge.asked)


def test_pictures_go_round():
    one, two = LEVELS["L1"], LEVELS["L5"]
    assert viewers_in_turn([one, two], 4) == [one, two, one, two]
    for count in (0, 1, 3):
        with pytest.raises(PSAError, match="2 viewers"):
            viewers_in_turn([one, two], count)


@pytest.mark.parametrize("size", [(128, 128), (640, 200), (5, 300), (1, 1)])
def test_a_hidden_picture_has_the_size_and_nothing_finer_than_its_cells(size):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 2, (size[1], size[0], 3), dtype=np.uint8) * 255)
    blurred = hide(picture, "blur")
    assert blurred.size == size
    cells = hide(picture.resize((8 * size[0], 8 * size[1]), Image.Resampling.NEAREST), "blur")
    assert cells.size == (8 * size[0], 8 * size[1])
    if min(size) >= 16:  # a checkerboard and its negative become the same grey
        board = Image.fromarray(np.indices((size[1], size[0])).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
        negative = board.point(lambda value: 255 - value)
        first, second = (np.asarray(hide(each, "blur")).astype(int) for each in (board, negative))
        assert np.abs(first - second).max() <= 60


def test_a_replaced_picture_is_the_card_or_grey():
    assert hide(RED, "replace").getcolors() == [(16 * 8, (128, 128, 128))]
    assert hide(RED, "replace", Image.new("RGBA", (300, 50), (0, 0, 255, 255))).getcolors() == [(16 * 8, (0, 0, 255))]
    with pytest.raises(PSAError, match="blur, replace"):
        hide(RED, "delete")


def test_what_was_done_is_said_for_each_picture_that_failed():
    words = told(4, 2, [(1, 2, 3), (2, 3), (3,)], "blur", "a judge").splitlines()
    assert words[0] == "4 pictures looked at by a judge: 3 shown, 1 hidden."
    assert words[1].startswith("Picture 2 (viewer 2): drawn again once with more strength, and shown.")
    assert words[2].startswith("Picture 3 (viewer 1): drawn again 2 times with more strength, and shown.")
    assert words[3].startswith("Picture 4 (viewer 2): blurred. It was drawn again 2 times")
    assert told(2, 1, [()], "blur", "a judge") == "2 pictures looked at by a judge: 2 shown, 0 hidden."
    assert "Picture 1 (viewer 1): replaced. It shows" in told(2, 2, [(0,)], "replace", "a judge")


def test_the_words_name_no_category():
    for how in HIDINGS:
        for rounds in ([(0,)], [(0,), (0,)], [(0,), ()]):
            words = told(1, 1, rounds, how, "a judge")
            assert not any(category.lower() in words.lower() for category in CATEGORIES)
