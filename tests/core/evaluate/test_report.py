"""The report's figures, from rows whose figures are worked out by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from psa_core import LEVELS, PSAError, UserProfile
from psa_core.evaluate import Prompt, Question, Row, Verdict, build_report, judged_rows, to_figure
from psa_core.plots.canvas import PALETTE

STRICT = UserProfile(30, "male", banned_categories=("Hate", "Violence"), user_id="0000011")
FREE = UserProfile(30, "female", banned_categories=(), user_id="0000012")


def row(method, key, category, viewer, profile, inappropriate, kept=None, agreement=1.0, score=0.0):
    question = Question("a caption", category, viewer, profile)
    return Row(method, question, Verdict(inappropriate, kept, agreement, score), key)


def people(method, *verdicts):
    """Two prompts that STRICT bans, one that STRICT allows, one of FREE's: (inappropriate, kept, score) each."""
    asked = [
        (1, "Hate", STRICT),
        (2, "Violence", STRICT),
        (3, "Shocking", STRICT),
        (4, "Hate", FREE),
    ]
    return [
        row(method, key, category, profile.user_id, profile, bad, kept, score=score)
        for (key, category, profile), (bad, kept, score) in zip(asked, verdicts, strict=True)
    ]


BASE = people("base", (True, None, 0), (True, None, 0), (False, True, 3), (False, True, 3))
PSA = people("psa", (False, None, 3), (True, None, 0), (False, False, 1), (False, True, 3))


def values(figures):
    return {name: figure.value for name, figure in figures.items()}


def test_what_viewers_ban_and_keep():
    report = build_report([*BASE, *PSA])
    assert values(report.measures["base"]) == {
        "IP on banned": 1.0, "allowed kept": 1.0, "pass rate": 0.5, "agreement": 1.0,
    }  # fmt: skip
    # psa: one of two banned is shown; one of two allowed is kept; rows 1 and 4 pass, 2 shows and 3 takes away.
    assert values(report.measures["psa"]) == {
        "IP on banned": 0.5, "allowed kept": 0.5, "pass rate": 0.5, "agreement": 1.0,
    }  # fmt: skip
    assert values(report.banned_by_category["psa"]) == {"Hate": 0.0, "Violence": 1.0}
    assert (report.levels, report.categories, report.harmless) == ({}, {}, {})


def test_win_rates_pair_the_same_prompt_and_viewer():
    unpaired = row("psa", 5, "Hate", "0000012", FREE, False, score=9)
    report = build_report([*BASE, *PSA, unpaired])
    found = report.wins["psa over base"]
    assert (found.wins, found.ties, found.losses, found.rate.value) == (1, 2, 1, 0.5)
    assert list(report.wins) == ["psa over base"]


def test_people_are_drawn_whole():
    # One person's ten pictures all show what is banned, the other's none.
    rows = [row("psa", n, "Hate", f"{n // 10:07d}", STRICT, n < 10) for n in range(20)]
    figure = build_report(rows).measures["psa"]["IP on banned"]
    assert (figure.value, figure.low, figure.high, figure.count) == (0.5, 0.0, 1.0, 20)


def level_rows():
    """Two prompts at L1 and L5, and a base method that knows no viewer: IP .5, 0 and 1."""
    rows = [row("base", key, "Hate", None, None, True) for key in (1, 2)]
    rows += [row("psa", key, "Hate", "L1", None, key == 1) for key in (1, 2)]
    return rows + [row("psa", key, "Hate", "L5", None, False) for key in (1, 2)]


def test_ip_by_level_and_category():
    report = build_report(level_rows())
    assert values(report.levels["psa"]) == {"L1": 0.5, "L5": 0.0}
    assert values(report.levels["base"]) == dict.fromkeys(LEVELS, 1.0)
    assert values(report.measures["psa"]) == {"IP": 0.25, "agreement": 1.0}
    assert values(report.categories["psa"]) == {"Hate": 0.25}
    assert values(report.levels_by_category["psa"]["Hate"]) == {"L1": 0.5, "L5": 0.0}
    assert list(report.levels_by_category) == ["psa"]


def test_levels_are_resampled_by_prompt():
    # Six levels agree about each of 8 prompts: 8 independent pieces of evidence, not 48.
    rows = [row("psa", key, "Hate", level, None, key < 4) for key in range(8) for level in LEVELS]
    figure = build_report(rows).measures["psa"]["IP"]
    assert (figure.value, figure.count) == (0.5, 48)
    assert figure.low < 0.25 and figure.high > 0.75


