"""What judged pictures say of each method: figures with intervals, as tables, JSON and a picture."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from ..errors import PSAError
from ..judges.judging import Judge, Question, Verdict
from ..plots.bars import Panel, draw_panels
from ..profile import CATEGORIES, LEVELS, UserProfile
from ..prompts import Prompt
from .figures import Figure, WinRate, frechet_figures, share, win_rate

BASE = "base"
"""The usual name of the method that is none: the model as it is."""

Table = dict[str, dict[str, Figure]]


@dataclass(frozen=True)
class Row:
    """One picture, judged: what `method` drew.

    `key` is the same for every method's picture of one prompt and noise, such as the prompt's file name. A question
    without a profile is one of what is inappropriate at all: the mean of those rows is IP as the paper
    has it. A question with one is of this viewer's bans.
    """

    method: str
    question: Question
    verdict: Verdict
    key: Hashable


@dataclass(frozen=True)
class Report:
    """The figures of some methods on the same prompts. Tables without a figure are empty.

    Attributes:
        measures: method -> measure: `IP` (inappropriate at all, whoever looks), and for viewers `IP on banned`
            (what the viewer bans is shown, over prompts that ask for it), `allowed kept`, `pass rate` (nothing banned
            is shown, and what is allowed was not taken away), `agreement` with the prompt apart from that.
        levels: method -> level -> IP. A method that knows no viewer has the same one at each.
        categories: method -> category -> IP.
        levels_by_category: method that knows levels -> category -> level -> IP.
        banned_by_category: method -> category -> IP on banned.
        wins: "one over other" -> how often the one serves the same viewer better for the same prompt.
        harmless: method, and level where a method has levels -> the price on prompts that ask for none of the
            seven categories: `agreement`, `CLIP score`, `Frechet distance`, and `Frechet rise` over the base method.
    """

    title: str
    judge: str
    measures: Table
    levels: Table
    categories: Table
    levels_by_category: dict[str, Table]
    banned_by_category: Table
    wins: dict[str, WinRate]
    harmless: Table
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names of methods, levels and categories; nothing of any one viewer."""
        wins = {name: {**asdict(found), "tie_share": found.tie_share} for name, found in self.wins.items()}
        return {**asdict(self), "notes": list(self.notes), "wins": wins}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def to_markdown(self) -> str:
        """Tables, each figure as `value [low, high]`."""
        parts = [f"### {self.title}", f"Judged by: {self.judge}. In brackets, 95 % bootstrap intervals."]
        parts += [_table("method", self.measures)]
        if self.wins:
            parts += ["Win rates: wins over wins plus losses.", _win_table(self.wins)]
        for caption, table in (
            ("IP by level.", self.levels),
            ("IP by category.", self.categories),
            *((f"IP by level and category, {name}.", table) for name, table in self.levels_by_category.items()),
            ("IP on banned, by category.", self.banned_by_category),
            ("Harmless prompts: those that ask for none of the seven categories.", self.harmless),
        ):
            if table:
                parts += [caption, _table("category" if "and category" in caption else "method", table)]
        return "\n\n".join([*parts, *self.notes])

    def to_figure(self, width: int = 900) -> Image.Image:
        """The figures with their intervals, as an RGB picture as high as it needs to be.

        Raises:
            PSAError: for a width under 500 pixels.
        """
        return to_figure([self], width)

    @property
    def panels(self) -> list[Panel]:
        wins = {name: {"": found.rate} for name, found in self.wins.items() if found.rate}
        counts = {name: f"{w.wins} won, {w.ties} tied, {w.losses} lost" for name, w in self.wins.items()}
        price = _columns(self.harmless)
        panels = [
            Panel("measures", _columns(self.measures)),
            Panel("win rate, without ties", wins, under=counts),
            Panel("IP by level", _columns(self.levels), lines=True),
            Panel("IP by category", _columns(self.categories))
            if self.categories
            else Panel("IP on banned, by category", _columns(self.banned_by_category)),
            *(
                Panel(f"{name}, harmless prompts", {drawn: {"": figure} for drawn, figure in price[name].items()})
                for name in ("agreement", "Frechet rise")
                if name in price
            ),
        ]
        return [replace(panel, title=f"{self.title}: {panel.title}") for panel in panels if panel.groups]


def to_figure(reports: Sequence[Report], width: int = 900) -> Image.Image:
    """Several reports' figures under each other, a method in the same colour in all of them.

    Raises:
        PSAError: for a width under 500 pixels.
    """
    return draw_panels([panel for report in reports for panel in report.panels], width)


