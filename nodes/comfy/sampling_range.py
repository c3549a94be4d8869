"""In which part of sampling the user's term counts, and how much at each step of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rows import Call

CONSTANT, FADE_IN, FADE_OUT = SCHEDULES = ("constant", "fade in", "fade out")
_HALVINGS = 20  # a millionth of sampling


@dataclass(frozen=True)
class SamplingRange:
    """A part of sampling, both ends included (ComfyUI's own convention), and how strength goes over it.

    With p the share of the range that is done: 1 (constant), p (fade in) or 1 - p (fade out).

    Args:
        percents: where it starts and ends, from 0 to 1.
        sampling: the MODEL's own schedule, for calls from outside a sampler; in a sampler a node behind PSA Apply may
            have changed the schedule.
    """

    percents: tuple[float, float]
    schedule: str
    sampling: Any

    @classmethod
    def of(cls, sampling: Any, percents: tuple[float, float], schedule: str) -> "SamplingRange | None":
        """`None` for the same strength in the whole of sampling, so that no step is ever asked."""
        return None if percents == (0.0, 1.0) and schedule == CONSTANT else cls(percents, schedule, sampling)

    def share(self, call: "Call") -> float:
        """How much of the strength counts in a call of the model: 0 outside the range, up to 1 in it."""
        if call.sigmas is None:
            return 1.0
        start, end = sigmas_at(self.sampling, self.percents) if call.run is None else call.run.sigmas(self.percents)
        if not end <= call.sigma <= start:
            return 0.0
        first, last = self.percents
        if self.schedule == CONSTANT or first == last:
            return 1.0
        percent = percent_at(self.sampling, call.sigma) if call.run is None else call.run.percent(call.sigma)
        done = min(max((percent - first) / (last - first), 0.0), 1.0)
        return done if self.schedule == FADE_IN else 1.0 - done


def sigmas_at(sampling: Any, percents: tuple[float, float]) -> tuple[float, float]:
    """The noise levels where a range of sampling starts and ends, by a schedule of ComfyUI's."""
    start, end = (float(sampling.percent_to_sigma(percent)) for percent in percents)
    return start, end


def percent_at(sampling: Any, sigma: float) -> float:
    """Where in sampling, from 0 to 1, a schedule of ComfyUI's reaches a noise level."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high
