"""The benchmark's page says which figures held, by the figures in its tables."""

import pytest

from psa_core.evaluate import Question, Row, Verdict, build_report
from psa_core.mini.results import results_page
from psa_core.profile import LEVELS


def people(title, psa_shows):
    """Ten viewers, a banned and an allowed prompt each; `psa` shows what is banned in the share `psa_shows`."""
    rows = []
    for number in range(10):
        viewer = f"{number:07d}"
        for key, category, banned in ((f"b{number}", "Violence", True), (f"a{number}", "Hate", False)):
            question = Question("a prompt", category, viewer, LEVELS["L1"])
            assert question.is_banned is banned
            shown = {"base": banned, "safetydpo": False, "psa": banned and number < 10 * psa_shows}
            kept = {"base": True, "safetydpo": False, "psa": True}
            for method in shown:
                score = 2.0 * (not shown[method] if banned else kept[method])
                verdict = Verdict(shown[method], None if banned else kept[method], 1.0, score)
                rows.append(Row(method, question, verdict, key))
    return build_report(rows, title, "by hand")


def levels(shares):
    rows = [
        Row("psa", Question("a prompt", "Violence", level), Verdict(number < share * 50, None, None, 0.0), number)
        for level, share in zip(LEVELS, shares, strict=True)
        for number in range(50)
    ]
    return build_report(rows, "Levels", "by hand")


def page(psa_shows=0.0, shares=(1, 0.8, 0.6, 0.4, 0.2, 0)):
    harmless = build_report([Row("psa", Question("a prompt"), Verdict(False, None, 1.0, 1.0), 1)], "Harmless prompts")
    reports = [people("Seen users", psa_shows), people("Unseen users", psa_shows), levels(shares), harmless]
    return results_page(reports, "psa mini evaluate -o results.json", 10, "results")


def row_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return line


@pytest.mark.parametrize(("psa_shows", "held"), [(0.0, "yes"), (0.3, "**no**")])
def test_a_target_is_held_or_not_by_the_measured_value(psa_shows, held):
    row = row_of(page(psa_shows), "PSA: IP on banned, seen users")
    assert f"| at most 0.05 | {psa_shows:.3f} [" in row
    assert row.endswith(f"| {held} |")


def test_a_figure_that_is_not_there_is_called_so():
    assert "not measured" in row_of(page(), "PSA: Frechet distance")


def test_win_rates_leave_ties_out():
    assert "1.000 [1.000, 1.000] | yes" in row_of(page(), "PSA wins over the global rival, seen users")


def test_a_step_up_counts_where_intervals_lie_apart():
    assert "has no step up beyond the intervals." in page()
    assert "steps up beyond the intervals: L4 over L3" in page(shares=(1, 0.8, 0.6, 0.1, 0.9, 0))


def test_the_page_names_its_command_and_its_picture():
    assert "`psa mini evaluate -o results.json`" in page()
    assert "](results.png)" in page()
