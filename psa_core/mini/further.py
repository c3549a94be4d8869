"""What the benchmark measures beside its cells: the strength calibrated, audiences, where the change is, the guard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import PSAError
from ..evaluate import Report
from . import audience, changed_pixels, guarded, strength
from .benchmark import Part, Studio
from .evaluate import Results
from .lineup import BASE, PSA, Entry
from .rivals.adapters import WithAdapter
from .rivals.audience import Joined

_LEAST = 3  # pictures of a kind: one of each way that asks


@dataclass(frozen=True)
class Further:
    """How much is drawn; 0 leaves a part out.

    Args:
        viewers: before whom a strength is calibrated.
        strengths: of PSA, of which the least that keeps the promise is found.
        pairs: audiences of two.
        changes: pictures of a kind, of which changed pixels are counted.
        guarded: pictures of a kind, at which the guard looks.

    Raises:
        PSAError: for sizes that measure nothing, or no strength above 0.
    """

    viewers: int = 400
    strengths: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 2.0)
    pairs: int = 150
    changes: int = 50
    guarded: int = 50

    def __post_init__(self) -> None:
        if any(0 != size < _LEAST for size in (self.viewers, self.pairs, self.changes, self.guarded)):
            raise PSAError(f"A part of the benchmark needs at least {_LEAST} pictures a figure, or 0 to leave it out.")
        if self.viewers and not (self.strengths and all(0 <= each < float("inf") for each in self.strengths)):
            raise PSAError("Strengths to calibrate are numbers from 0 upwards, such as 0.75 1 1.5.")

    def how_many(self, part: Part) -> int:
        """How many are drawn for a plan of this split, at most."""
        return (
            strength.how_many(self.strengths, self.viewers, part)
            + audience.how_many(self.pairs)
            + changed_pixels.how_many(self.changes)
            + guarded.how_many(self.guarded)
        )


def measure_further(
    results: Results,
    sizes: Further,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Results:
    """The results with these parts, for the line-up's PSA on its base model.

    Raises:
        PSAError: where PSA or the base model does not take part.
    """
    base, psa = (_entry(results.entries, name) for name in (BASE, PSA))
    method = psa.method
    if not isinstance(method, WithAdapter):
        raise PSAError("The benchmark's further parts are measured of an adapter, and this line-up's PSA is none.")
    model, adapter = method.model, method.adapter
    studio = Studio(results.plan, folder, progress)

    def at(value: float) -> Entry:
        return replace(psa, method=WithAdapter(model, strength.name_at(value), adapter, value))

    def joined(audiences: audience.Audiences) -> Joined:
        return Joined(model, audience.JOINED, adapter, audiences)

    reports: list[Report] = []
    calibration = None
    if sizes.viewers:
        found, calibration = strength.calibrate(studio, at, base, sizes.strengths, sizes.viewers)
        reports += found
    if sizes.pairs:
        reports.append(audience.measure_audience(studio, base, psa, joined, sizes.pairs))
    if sizes.changes:
        reports.append(changed_pixels.measure_changes(studio, results.entries, sizes.changes))
    if sizes.guarded:
        reports.append(guarded.measure_guard(studio, model, adapter, psa.identity, sizes.guarded))
    return replace(results, reports=(*results.reports, *reports), calibration=calibration)


def _entry(entries: Sequence[Entry], name: str) -> Entry:
    found = next((entry for entry in entries if entry.name == name), None)
    if found is None:
        raise PSAError(f"'{name}' must take part in the benchmark: its further parts are measured of it.")
    return found