def judged_rows(
    judge: Judge,
    method: str,
    pictures: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    viewers: Sequence[Mapping[str, UserProfile]],
    personal: bool = True,
    shared: bool = False,
) -> list[Row]:
    """Have pictures judged, each for its viewers.

    For each viewer's profile there is a row on what this viewer bans. Where nobody in particular looks, or
    viewers are levels, one more is on what is inappropriate at all.

    Args:
        prompts: one a picture.
        viewers: one mapping a picture, of those who look at it, by level's name or User_ID.
        personal: whether the judge hears who looks; one that does not is asked about each picture once.
        shared: whether the method knows no viewer, so that all its viewers look at the same picture.

    Raises:
        PSAError: where there are not as many prompts and viewers as pictures, or as the judge does.
    """
    if not len(pictures) == len(prompts) == len(viewers):
        raise PSAError(
            f"Each picture needs its prompt and its viewers: there are {len(pictures)} pictures, {len(prompts)} "
            f"prompts and {len(viewers)} sets of viewers."
        )
    asked: list[tuple[int, Question]] = []
    answered_alike: list[tuple[int, Question]] = []
    for number, (prompt, seen_by) in enumerate(zip(prompts, viewers, strict=True)):
        only = next(iter(seen_by)) if len(seen_by) == 1 else None
        if shared and only in LEVELS:
            only = None
        if not personal or not seen_by.keys() - LEVELS.keys():
            asked.append((number, Question(prompt.caption, prompt.categories, only)))
        for viewer, profile in seen_by.items():
            question = Question(prompt.caption, prompt.categories, viewer, profile)
            (asked if personal else answered_alike).append((number, question))
    verdicts = judge.judge([pictures[number] for number, _ in asked], [question for _, question in asked])
    rows = [
        Row(method, question, verdict, prompts[number].file_name)
        for (number, question), verdict in zip(asked, verdicts, strict=True)
    ]
    return rows + [replace(rows[number], question=question) for number, question in answered_alike]


def label(method: str, viewer: str | None) -> str:
    """How the table of harmless prompts calls a method's pictures for a viewer: its name, and the level's if any."""
    return f"{method} {viewer}" if viewer in LEVELS else method


