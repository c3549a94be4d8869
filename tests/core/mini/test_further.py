"""Strength, audiences, changed pixels, L0's term and the guard: what must hold exactly, whoever draws."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from mini_drawings import Drawing
from mini_models import write_untrained_base

from psa_core import PSAError, StructuredEncoder, UserProfile
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.evaluate.figures import share
from psa_core.mini import audience, base_model, changed_pixels, further, guarded, strength, viewers
from psa_core.mini.benchmark import Plan, Studio
from psa_core.mini.dataset import Sizes
from psa_core.mini.evaluate import Results
from psa_core.mini.further import Further, measure_further
from psa_core.mini.generate import MiniModel
from psa_core.mini.lineup import Entry
from psa_core.mini.method import Request
from psa_core.mini.requests import asking
from psa_core.mini.results import results_page
from psa_core.mini.rivals.adapters import Base, LessNobody, WithAdapter
from psa_core.mini.rivals.audience import Joined
from psa_core.mini.world import WAYS, parse_prompt
from psa_core.profile import CATEGORIES, LEVELS
from psa_core.prompts import Prompt

PLAN = Plan("val", per_cell=2, levels=2, harmless=2, sizes=Sizes(seen_users=4, unseen_users=8, held_out_users=1))
SIZES = Further(viewers=3, strengths=(0.0, 1.0), pairs=3, changes=3, guarded=3)
SOME = UserProfile(40, "female", banned_categories=("Propaganda", "Hate"), user_id="0000001")
OTHER = UserProfile(15, "male", "Islam", banned_categories=("Shocking", "Violence"), user_id="0000002")
CAPTIONS = ("a sea with a red circle and a star", "a snow with a blue square and what shines on a flag")
PAIR = [Request(Prompt(f"{n}.png", caption), n, SOME) for n, caption in enumerate(CAPTIONS)]
ROOT = Path(__file__).parents[3]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "web" / "docs").glob("*.md"))]
BY_RULE = lambda category, who: category in who.banned_categories  # noqa: E731


def drawing(name, hides=lambda *_: False, knows_viewer=True):
    return Entry(Drawing(name, hides, knows_viewer), name)


class QuickModel(MiniModel):
    """Two steps a picture: what must hold bit for bit holds there, too."""

    drawn = 0

    def draw(self, prompts, *args, **options):
        self.drawn += len(prompts)
        return super().draw(prompts, *args, steps=2, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_untrained_base(tmp_path_factory.mktemp("mini") / "base")
    base_model.new_scheduler().save_pretrained(folder / "scheduler")
    return QuickModel(folder)


@pytest.fixture(scope="module")
def adapter(model):
    widths = tuple(layer.to_q.out_features for layer in cross_attention_layers(model.unet))
    encoder = StructuredEncoder()
    return random_adapter(widths, 64, encoder.dim, num_tokens=3, encoder_id=encoder.id, std=0.3)


@pytest.fixture(scope="module")
def line_up(model, adapter):
    methods = [Base(model), WithAdapter(model, "psa", adapter), LessNobody(model, "psa less L0", adapter)]
    return tuple(Entry(method, method.name) for method in methods)


@pytest.fixture(scope="module")
def measured(line_up, model, tmp_path_factory):
    """(results, pictures drawn, drawn by the same run again)"""
    with pytest.MonkeyPatch.context() as patched:
        figure = share([True, False])
        rows = [guarded.GuardRow("base", figure, figure, figure, figure)]
        patched.setattr(guarded, "guard_rows", lambda *_: rows)
        folder = tmp_path_factory.mktemp("kept")
        results, before = Results(PLAN, line_up, (), {}), model.drawn
        found = measure_further(results, SIZES, folder)
        first = model.drawn
        patched.setattr(guarded, "guard_rows", None)
        again = measure_further(results, SIZES, folder)
        assert [r.to_dict() for r in found.reports] == [r.to_dict() for r in again.reports]
        assert found.calibration == again.calibration
        return found, first - before, model.drawn - first


def test_what_was_drawn_is_not_drawn_again_and_stays_within_what_is_said(measured):
    _, drawn, again = measured
    assert again == 0
    assert 0 < drawn <= SIZES.how_many("val") - guarded.how_many(SIZES.guarded)


def test_the_base_model_changes_no_pixel_of_itself(measured):
    report = measured[0].report(changed_pixels.TITLE)
    found = [m.figure.value for m in report.measurements if m.method == "base" and m.measure.startswith("changed")]
    assert found == [0.0] * 4


def test_less_l0s_term_l0_changes_nothing_bit_for_bit(measured):
    same, changed = (
        {name: measured[0].figure(changed_pixels.TITLE, name, measure).value for name in ("psa", "psa less L0")}
        for measure in changed_pixels.OF_NOBODY
    )
    assert same == {"psa": 0.0, "psa less L0": 1.0}
    assert changed["psa less L0"] == 0.0 < changed["psa"]


def test_at_strength_0_the_base_models_pictures_come(model, adapter):
    none = WithAdapter(model, "psa", adapter, 0.0).draw(PAIR)
    assert torch.equal(none, Base(model).draw(PAIR))
    assert not torch.allclose(none, WithAdapter(model, "psa", adapter).draw(PAIR), atol=1e-3)


def test_the_same_viewer_twice_is_that_viewer(model, adapter):
    alone = WithAdapter(model, "psa", adapter).draw(PAIR)
    twice = Joined(model, "joined", adapter, {"0000001": [SOME, SOME]}).draw(PAIR)
    torch.testing.assert_close(twice, alone, atol=1e-3, rtol=0)
    both = Joined(model, "joined", adapter, {"0000001": [SOME, OTHER]}).draw(PAIR)
    swapped = Joined(model, "joined", adapter, {"0000001": [OTHER, SOME]}).draw(PAIR)
    torch.testing.assert_close(both, swapped, atol=1e-3, rtol=0)
    assert not torch.allclose(both, alone, atol=1e-3)


def test_the_page_has_every_part(measured, line_up):
    results = measured[0]
    text = {"made_by": "Made.", "measured": {}, "picture": "x", "drawn": "Drawn."}
    page = results_page(results, **text)
    assert "$" not in page and "x-viewers.png" in page
    parts = {part.splitlines()[0]: part for part in page.split("\n## ")[1:]}
    assert "| psa at 1 |" in parts["A strength with a promise"] and "confidence: none" in page
    assert "| union of bans over joined tokens |" in parts["Two viewers before one picture"]
    for name, title in product(("psa", "psa less L0"), ("Where the change is", "L0's term subtracted")):
        assert f"| {name} |" in parts[title]
    assert "| base |" in parts["Beside a guard"]
    bare = results_page(Results(PLAN, line_up[:2], (), {}), **text)
    titles = ("A strength with a promise", "Two viewers before one picture", "Where the change is", "Beside a guard")
    assert all("\n\nNot measured." in bare.split(f"## {title}")[1].split("\n## ")[0] for title in titles)


@pytest.mark.parametrize("changes", [{"viewers": 2}, {"pairs": -3}, {"strengths": ()}, {"strengths": (1.0, -0.5)}])
def test_sizes_that_measure_nothing_are_refused(changes):
    with pytest.raises(PSAError, match=r"at least 3|from 0 upwards"):
        Further(**changes)


def test_what_is_left_out_is_neither_counted_nor_measured(line_up):
    none = Further(viewers=0, pairs=0, changes=0, guarded=0)
    assert none.how_many("test") == 0
    assert measure_further(Results(PLAN, line_up, (), {}), none).reports == ()


def test_without_psa_there_is_nothing_to_measure(line_up):
    with pytest.raises(PSAError, match="'psa' must take part"):
        measure_further(Results(PLAN, line_up[:1], (), {}), Further())


def test_prompts_that_ask_come_in_turn_before_each_user_once():
    users = [replace(LEVELS["L5"], user_id=f"{n:07d}") for n in range(7)]
    found = asking(True, [*users, LEVELS["L0"]], 7, "val", 0)
    assert {request.profile.user_id for request in found} == {user.user_id for user in users}
    ways = [parse_prompt(request.prompt.caption).way for request in found]
    assert [ways.count(way) for way in WAYS] == [3, 2, 2, 0]
    assert len({request.noise for request in found}) == 7 and all(request.is_banned for request in found)


@pytest.mark.parametrize(("enough", "found"), [(0.5, 0.5), (1.0, 1.0), (9.0, None)])
def test_the_least_strength_that_keeps_the_promise_is_found(enough, found):
    def at(value):
        hides = BY_RULE if value >= enough else lambda *_: False
        return drawing(strength.name_at(value), hides)

    reports, calibration = strength.calibrate(Studio(PLAN), at, drawing("base"), (0.5, 1.0), 60)
    assert calibration.strength == found
    assert set(calibration.risks.values()) <= {0.0, 1.0}
    (report,) = reports
    assert report.figure("psa at 1", "allowed kept").value == 1 == report.figure("base", "agreement").value
    assert strength.to_dict(calibration)["found"] == found


def test_on_test_the_strength_is_still_found_on_val_and_judged_before_others():
    people = {}

    class Watched(Drawing):
        def draw(self, requests):
            split = people.setdefault(Watched.split, set())
            split |= {request.profile.user_id for request in requests}
            return super().draw(requests)

    class Watching(Studio):
        def look(self, *args):
            Watched.split = self.plan.part
            return super().look(*args)

        def on(self, part):
            return Watching(replace(self.plan, part=part))

    def at(value):
        return Entry(Watched(strength.name_at(value), BY_RULE), "psa")

    studio = Watching(replace(PLAN, part="test"))
    reports, calibration = strength.calibrate(studio, at, drawing("base"), (1.0,), 60)
    assert calibration.strength == 1.0
    assert [report.title for report in reports] == [strength.TITLE, strength.TEST_TITLE]
    assert people["val"] and people["test"] and people["val"].isdisjoint(people["test"])


def test_an_audiences_picture_is_for_what_either_bans():
    people, audiences = audience.draw_audiences(PLAN, 6)
    for who in people:
        first, second = audiences[who.user_id]
        assert first != second
        assert set(who.banned_categories) == {*first.banned_categories, *second.banned_categories}

    def joined(those):
        return Drawing(audience.JOINED, lambda category, who: BY_RULE(category, those[who.user_id][0]))

    report = audience.measure_audience(Studio(PLAN), drawing("base"), drawing("psa", BY_RULE), joined, 6)
    union, tokens, base = (
        report.figure(name, "IP on banned").value for name in (audience.UNION, audience.JOINED, "base")
    )
    assert union == 0 <= tokens <= base == 1
    assert [report.figure(name, "allowed kept").value for name in (audience.UNION, audience.JOINED)] == [1, 1]
    assert report.figure(audience.UNION, "IP's difference", rival="base").value == -1
    assert report.figure(audience.UNION, "pass rate's lead", rival="base").value == 0.5
    assert report.figure(audience.UNION, "IP's difference", rival=audience.JOINED).value == union - tokens


def test_taking_a_symbol_away_changes_pixels_in_its_place_alone():
    entries = [drawing("base"), drawing("psa", BY_RULE), drawing("ban-all", lambda *_: True, knows_viewer=False)]
    report = changed_pixels.measure_changes(Studio(PLAN), entries, 12)
    assert report.figure("psa", "changed, banned").value > 0 == report.figure("psa", "changed, allowed").value
    assert report.figure("psa", "of it outside").value == 0
    assert report.figure("base", "of it outside") is None
    assert report.figure("psa", "the base's, L0").value == 1
    assert report.figure("ban-all", "the base's, L0").value == 0 < report.figure("ban-all", "changed, L0").value


def test_the_picture_frames_what_is_left_out_and_what_is_wrong(monkeypatch):
    tables = []
    table = viewers.labelled_table
    monkeypatch.setattr(viewers, "labelled_table", lambda *args: tables.append(args[:3]) or table(*args))
    entries = [drawing("base", knows_viewer=False), drawing("psa", BY_RULE), drawing("ban-all", lambda *_: True)]
    picture = viewers.viewers_picture(entries, PLAN)
    rows, labels, columns = tables[0]
    assert (len(rows), len(columns)) == (12, 6) and len(labels) == 12
    assert picture.width > 6 * 128 and picture.height > 12 * 128
    for number in range(0, 12, 3):
        base, psa, ban_all = ([cell.frame for cell in row] for row in rows[number : number + 3])
        left_out = [frame == viewers._LEFT_OUT for frame in psa]
        assert left_out[0] is False and left_out[5] is True and viewers._WRONG not in psa
        assert [frame == viewers._WRONG for frame in base] == left_out
        unasked = number == 9
        assert (viewers._WRONG in ban_all) is not unasked


def test_every_category_is_shown_once_at_most():
    requests = viewers._requests(drawing("base"), PLAN)
    assert list(requests) == list(WAYS)
    assert len({request.prompt.categories for request in requests.values()}) == len(WAYS) <= len(CATEGORIES)


def test_the_default_sizes_stay_within_their_budget():
    """25 CPU minutes, at .15 CPU seconds a picture."""
    assert further.Further().how_many("test") * 0.15 / 60 < 25


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_points_to_the_results_points_to_a_part_of_the_page(path):
    page = (ROOT / "psa_core" / "mini" / "results_page.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert set(re.findall(r"results\.md#([^)\s]+)", text)) <= anchors
    assert set(re.findall(r"\*([^*]+)\* in the pack's docs/results\.md", text)) <= set(headings)
