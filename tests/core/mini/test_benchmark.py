"""The benchmark: perfect methods get perfect figures, what was seen is kept, and the page says what was measured."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from mini_drawings import Drawing

from psa_core import PSAError, UserProfile
from psa_core.evaluate import HARMLESS
from psa_core.mini import evaluate, parse_prompt
from psa_core.mini.ablations import Ablation, table
from psa_core.mini.benchmark import TIMED, TIMED_ROUNDS, Cell, Plan, Seen, Studio
from psa_core.mini.dataset import Sizes
from psa_core.mini.lineup import OURS, SECOND_BASE, Entry
from psa_core.mini.requests import cell
from psa_core.mini.results import results_page, targets
from psa_core.mini.scores import figures
from psa_core.mini.times_drawn import count_drawing
from psa_core.mini.world import WAYS
from psa_core.profile import CATEGORIES, LEVELS

PLAN = Plan("val", per_cell=6, levels=14, harmless=4, sizes=Sizes(seen_users=8, unseen_users=8, held_out_users=3))
ALL = ("unseen", "seen", "held out")


@pytest.fixture(autouse=True)
def few_real_scenes(monkeypatch):
    monkeypatch.setattr(evaluate, "_REAL", 8)
    monkeypatch.setattr(evaluate, "_RIVAL_HARMLESS", 2)


def methods():
    return [
        Entry(Drawing("base", lambda *_: False, knows_viewer=False), "b", groups=ALL, levels=True),
        Entry(Drawing("psa", lambda category, who: category in who.banned_categories), "p", 10, ALL, levels=True),
        Entry(Drawing("ban-all", lambda *_: True, knows_viewer=False), "a", 10),
    ]


def test_perfect_methods_get_perfect_figures():
    results = evaluate.evaluate(methods(), PLAN)
    for title in ("Unseen users", "Seen users", "Held-out ban sets"):
        for way in WAYS:
            kept = "symbol's rate" if way == "unasked" else "allowed kept"
            for method, expected in (("base", (1, 1)), ("psa", (0, 1))):
                found = tuple(results.figure(title, method, name, way).value for name in ("IP on banned", kept))
                assert found == expected
    unseen = "Unseen users"
    assert results.figure(unseen, "psa", "pass rate").value == 1
    assert results.figure(unseen, "base", "pass rate").value == 0.5
    assert results.figure(unseen, "ban-all", "allowed kept").value == 0
    assert results.figure(unseen, "psa", "pass rate's lead", "named", rival="base").value == 0.5
    assert results.figure(unseen, "psa", "replaced").value == 0
    over_base = [results.figure("Harmless prompts", name, evaluate.OVER_BASE, HARMLESS) for name in ("psa", "base")]
    assert over_base[0].value == 0 and over_base[1] is None
    # Two prompts of each category; L1 to L5 ban 2, 4, 4, 5 and 7 of the seven.
    levels = next(report for report in results.reports if report.title == "Levels")
    shown = [levels.figure("psa", "IP", level).value for level in LEVELS]
    assert shown == pytest.approx([1, 5 / 7, 3 / 7, 3 / 7, 2 / 7, 0])
    assert [levels.figure("psa", "IP for viewers", level).value for level in LEVELS] == [0] * 6
    found = {target.what: target for target in targets(results)}
    (step,) = (target for what, target in found.items() if "largest step up" in what)
    assert step.figure(results).value == 0 and step.viewer == "L3"  # L2 and L3 ban as many
    (lead,) = (target for what, target in found.items() if ", implied: pass rate's lead" in what)
    assert lead.rival == "ban-all" and lead.figure(results).value == 0.5
    unasked = [target for what, target in found.items() if "unasked" in what and target.method == "psa"]
    assert [target.figure(results).value for target in unasked] == pytest.approx([-0.2, 0.2])
    assert any("L1 to L2" in note and "came in" in note for note in levels.notes)


def test_another_base_model_is_the_measure_of_its_own_adapters_alone():
    unseen = "Unseen users"
    second = {"groups": ("unseen",), "harmless": False, "base": SECOND_BASE}
    others = [
        Entry(Drawing(SECOND_BASE, lambda *_: False, knows_viewer=False), "s", **second),
        Entry(Drawing(OURS[-1], lambda category, who: category in who.banned_categories), "t", 10, **second),
    ]
    results = evaluate.evaluate([*methods(), *others], PLAN)
    lead = partial(results.figure, unseen, measure="pass rate's lead", category="named")
    assert lead(method=OURS[-1], rival=SECOND_BASE).value == 0.5
    assert lead(method=OURS[-1], rival="base") is None and lead(method="psa", rival=SECOND_BASE) is None
    page = results_page(results, made_by="Made.", measured={}, picture="x", drawn="Drawn.")
    assert f"| {OURS[-1]} over {SECOND_BASE} | 0.500" in page


def test_a_lead_over_all_ways_is_of_the_same_requests():
    base, psa, ban_all = methods()
    studio = Studio(PLAN)
    lead = evaluate.pass_rate_lead(studio, psa, base)
    assert lead.value == 0.5 and lead.count == 8 * PLAN.per_cell
    assert evaluate.pass_rate_lead(studio, psa, ban_all).value == 3 / 8  # unasked, nobody fails who shows nothing
    row = table([Ablation("psa", evaluate.evaluate([base, psa], PLAN), lead)]).splitlines()[-1]
    assert str(lead) in row and [cell[:6] for cell in row.split(" | ")[1 : 1 + len(WAYS)]] == ["0.000 "] * len(WAYS)


def test_the_same_requests_for_every_method_and_every_way_in_its_own_split():
    for found, requests in PLAN.cells(("unseen",)).items():
        assert len(requests) == PLAN.per_cell
        assert {parse_prompt(request.prompt.caption).way for request in requests} == {found.way}
        assert {request.is_banned for request in requests} == {found.banned}
        assert len({request.noise for request in requests}) == len(requests)
    again = PLAN.cells(("unseen",))
    assert again == PLAN.cells(("unseen",))
    test = replace(PLAN, part="test").cells(("unseen",))
    captions = [{r.prompt.caption for part in cells.values() for r in part} for cells in (again, test)]
    assert captions[0].isdisjoint(captions[1])


def test_what_was_seen_is_not_drawn_again(tmp_path):
    entries = methods()
    first = evaluate.evaluate(entries, PLAN, tmp_path)
    drawn = [entry.method.drawn for entry in entries]
    second = evaluate.evaluate(entries, PLAN, tmp_path)
    assert [entry.method.drawn for entry in entries] == drawn
    assert [report.to_dict() for report in first.reports] == [report.to_dict() for report in second.reports]
    changed = [replace(entry, identity="other") if entry.name == "psa" else entry for entry in entries]
    evaluate.evaluate(changed, PLAN, tmp_path)
    assert [entry.method.drawn > before for entry, before in zip(entries, drawn, strict=True)] == [False, True, False]


def test_all_are_timed_in_turn_and_anew_where_one_has_changed(tmp_path):
    entries = methods()
    results = evaluate.evaluate(entries, PLAN, tmp_path)
    drawn = [entry.method.drawn for entry in entries]
    each = TIMED * (1 + TIMED_ROUNDS)
    for identity, rounds in (("p", 1), ("p", 1), ("other", 2)):
        changed = [replace(entry, identity=identity) if entry.name == "psa" else entry for entry in entries]
        found = evaluate.timed(replace(results, entries=tuple(changed)), tmp_path)
        assert min(found.seconds[name] for name in ("base", "psa", "ban-all")) > 0
        assert [entry.method.drawn - before for entry, before in zip(entries, drawn, strict=True)] == [
            rounds * each
        ] * 3


def test_a_picture_that_shows_another_symbol_is_counted_as_replaced():
    user = UserProfile(30, "male", banned_categories=("Hate",))
    requests = [r for r in cell("named", True, [user], 20, "val", 0) if r.prompt.categories == ("Hate",)]
    cells = {Cell("unseen", "named", True): (requests, [Seen("Violence", "large", True)] * len(requests))}
    found = {m.measure: m.figure.value for m in figures("x", cells, "unseen") if m.category == "named"}
    assert found["replaced"] == 1 and found["IP on banned"] == 0 and found["pass rate"] == 1


def test_unasked_content_may_be_taken_away_from_anybody():
    user = UserProfile(30, "male", banned_categories=("Hate",))
    requests = cell("unasked", False, [user], 5, "val", 0)
    cells = {Cell("unseen", "unasked", False): (requests, [Seen(None, None, True)] * 5)}
    found = {m.measure: m.figure.value for m in figures("x", cells, "unseen") if m.category == "unasked"}
    assert (found["pass rate"], found["symbol's rate"]) == (1, 0)


def test_users_of_one_kind_fill_no_cell_of_the_other():
    strict = UserProfile(30, "male", banned_categories=CATEGORIES)
    with pytest.raises(PSAError, match="None of these users allows anything"):
        cell("named", False, [strict], 2, "val", 0)


def test_rivals_may_draw_fewer_and_are_measured_beside_the_same_pictures():
    plan = replace(PLAN, rivals=4)
    results = evaluate.evaluate(methods(), plan)
    assert evaluate.how_many(methods(), plan) < evaluate.how_many(methods(), PLAN)
    for found, requests in plan.cells(("unseen",)).items():
        assert requests == plan.cells(ALL)[found][:4] and len(plan.cells(ALL)[found]) == 6
    assert {len(requests) for found, requests in plan.cells(ALL).items() if found.group == "seen"} == {4}
    counts = [results.figure("Unseen users", name, "IP on banned", "named").count for name in ("psa", "ban-all")]
    assert counts == [6, 4]
    prices = [results.figure("Harmless prompts", name, "IP", HARMLESS).count for name in ("psa", "ban-all")]
    assert prices == [4, 2]
    assert results.figure("Unseen users", "psa", "pass rate's lead", "named", rival="ban-all").count == 8


@pytest.mark.parametrize("changes", [{"part": "train"}, {"per_cell": 1}, {"rivals": 1}, {"rivals": 201}])
def test_plans_that_measure_nothing_are_refused(changes):
    with pytest.raises(PSAError, match=r"no split|at least 2|at most as many"):
        Plan(**changes)


def test_the_page_has_a_row_for_each_method_and_an_answer_for_each_target(tmp_path):
    results = evaluate.evaluate(methods(), PLAN, tmp_path)
    page = results_page(results, made_by="Made.", measured={"psa": "ours"}, picture="x", drawn="Drawn.")
    glance = page.split("## At a glance")[1].split("## ")[0]
    assert [line.split(" | ")[0].strip("| ") for line in glance.splitlines() if line.startswith("| ")][1:] == [
        "base",
        "psa",
        "ban-all",
    ]
    assert "$" not in page
    for target in targets(results):
        assert target.what in page
    held = next(target for target in targets(results) if target.what.endswith("unseen users: allowed kept"))
    assert held.answer(replace(held.figure(results), low=0.98, high=1.0)) == "held"
    assert held.answer(replace(held.figure(results), low=0.9, high=0.95)) == "**missed**"
    assert held.answer(replace(held.figure(results), low=0.9, high=0.99)) == "open"


def test_a_price_that_was_not_measured_is_not_said_to_be_none():
    again = Entry(Drawing("again", lambda *_: True, knows_viewer=False), "g", harmless=False)
    words = Entry(Drawing("words", lambda *_: True, knows_viewer=False), "w", harmless=False, is_free=True)
    results = evaluate.evaluate([*methods(), again, words], PLAN)
    page = results_page(results, made_by="Made.", measured={}, picture="x", drawn="Drawn.")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.count(" | ") == 10]
    assert {row[0]: row[7] for row in rows if row[0] in ("again", "words")} == {"again": "-", "words": "0"}


def test_a_test_is_one_the_first_time_only(tmp_path):
    output, plan = tmp_path / "results.json", replace(PLAN, part="test")
    methods = {"base": "0a", "psa": "1b"}
    drawings, sentence = count_drawing(output, plan, methods)
    assert "drawn once, by a seed" in sentence
    output.write_text(json.dumps({"drawings": drawings}))
    assert "no more" in count_drawing(output, plan, {**methods, "psa": "2c"})[1]
    assert "no more" in count_drawing(output, plan, {"psa": "1b"})[1]
    assert "before" not in count_drawing(output, PLAN, methods)[1]
    output.write_text("[" * 50_000)
    assert count_drawing(output, plan, methods) == (drawings, sentence)


def test_a_method_that_is_measured_later_makes_no_second_test_and_is_named(tmp_path):
    output, plan = tmp_path / "results.json", replace(PLAN, part="test")
    for methods, told in (
        ({"psa": "1b"}, None),
        ({"psa": "1b"}, "chosen with."),
        ({"psa": "1b", "SLD": "3"}, ": `SLD`."),
    ):
        drawings, sentence = count_drawing(output, plan, methods)
        assert "drawn once" in sentence and (told is None or sentence.endswith(told))
        output.write_text(json.dumps({"drawings": drawings}))
    del drawings[0]["methods"]  # a page of an earlier version, which did not note them
    output.write_text(json.dumps({"drawings": drawings}))
    assert "no more" in count_drawing(output, plan, methods)[1]


def test_what_was_seen_of_other_requests_is_not_taken_for_these(tmp_path):
    """A cell of the same name and size, after the prompts have changed."""
    studio, requests = Studio(PLAN, tmp_path), PLAN.harmless_cell()
    method = Drawing("base", lambda *_: False)
    for asked, drawn in ((requests, 4), (requests, 4), (requests[::-1], 8)):
        studio.look(method, "b", "harmless", asked)
        assert method.drawn == drawn


def test_a_studio_without_a_folder_keeps_nothing():
    studio, method = Studio(PLAN), methods()[0].method
    requests = PLAN.harmless_cell()
    assert studio.look(method, "b", "harmless", requests) == studio.look(method, "b", "harmless", requests)
    assert method.drawn == 2 * len(requests)
    assert isinstance(method.draw(requests[:1]), torch.Tensor)


def test_what_was_seen_and_is_damaged_is_seen_again(tmp_path):
    """A bit flipped in any byte, cut off anywhere, or another entry there; what the first version kept is read."""
    studio = Studio(PLAN, tmp_path)
    first, second = {"seen": [{"shown": "Hate"}], "n": 15}, {"seen": [], "n": 2}
    assert studio.keep(["first"], lambda: first) == studio.keep(["first"], lambda: second) == first
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert studio.keep(["first"], lambda: second) == second
        path.write_bytes(content[:place])
        assert studio.keep(["first"], lambda: second) == second
    studio.keep(["second"], lambda: first)
    (other,) = set(tmp_path.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert studio.keep(["first"], lambda: second) == second
    path.write_text(json.dumps(first))
    assert studio.keep(["first"], lambda: second) == first
