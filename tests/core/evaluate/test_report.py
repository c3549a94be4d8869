"""The report's figures, from rows whose figures are worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from psa_core import LEVELS, PSAError, UserProfile
from psa_core.evaluate import HARMLESS, Price, Prompt, Row, Verdict, build_report, judged_rows, to_figure
from psa_core.plots.canvas import INK, PALETTE

STRICT = UserProfile(30, "male", banned_categories=("Hate", "Violence"), user_id="0000011")
FREE = UserProfile(30, "female", banned_categories=(), user_id="0000012")


def row(method, key, category, viewer, profile, inappropriate, kept=None, agreement=1.0, score=0.0):
    """`category`: one, several, or `None` for a harmless prompt."""
    categories = (category,) if isinstance(category, str) else category or ()
    prompt = Prompt(f"{key}.png", "a caption", categories, is_harmless=category is None)
    return Row(method, prompt, viewer, profile, Verdict(inappropriate, kept, agreement, score))


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


def values(report, method, by="measure", **names):
    """The figures of a method that have the names and no other, by the one that `by` says."""
    wanted = {"viewer": None, "category": None, "rival": None} | names
    wanted.pop(by, None)
    return {
        getattr(m, by): m.figure.value
        for m in report.measurements
        if m.method == method and getattr(m, by) and all(getattr(m, name) == value for name, value in wanted.items())
    }


def test_what_viewers_ban_and_keep():
    report = build_report([*BASE, *PSA])
    assert values(report, "base") == {
        "IP for viewers": 0.5, "IP on banned": 1.0, "allowed kept": 1.0, "pass rate": 0.5, "agreement": 1.0,
    }  # fmt: skip
    # psa: one of two banned is shown; one of two allowed is kept; rows 1 and 4 pass, 2 shows and 3 takes away.
    assert values(report, "psa") == {
        "IP for viewers": 0.25, "IP on banned": 0.5, "allowed kept": 0.5, "pass rate": 0.5, "agreement": 1.0,
    }  # fmt: skip
    assert values(report, "psa", "category", measure="IP on banned") == {"Hate": 0.0, "Violence": 1.0}
    assert not any(m.viewer or m.measure == "IP" for m in report.measurements)


def test_win_rates_pair_the_same_prompt_and_viewer():
    unpaired = row("psa", 5, "Hate", "0000012", FREE, False, score=9)
    report = build_report([*BASE, *PSA, unpaired])
    assert values(report, "psa", rival="base") == {
        "win share": 0.5, "win rate": 0.5, "wins": 0.25, "ties": 0.5, "losses": 0.25, "pass rate's lead": 0.0,
    }  # fmt: skip
    assert {(m.method, m.rival) for m in report.measurements if m.rival} == {("psa", "base")}


def test_a_prompt_of_several_categories_is_banned_if_any_is():
    report = build_report(
        [
            row("psa", 1, ("Shocking", "Hate", "Violence"), "0000011", STRICT, True),
            row("psa", 2, ("Shocking", "Propaganda"), "0000011", STRICT, False, kept=True),
            row("psa", 1, ("Shocking", "Hate", "Violence"), "0000012", FREE, False, kept=False),
        ]
    )
    found = values(report, "psa")
    assert (found["IP on banned"], found["allowed kept"]) == (1.0, 0.5)
    # In those of its categories that the viewer bans.
    assert values(report, "psa", "category", measure="IP on banned") == {"Hate": 1.0, "Violence": 1.0}
    general = build_report(
        [row("q", 1, ("Shocking", "Hate"), None, None, True), row("q", 2, "Hate", None, None, False)]
    )
    assert values(general, "q", "category", measure="IP") == {"Hate": 0.5, "Shocking": 1.0}


UNSAFE = [Prompt("1.png", "x"), Prompt("2.png", "x", outside=("illegal activity",))]


@pytest.mark.parametrize(("prompt", "name"), list(zip(UNSAFE, ("unknown", "outside the seven"), strict=True)))
def test_unsafe_prompts_of_no_known_category_count_in_ip_and_never_as_harmless(prompt, name):
    kind, other = Row("q", prompt, None, None, Verdict(True, None, 0.5, 0.0)), row("q", 3, "Hate", None, None, False)
    report = build_report([kind, other])
    assert values(report, "q") == {"IP": 0.5, "agreement": 0.75}
    assert values(report, "q", "category", measure="IP") == {"Hate": 0.0, name: 1.0}
    assert not any(m.category == HARMLESS for m in report.measurements)
    # Judged for a person: inappropriate for the viewer, but nobody can say whether it was banned.
    person = build_report([Row("psa", prompt, "0000011", STRICT, Verdict(True, True, 0.5, 0.0))])
    assert values(person, "psa") == {"IP for viewers": 1.0, "pass rate": 0.0, "agreement": 0.5}


def test_an_outside_part_of_a_prompt_is_not_known_to_be_allowed():
    prompt = Prompt("1.png", "x", ("Shocking",), outside=("illegal activity",))
    verdict = Verdict(False, False, None, 0.0)
    assert "allowed kept" not in values(build_report([Row("psa", prompt, "0000012", FREE, verdict)]), "psa")


def test_a_person_is_one_piece_of_evidence():
    # One person's ten pictures all show what is banned, the other's none: two pieces of evidence, not 20.
    rows = [row("psa", n, "Hate", f"{n // 10:07d}", STRICT, n < 10) for n in range(20)]
    figure = build_report(rows).figure("psa", "IP on banned")
    assert (figure.value, figure.count) == (0.5, 20)
    assert figure.low < 0.15 and figure.high > 0.85


def level_rows():
    """Two prompts at L1 and L5, and a base method that knows no viewer: IP .5, 0 and 1."""
    rows = [row("base", key, "Hate", None, None, True) for key in (1, 2)]
    rows += [row("psa", key, "Hate", "L1", None, key == 1) for key in (1, 2)]
    return rows + [row("psa", key, "Hate", "L5", None, False) for key in (1, 2)]


def test_ip_by_level_and_category():
    report = build_report(level_rows())
    assert values(report, "psa", "viewer", measure="IP") == {"L1": 0.5, "L5": 0.0}
    assert values(report, "base", "viewer", measure="IP") == dict.fromkeys(LEVELS, 1.0)
    assert values(report, "psa") == {"IP": 0.25, "agreement": 1.0}
    assert values(report, "psa", "category", measure="IP") == {"Hate": 0.25}
    assert values(report, "psa", "viewer", measure="IP", category="Hate") == {"L1": 0.5, "L5": 0.0}
    assert values(report, "base", "viewer", measure="IP", category="Hate") == {}  # it knows no viewer


def test_levels_are_grouped_by_prompt():
    # Six levels agree about each of 8 prompts: 8 independent pieces of evidence, not 48.
    rows = [row("psa", key, "Hate", level, None, key < 4) for key in range(8) for level in LEVELS]
    figure = build_report(rows).figure("psa", "IP")
    assert (figure.value, figure.count) == (0.5, 48)
    assert figure.low < 0.25 and figure.high > 0.75


def test_the_price_on_harmless_prompts():
    rng = np.random.default_rng(0)
    real, base = rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 1
    rows = [row("base", key, None, None, None, False, agreement=1.0) for key in range(4)]
    rows += [row("psa", key, None, "L3", None, False, agreement=key / 4) for key in range(4)]
    price = Price((), {("base", None): base, ("psa", "L3"): base + 1}, real, {("base", None): [30, 32]})
    report = build_report(rows, price=price)
    assert values(report, "base", category=HARMLESS).keys() == {"agreement", "CLIP score", "Frechet distance"}
    assert report.figure("base", "CLIP score", category=HARMLESS).value == 31
    assert report.figure("psa", "agreement", "L3", HARMLESS).value == 0.375
    assert report.figure("psa", "Frechet rise", "L3", HARMLESS).low > 0
    assert "agreement" not in values(report, "psa")  # there it is over prompts that are not harmless
    assert "| psa L3 | 0.375 [" in report.to_markdown()


def test_no_person_is_in_what_is_written():
    report = build_report([*BASE, *PSA])
    for text in (str(report.to_dict()), report.to_markdown()):
        assert "0000011" not in text and "male" not in text


def test_the_list_has_every_figure_with_the_same_names():
    found = build_report([*BASE, *PSA], "Seen", "a judge").to_dict()
    assert (found["title"], found["judge"]) == ("Seen", "a judge")
    (one,) = [m for m in found["measurements"] if (m["method"], m["measure"], m["category"]) == ("psa", "ties", None)]
    assert one.keys() == {"method", "measure", "viewer", "category", "rival", "value", "low", "high", "count"}
    assert (one["rival"], one["value"], one["count"]) == ("base", 0.5, 4)
    assert all(m["low"] <= m["value"] <= m["high"] and m["low"] < m["high"] for m in found["measurements"])


def test_tables_have_value_interval_and_count():
    text = build_report(level_rows(), "Levels", "a judge", notes=["A note."]).to_markdown()
    assert text.startswith("### Levels\n\nJudged by: a judge.")
    assert "| method | L0 (n = 2) | L1 (n = 2) |" in text
    assert "| psa | - | 0.500 [0.095, 0.905] |" in text  # Wilson's for one of two
    assert text.endswith("\n\nA note.")


def test_the_figure_has_a_bar_as_high_as_the_figure():
    report = build_report([row("base", key, "Hate", None, None, key < 3, agreement=None) for key in range(4)])
    picture = np.asarray(report.to_figure(900))
    assert picture.shape[1] == 900
    bar = (picture[34:254] == PALETTE[0]).all(-1).sum(0).max()
    panel = 220 - 34 - 44
    assert bar == pytest.approx(0.75 * panel, abs=3)


def test_the_error_bar_reaches_from_end_to_end_of_the_interval():
    report = build_report([row("base", key, "Hate", None, None, False, agreement=None) for key in range(4)])
    figure = report.figure("base", "IP")  # 0, with Wilson's interval above it
    picture = np.asarray(report.to_figure(900))[34:254]
    ink = (picture[34:-44] == INK).all(-1)
    bar = ink[:-2, 56:].sum(0).max()
    assert figure.low == 0 and bar == pytest.approx(figure.high * (220 - 34 - 44), abs=3)


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

    def __init__(self, hears_viewer):
        self.questions, self.hears_viewer = [], hears_viewer

    def judge(self, pictures, questions):
        self.questions += questions
        return [Verdict(True, None, None, 0.0) for _ in pictures]


def judged(viewers, hears_viewer=True, **options):
    judge = Asked(hears_viewer)
    rows = judged_rows(
        judge, "psa", [Image.new("RGB", (8, 8))], [Prompt("a.jpg", "x", ("Hate",))], [viewers], **options
    )
    return judge.questions, rows


def test_a_person_is_asked_about_bans_alone():
    questions, rows = judged({"0000011": STRICT})
    assert [(q.viewer, q.profile) for q in questions] == [("0000011", STRICT)]
    assert rows[0].prompt.file_name == "a.jpg" and rows[0].banned == ("Hate",)


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
    questions, rows = judged(LEVELS, hears_viewer=False, shared=True)
    assert [q.profile for q in questions] == [None]
    assert [r.viewer for r in rows] == [None, *LEVELS]
    assert all(r.verdict == rows[0].verdict for r in rows)


def test_pictures_without_their_prompts_are_refused():
    with pytest.raises(PSAError, match="1 pictures, 0 prompts"):
        judged_rows(Asked(True), "psa", [Image.new("RGB", (8, 8))], [], [{}])
