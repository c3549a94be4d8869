"""What a run reports while it goes: a JSONL file, TensorBoard where it is wanted, speed and time left."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from ..errors import PSAError
from ..files import atomic_path

_SMOOTHING = 0.9


class MetricsLog:
    """`metrics.jsonl` in the run's folder, one object a step, and TensorBoard event files beside it.

    A resumed run drops the lines after `step`: they are written again. Rows are plain numbers by
    name; held-out figures are named `{split}/{metric}`.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)
        self._board = _summary_writer(folder / "tensorboard", step) if tensorboard else None

    def write(self, row: Mapping[str, float]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board:
            for name, value in row.items():
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(folder: Path | str) -> list[dict[str, float]]:
    """The rows of a run folder's `metrics.jsonl`, without a last line that a kill cut short."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Pace:
    """Examples a second and seconds left, from smoothed step times."""

    def __init__(self, examples_per_step: int) -> None:
        self._examples = examples_per_step
        self._seconds: float | None = None
        self._started = time.perf_counter()

    def start(self) -> None:
        self._started = time.perf_counter()

    def step(self, steps_left: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._started
        past = seconds if self._seconds is None else self._seconds
        self._seconds = _SMOOTHING * past + (1 - _SMOOTHING) * seconds
        return {"examples_per_second": self._examples / self._seconds, "eta_seconds": self._seconds * steps_left}


class WinnerWatch:
    """Watches the winner error's rise over the reference's: the sign that both errors are growing.

    `trend` is the smoothed rise as a share of the reference's error; part of a run's state.
    """

    def __init__(self, limit: float, trend: float = 0.0) -> None:
        self.limit, self.trend = limit, trend

    def update(self, metrics: Mapping[str, float]) -> str | None:
        """A sentence at the step where the trend crosses the limit, otherwise `None`."""
        before = self.trend
        rise = metrics["winner_gap"] / max(metrics["reference_winner_error"], 1e-12)
        self.trend = _SMOOTHING * before + (1 - _SMOOTHING) * rise
        if not before <= self.limit < self.trend:
            return None
        return (
            f"The error on chosen pictures has risen {self.trend:.1%} above the base model's: the run is drifting "
            "to noise. Raise winner_weight or anchor_weight, or lower the learning rate."
        )


def check_finite(name: str, value: float, step: int) -> None:
    """Raise PSAError where a step's loss or gradient is NaN or infinite."""
    if not math.isfinite(value):
        raise PSAError(
            f"Training stopped at step {step}: the {name} is {value}. The last saved state is kept. Lower the "
            "learning rate, or compute in float32, and start again."
        )


def _summary_writer(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PSAError("TensorBoard files need the package tensorboard: pip install tensorboard.") from None
    return SummaryWriter(folder, purge_step=step + 1)
