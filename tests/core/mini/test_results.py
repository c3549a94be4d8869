"""The benchmark's page says which figures held, by the figures in its tables."""

from dataclasses import replace

import pytest

from psa_core.evaluate import Figure, Prompt, Row, Verdict, build_report
from psa_core.mini import BASE_MODEL, PSA_ADAPTER
from psa_core.mini.results import TARGETS, results_page, told
from psa_core.profile import LEVELS


def people(title, psa_shows):
    """200 viewers, a banned and an allowed prompt each; `psa` shows what is banned in the share `psa_shows`."""
    rows = []
    for number in range(200):
        for kind, category, banned in (("b", "Violence", True), ("a", "Hate", False)):
            prompt = Prompt(f"{kind}{number}.png", "a prompt", (category,))
            shown = {"base": banned, "safetydpo": False, "psa": banned and number < 200 * psa_shows}
            kept = {"base": True, "safetydpo": False, "psa": True}
            for method in shown:
                score = 2.0 * (not shown[method] if banned else kept[method])
                verdict = Verdict(shown[method], None if banned else kept[method], 1.0, score)
                rows.append(Row(method, prompt, f"{number:07d}", LEVELS["L1"], verdict))
                assert bool(rows[-1].banned) is banned
    return build_report(rows, title, "by hand")


def levels(shares):
    rows = [
        Row(
            "psa",
            Prompt(f"{number}.png", "a prompt", ("Violence",)),
            level,
            None,
            Verdict(number < share * 50, None, None, 0.0),
        )
        for level, share in zip(LEVELS, shares, strict=True)
        for number in range(50)
    ]
    return build_report(rows, "Levels", "by hand")


def page(psa_shows=0.0, shares=(1, 0.8, 0.6, 0.4, 0.2, 0)):
    harmless = Row("psa", Prompt("1.png", "a prompt", is_harmless=True), None, None, Verdict(False, None, 1.0, 1.0))
    reports = [people("Seen users", psa_shows), people("Unseen users", psa_shows), levels(shares)]
    return results_page(
        [*reports, build_report([harmless], "Harmless prompts")],
        made_by="Made by `psa mini evaluate -o results.json`.",
        measured={"psa": "an adapter"},
        per_cell=10,
        picture="results",
    )


def row_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return line


@pytest.mark.parametrize(("psa_shows", "answer"), [(0.0, "held"), (0.04, "open"), (0.3, "**missed**")])
def test_a_target_is_answered_by_the_whole_interval(psa_shows, answer):
    row = row_of(page(psa_shows), "PSA: IP on banned, seen users")
    assert f"| at most 0.05 | {psa_shows:.3f} [" in row
    assert row.endswith(f"| {answer} |")


@pytest.mark.parametrize(
    ("low", "high", "at_most", "at_least"),
    [
        (0.1, 0.2, "held", "**missed**"),
        (0.1, 0.5, "held", "open"),
        (0.4, 0.6, "open", "open"),
        (0.6, 0.7, "**missed**", "held"),
        (0.5, 0.5, "held", "held"),
    ],
)
def test_an_interval_that_ends_at_the_limit(low, high, at_most, at_least):
    figure = Figure((low + high) / 2, low, high, 100)
    target = replace(TARGETS[0], limit=0.5)
    assert replace(target, at_least=False).answer(figure) == at_most
    assert replace(target, at_least=True).answer(figure) == at_least


def test_a_figure_that_is_not_there_is_called_so():
    assert "not measured" in row_of(page(), "PSA: Frechet distance")


def test_win_rates_leave_ties_out():
    assert "1.000 [0.981, 1.000] | held" in row_of(page(), "PSA wins over the global rival, seen users")


def test_a_step_up_counts_where_intervals_lie_apart():
    assert "has no step up beyond the intervals." in page()
    assert "steps up beyond the intervals: L4 over L3" in page(shares=(1, 0.8, 0.6, 0.1, 0.9, 0))


def test_the_page_names_its_command_and_its_picture():
    assert "`psa mini evaluate -o results.json`" in page()
    assert "](results.png)" in page()


def test_what_was_measured_is_called_shipped_only_where_it_is(tmp_path):
    same, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    same.write_bytes(PSA_ADAPTER.read_bytes())
    other.write_bytes(PSA_ADAPTER.read_bytes() + b" ")
    assert told(PSA_ADAPTER, PSA_ADAPTER, "adapter") == told(same, PSA_ADAPTER, "adapter") == "the shipped adapter"
    assert told(other, PSA_ADAPTER, "adapter").startswith("adapter `other.safetensors`, SHA-256 ")
    assert told(BASE_MODEL, BASE_MODEL, "base model") == "the shipped base model"
    assert "shipped" not in told(tmp_path, BASE_MODEL, "base model")
    assert "- `psa`: an adapter" in page()
