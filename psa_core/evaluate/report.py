"""Measurements as tables, JSON and a picture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from ..plots.bars import Panel, draw_panels
from .figures import Figure
from .measurements import BASE, HARMLESS, Measurement, Price, measure
from .rows import Duel, Row

Table = dict[str, dict[str, Figure]]
"""Figures by row and column."""


@dataclass(frozen=True)
class Report:
    """What was measured of some methods on the same prompts.

    Attributes:
        judge: its name.
        notes: sentences under the tables.
    """

    title: str
    judge: str
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()

    def figure(
        self,
        method: str,
        measure: str,
        viewer: str | None = None,
        category: str | None = None,
        rival: str | None = None,
    ) -> Figure | None:
        """The one figure of these names; `None` where it was not measured."""
        wanted = (method, measure, viewer, category, rival)
        found = (m.figure for m in self.measurements if (m.method, m.measure, m.viewer, m.category, m.rival) == wanted)
        return next(found, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names of methods, levels and categories; nothing of any one viewer."""
        rows = [{**asdict(each), **asdict(each.figure)} for each in self.measurements]
        for row in rows:
            del row["figure"]
        return {"title": self.title, "judge": self.judge, "notes": list(self.notes), "measurements": rows}

    def to_markdown(self) -> str:
        """Tables, each figure as `value [low, high]`."""
        parts = [f"### {self.title}", f"Judged by: {self.judge}. In brackets, 95 % intervals."]
        for caption, first, table in self._tables():
            parts += [caption, _markdown(first, table)] if caption else [_markdown(first, table)]
        return "\n\n".join([*parts, *self.notes])

    def to_figure(self, width: int = 900) -> Image.Image:
        """The figures with their intervals, as an RGB picture as high as it needs to be.

        Raises:
            PSAError: for a width under 500 pixels.
        """
        return to_figure([self], width)

    @property
    def panels(self) -> list[Panel]:
        """The figures as bars and lines."""
        rates = [m for m in self.measurements if m.measure == "win share"]
        panels = [
            Panel("measures", _table(self._measures(), _measure, _method)),
            Panel("win share, ties counting half", _table(rates, _comparison, lambda _: ""), under=self._counts()),
            Panel("IP by level", _table(self._ip(by_level=True), _viewer, _method), lines=True),
            Panel("IP by category", _table(self._ip(by_category=True), _category, _method))
            if self._ip(by_category=True)
            else Panel("IP on banned, by category", _table(self._banned_by_category(), _category, _method)),
        ]
        for name in ("agreement", "Frechet rise"):
            price = [m for m in self.measurements if m.category == HARMLESS and m.measure == name]
            panels.append(Panel(f"{name}, harmless prompts", _table(price, _drawn, lambda _: "")))
        return [replace(panel, title=f"{self.title}: {panel.title}") for panel in panels if panel.groups]

    def _counts(self) -> dict[str, str]:
        """Of each comparison, how many were won, tied and lost."""
        counts: dict[str, list[str]] = {}
        for m in self.measurements:
            if m.measure in ("wins", "ties", "losses"):
                counts.setdefault(_comparison(m), []).append(f"{m.figure.value * m.figure.count:.0f} {m.measure}")
        return {name: ", ".join(parts) for name, parts in counts.items()}

    def _tables(self) -> list[tuple[str, str, Table]]:
        """(caption, head of the first column, table); tables with nothing in them are left out."""
        both = self._ip(by_level=True, by_category=True)
        wins = [m for m in self.measurements if m.rival]
        harmless = [m for m in self.measurements if m.category == HARMLESS]
        tables = [
            ("", "method", _table(self._measures(), _method, _measure)),
            (
                "Comparisons: in the win share a tie counts half; the win rate is wins over wins plus losses. The pass "
                "rate's lead is over the same prompts, noise and viewers.",
                "comparison",
                _table(wins, _comparison, _measure),
            ),
            ("IP by level.", "method", _table(self._ip(by_level=True), _method, _viewer)),
            ("IP by category.", "method", _table(self._ip(by_category=True), _method, _category)),
            *(
                (f"IP by level and category, {method}.", "category", _table(part, _category, _viewer))
                for method, part in _by(both, _method).items()
            ),
            ("IP on banned, by category.", "method", _table(self._banned_by_category(), _method, _category)),
            ("Harmless prompts: those that are said to be.", "method", _table(harmless, _drawn, _measure)),
        ]
        return [table for table in tables if table[-1]]

    def _measures(self) -> list[Measurement]:
        return [m for m in self.measurements if not (m.viewer or m.category or m.rival)]

    def _ip(self, by_level: bool = False, by_category: bool = False) -> list[Measurement]:
        return [
            m
            for m in self.measurements
            if m.measure == "IP" and bool(m.viewer) == by_level and bool(m.category) == by_category
        ]

    def _banned_by_category(self) -> list[Measurement]:
        return [m for m in self.measurements if m.measure == "IP on banned" and m.category]


def build_report(
    rows: Iterable[Row],
    title: str = "Results",
    judge: str = "",
    *,
    notes: Sequence[str] = (),
    duels: Sequence[Duel] | None = None,
    price: Price | None = None,
    base: str = BASE,
    seed: int = 0,
) -> Report:
    """The report of what `measure` finds in the rows.

    Raises:
        PSAError: as `measure` does.
    """
    return Report(title, judge, tuple(measure(rows, duels=duels, price=price, base=base, seed=seed)), tuple(notes))


def to_figure(reports: Sequence[Report], width: int = 900) -> Image.Image:
    """Several reports' figures under each other, a method in the same colour in all of them.

    Raises:
        PSAError: for a width under 500 pixels.
    """
    return draw_panels([panel for report in reports for panel in report.panels], width)


def _method(m: Measurement) -> str:
    return m.method


def _measure(m: Measurement) -> str:
    return m.measure


def _viewer(m: Measurement) -> str:
    return m.viewer or ""


def _category(m: Measurement) -> str:
    return m.category or ""


def _comparison(m: Measurement) -> str:
    return f"{m.method} over {m.rival}"


def _drawn(m: Measurement) -> str:
    """A method, and the level that it drew for, if any."""
    return f"{m.method} {m.viewer}" if m.viewer else m.method


def _by(found: Iterable[Measurement], key: Callable[[Measurement], str]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for each in found:
        groups.setdefault(key(each), []).append(each)
    return groups


def _table(
    found: Iterable[Measurement], row: Callable[[Measurement], str], column: Callable[[Measurement], str]
) -> Table:
    return {name: {column(each): each.figure for each in part} for name, part in _by(found, row).items()}


def _markdown(first: str, table: Table) -> str:
    """A column's number of pictures stands in its head where it is the same in every row."""
    heads = {}
    for column in dict.fromkeys(column for row in table.values() for column in row):
        counts = {row[column].count for row in table.values() if column in row}
        heads[column] = f"{column} (n = {counts.pop()})" if len(counts) == 1 else column
    lines = [[first, *heads.values()], *([name, *(str(row.get(c, "-")) for c in heads)] for name, row in table.items())]
    text = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]])