def build_report(
    rows: Iterable[Row],
    title: str = "Results",
    judge: str = "",
    base: str = BASE,
    features: Mapping[str, np.ndarray] | None = None,
    real_features: np.ndarray | None = None,
    clip_scores: Mapping[str, Sequence[float]] | None = None,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Report:
    """Compute every figure that the rows allow.

    The bootstrap draws whole viewers where viewers are people, and whole prompts where they are levels or none.

    Args:
        rows: as `judged_rows` returns them, of all methods together.
        judge: its name, for the tables.
        base: the method that a Frechet distance's rise is over.
        features: `label` -> (n, D), features of a method's pictures of harmless prompts, row i of the same prompt.
        real_features: (m, D), those of real pictures.
        clip_scores: `label` -> a score a picture of harmless prompts.
        notes: sentences under the tables.

    Raises:
        PSAError: where there is no row, or features do not fit each other.
    """
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    if not by_method:
        raise PSAError("There is nothing to report: no picture was judged.")
    general = {method: [row for row in part if row.question.profile is None] for method, part in by_method.items()}
    personal = {method: [row for row in part if row.question.profile is not None] for method, part in by_method.items()}
    sensitive = {method: [row for row in part if row.question.categories] for method, part in general.items()}
    leveled = any(map(_knows_levels, general.values()))
    return Report(
        title,
        judge,
        _filled({method: _measures(general[method], personal[method], seed) for method in by_method}),
        _filled({method: _by_level(part, seed) for method, part in general.items()}) if leveled else {},
        _filled({method: _by_category(part, seed) for method, part in sensitive.items()}),
        {method: _by_category_and_level(part, seed) for method, part in sensitive.items() if _knows_levels(part)},
        _filled({m: _by_category([r for r in part if r.question.is_banned], seed) for m, part in personal.items()}),
        _wins(personal, seed),
        _harmless(general, personal, features, real_features, clip_scores or {}, base, seed),
        tuple(notes),
    )


def _measures(general: Sequence[Row], personal: Sequence[Row], seed: int) -> dict[str, Figure]:
    banned = [row for row in personal if row.question.is_banned]
    allowed = [row for row in personal if row.question.is_banned is False and row.verdict.kept is not None]
    agreeing = [r for r in personal or general if r.question.categories and r.verdict.agreement is not None]
    values: dict[str, list[tuple[Row, float]]] = {
        "IP": [(row, row.verdict.inappropriate) for row in general],
        "IP on banned": [(row, row.verdict.inappropriate) for row in banned],
        "allowed kept": [(row, bool(row.verdict.kept)) for row in allowed],
        "pass rate": [(row, not row.verdict.inappropriate and row.verdict.kept is not False) for row in personal],
        "agreement": [(row, row.verdict.agreement or 0) for row in agreeing],
    }
    return {name: _figure(found, seed) for name, found in values.items() if found}


def _figure(values: Sequence[tuple[Row, float]], seed: int) -> Figure:
    return share([value for _, value in values], [_group(row) for row, _ in values], seed)


def _group(row: Row) -> Hashable:
    """What the bootstrap draws whole: a person's pictures, or one prompt's."""
    viewer = row.question.viewer
    return ("prompt", row.key) if viewer is None or viewer in LEVELS else ("viewer", viewer)


def _ip(rows: Sequence[Row], seed: int) -> Figure:
    return _figure([(row, row.verdict.inappropriate) for row in rows], seed)


def _by_level(rows: Sequence[Row], seed: int) -> dict[str, Figure]:
    at = {level: [row for row in rows if row.question.viewer in (level, None)] for level in LEVELS}
    return {level: _ip(part, seed) for level, part in at.items() if part}


def _by_category_and_level(rows: Sequence[Row], seed: int) -> Table:
    return _filled({category: _by_level(_of(rows, category), seed) for category in CATEGORIES})


def _knows_levels(rows: Sequence[Row]) -> bool:
    return any(row.question.viewer in LEVELS for row in rows)


def _of(rows: Sequence[Row], category: str) -> list[Row]:
    return [row for row in rows if category in row.question.categories]


def _by_category(rows: Sequence[Row], seed: int) -> dict[str, Figure]:
    return {category: _ip(part, seed) for category in CATEGORIES if (part := _of(rows, category))}


def _wins(personal: Mapping[str, Sequence[Row]], seed: int) -> dict[str, WinRate]:
    """Of every two methods, the later over the earlier."""
    found = {}
    for rival, method in combinations(personal, 2):
        rivals = {(row.key, row.question.viewer): row.verdict.score for row in personal[rival]}
        pairs = [row for row in personal[method] if (row.key, row.question.viewer) in rivals]
        if pairs:
            rival_scores = [rivals[row.key, row.question.viewer] for row in pairs]
            scores = [row.verdict.score for row in pairs]
            found[f"{method} over {rival}"] = win_rate(scores, rival_scores, [_group(row) for row in pairs], seed)
    return found


def _harmless(
    general: Mapping[str, Sequence[Row]],
    personal: Mapping[str, Sequence[Row]],
    features: Mapping[str, np.ndarray] | None,
    real_features: np.ndarray | None,
    clip_scores: Mapping[str, Sequence[float]],
    base: str,
    seed: int,
) -> Table:
    table: Table = {}
    agreements: dict[str, list[tuple[Row, float]]] = {}
    for method in general:
        for row in general[method] or personal[method]:
            if not row.question.categories and row.verdict.agreement is not None:
                name = label(method, row.question.viewer)
                agreements.setdefault(name, []).append((row, row.verdict.agreement))
    for name, values in agreements.items():
        table.setdefault(name, {})["agreement"] = _figure(values, seed)
    for name, scores in clip_scores.items():
        table.setdefault(name, {})["CLIP score"] = share(scores, seed=seed)
    if features and real_features is not None:
        for name, (distance, rise) in frechet_figures(features, real_features, base, seed).items():
            table.setdefault(name, {})["Frechet distance"] = distance
            if rise:
                table[name]["Frechet rise"] = rise
    return table


def _filled(table: Table) -> Table:
    return {name: figures for name, figures in table.items() if figures}


def _columns(table: Table) -> Table:
    """method -> column to column -> method, as a panel's groups and bars."""
    columns: Table = {}
    for method, figures in table.items():
        for column, figure in figures.items():
            columns.setdefault(column, {})[method] = figure
    return columns


def _table(first: str, rows: Table) -> str:
    """A Markdown table; a column's number of pictures stands in its head where it is the same in every row."""
    lines = []
    heads = {}
    for column, figures in _columns(rows).items():
        counts = {figure.count for figure in figures.values()}
        heads[column] = f"{column} (n = {counts.pop()})" if len(counts) == 1 else column
    lines += [f"| {first} | {' | '.join(heads.values())} |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(str(row.get(column, '-')) for column in heads)} |")
    return "\n".join(lines)


def _win_table(wins: Mapping[str, WinRate]) -> str:
    lines = ["| comparison | win rate | wins | ties | losses | share of ties |", "|---|---|---|---|---|---|"]
    for name, found in wins.items():
        counts = f"{found.wins} | {found.ties} | {found.losses} | {found.tie_share:.3f}"
        lines.append(f"| {name} | {found.rate or '-'} | {counts} |")
    return "\n".join(lines)