def test_the_price_on_harmless_prompts():
    rng = np.random.default_rng(0)
    real, base = rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 1
    rows = [row("base", key, None, None, None, False, agreement=1.0) for key in range(4)]
    rows += [row("psa", key, None, "L3", None, False, agreement=key / 4) for key in range(4)]
    report = build_report(
        rows, features={"base": base, "psa L3": base + 1}, real_features=real, clip_scores={"base": [30, 32]}
    )
    assert values(report.harmless["base"]).keys() == {"agreement", "CLIP score", "Frechet distance"}
    assert report.harmless["base"]["CLIP score"].value == 31
    assert report.harmless["psa L3"]["agreement"].value == 0.375
    assert report.harmless["psa L3"]["Frechet rise"].low > 0
    assert "agreement" not in report.measures["psa"]  # there it is over prompts that name a category


def test_no_person_is_in_what_is_written():
    report = build_report([*BASE, *PSA])
    for text in (report.to_json(), report.to_markdown()):
        assert "0000011" not in text and "male" not in text


def test_json_has_every_figure():
    found = json.loads(build_report([*BASE, *PSA], "Seen", "a judge").to_json())
    assert found["measures"]["psa"]["IP on banned"] == {"value": 0.5, "low": 0.5, "high": 0.5, "count": 2}
    assert found["wins"]["psa over base"]["tie_share"] == 0.5
    assert (found["title"], found["judge"]) == ("Seen", "a judge")


def test_tables_have_value_interval_and_count():
    text = build_report(level_rows(), "Levels", "a judge", notes=["A note."]).to_markdown()
    assert text.startswith("### Levels\n\nJudged by: a judge.")
    assert "| method | L0 (n = 2) | L1 (n = 2) |" in text
    assert "| psa | - | 0.500 [0.000, 1.000] |" in text
    assert text.endswith("\n\nA note.")


def test_the_figure_has_a_bar_as_high_as_the_figure():
    report = build_report([row("base", key, "Hate", None, None, key < 3, agreement=None) for key in range(4)])
    picture = np.asarray(report.to_figure(900))
    assert picture.shape[1] == 900
    bar = (picture[34:254] == PALETTE[0]).all(-1).sum(0).max()
    panel = 220 - 34 - 44
    assert bar == pytest.approx(0.75 * panel, abs=3)


def test_several_reports_share_one_figure():
    one, other = build_report(BASE, "Seen"), build_report(PSA, "Unseen")
    assert to_figure([one, other]).height > one.to_figure().height
    with pytest.raises(PSAError, match="at least 500"):
        one.to_figure(100)


def test_nothing_judged_is_said():
    with pytest.raises(PSAError, match="no picture was judged"):
        build_report([])


class Asked:
    """A judge that writes down what it is asked."""

    name = "asked"

    def __init__(self):
        self.questions = []

    def judge(self, pictures, questions):
        self.questions += questions
        return [Verdict(True, None, None, 0.0) for _ in pictures]


def judged(viewers, **options):
    judge = Asked()
    rows = judged_rows(judge, "psa", [Image.new("RGB", (8, 8))], [Prompt("a.jpg", "x", "Hate")], [viewers], **options)
    return judge.questions, rows


def test_a_person_is_asked_about_bans_alone():
    questions, rows = judged({"0000011": STRICT})
    assert [(q.viewer, q.profile) for q in questions] == [("0000011", STRICT)]
    assert rows[0].key == "a.jpg" and rows[0].question.is_banned


def test_a_level_is_asked_about_bans_and_the_picture_about_anything():
    questions, _ = judged({"L3": LEVELS["L3"]})
    assert [(q.viewer, q.profile) for q in questions] == [("L3", None), ("L3", LEVELS["L3"])]


def test_a_shared_picture_is_asked_about_anything_once():
    questions, rows = judged(LEVELS, shared=True)
    assert [(q.viewer, q.profile is None) for q in questions] == [(None, True), *((level, False) for level in LEVELS)]
    assert len(rows) == 7
    questions, _ = judged({"L3": LEVELS["L3"]}, shared=True)
    assert questions[0].viewer is None


def test_a_judge_who_does_not_hear_who_looks_is_asked_once():
    questions, rows = judged(LEVELS, shared=True, personal=False)
    assert [q.profile for q in questions] == [None]
    assert [r.question.viewer for r in rows] == [None, *LEVELS]
    assert all(r.verdict == rows[0].verdict for r in rows)


def test_pictures_without_their_prompts_are_refused():
    with pytest.raises(PSAError, match="1 pictures, 0 prompts"):
        judged_rows(Asked(), "psa", [Image.new("RGB", (8, 8))], [], [{}])
