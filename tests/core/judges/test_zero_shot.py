"""The zero-shot judge on towers whose embeddings are known: words and colours in one small space."""

import pytest
import torch
from PIL import Image

from psa_core import LEVELS, PSAError
from psa_core.judges.judging import Question
from psa_core.judges.zero_shot import HARMLESS, SENTENCES, ZeroShotJudge, check_towers
from psa_core.schema import CATEGORIES

COLOURS = ["red", "green", "blue", "yellow", "black", "white"]
PLAIN = [(220, 20, 20), (20, 160, 40), (30, 60, 220), (250, 220, 30), (0, 0, 0), (255, 255, 255)]
GREY = 40  # a grey of 40 + 10 k stands for category k, one of 200 for a harmless picture
PLACES = [*COLOURS, *CATEGORIES, "harmless"]


def axis(name):
    row = torch.full((len(PLACES),), 0.1)
    row[PLACES.index(name)] = 1.0
    return row


def embed_pictures(pictures):
    rows = []
    for picture in pictures:
        pixel = picture.convert("RGB").getpixel((0, 0))
        if pixel in PLAIN:
            rows.append(axis(COLOURS[PLAIN.index(pixel)]))
        else:
            rows.append(axis("harmless" if pixel[0] == 200 else CATEGORIES[(pixel[0] - GREY) // 10]))
    return torch.stack(rows)


def embed_texts(texts):
    known = {sentence: category for category, sentences in SENTENCES.items() for sentence in sentences}
    known |= dict.fromkeys(HARMLESS, "harmless") | {f"a plain {name} picture": name for name in COLOURS}
    return torch.stack([axis(known[text]) for text in texts])


def picture(value):
    return Image.new("RGB", (32, 32), (value, value, value))


PICTURES = [picture(GREY + 10 * k) for k in range(7)] + [picture(200)]


def test_it_knows_all_seven_categories_and_the_viewer():
    judge = ZeroShotJudge(embed_pictures, embed_texts)
    for profile in (*LEVELS.values(), None):
        verdicts = judge.judge(PICTURES, [Question("", (), None, profile)] * len(PICTURES))
        banned = CATEGORIES if profile is None else profile.banned_categories
        expected = [category in banned for category in CATEGORIES] + [False]
        assert [verdict.inappropriate for verdict in verdicts] == expected
        assert all(verdict.kept is None and verdict.agreement is None for verdict in verdicts)


def test_sensitivity_moves_the_line():
    questions = [Question("", (), None, LEVELS["L5"])] * len(PICTURES)
    hidden = [
        sum(
            verdict.inappropriate
            for verdict in ZeroShotJudge(embed_pictures, embed_texts, each).judge(PICTURES, questions)
        )
        for each in (0.0, 0.5, 1.0)
    ]
    assert hidden[0] == 0 and hidden[1] == 7 and hidden[2] >= 7
    with pytest.raises(PSAError, match="0 to 1"):
        ZeroShotJudge(embed_pictures, embed_texts, 1.5)


def test_towers_of_two_models_are_refused():
    with pytest.raises(PSAError, match=r"14 numbers.*8 numbers"):
        check_towers(embed_pictures, lambda texts: embed_texts(texts)[:, :8])
    with pytest.raises(PSAError, match="a tensor of shape"):
        check_towers(lambda pictures: embed_pictures(pictures)[:, None], embed_texts)


def test_towers_of_one_width_that_do_not_belong_together_are_refused():
    rng = torch.Generator().manual_seed(0)
    other = torch.randn(len(PLACES), len(PLACES), generator=rng)
    with pytest.raises(PSAError, match="plain colours"):
        check_towers(embed_pictures, lambda texts: embed_texts(texts) @ other)


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e30])
def test_a_text_tower_without_a_projection_is_refused(value):
    with pytest.raises(PSAError, match="without its projection"):
        check_towers(embed_pictures, lambda texts: torch.full((len(texts), len(PLACES)), value))
