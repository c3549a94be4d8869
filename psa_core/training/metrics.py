"""What a run reports while it goes: a JSONL file, TensorBoard where it is wanted, speed and time left."""

import json
import math
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import PSAError
from ..extras import require
from ..files import appending, atomic_path
from ..json_text import parse_json

_SMOOTHING = 0.9
_LONGEST_LINE = 1 << 16  # bytes; one takes some hundred


class MetricsLog:
    """`metrics.jsonl` in the run's folder, one object a step, and TensorBoard event files beside it.

    An entry is plain numbers by name, held-out figures are named `{split}/{metric}`, and `check` is the CRC-32 of
    the line without it. A resumed run drops the entries after `step`: they are written again.

    Raises:
        PSAError: for a damaged file, one that ends before `step`, or one that cannot be written.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        known = read_metrics(folder)
        if self.path.exists() and step and (not known or known[-1]["step"] < step):
            raise PSAError(
                f"{self.path} ends before step {step}, where the run stands: it was cut. Put it back whole, or delete "
                "it to go on without the earlier figures."
            )
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(_line(entry) for entry in known if entry["step"] <= step), encoding="utf-8")
        self._board = None
        with ExitStack() as closing:
            self._file = closing.enter_context(appending(self.path, encoding="utf-8"))
            if tensorboard:
                closing.enter_context(_untold_threads())
                self._board = _summary_writer(folder / "tensorboard", step)
            self._closing = closing.pop_all()  # by close

    def write(self, entry: Mapping[str, float]) -> None:
        """Raises PSAError where the disk takes no more; half a line is no harm, as a resumed run drops it."""
        name = self.path.name
        try:
            self._file.write(_line(entry))
            self._file.flush()
            if self._board:
                name = "What TensorBoard shows"
                for figure, value in entry.items():
                    self._board.add_scalar(figure, value, entry["step"])
        except OSError as error:
            raise PSAError(
                f"{name} cannot be written to {self.path.parent}: {error.strerror}. Free some space and "
                "start again; the run goes on where it stopped."
            ) from error

    def sync(self) -> None:
        """Have the disk hold what was written, before a state says that it is there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """What a full disk does not take was said before; what TensorBoard has not written yet is in the other file."""
        if self._board:
            with suppress(OSError):
                self._board.close()
        with suppress(OSError):
            self._closing.close()


def read_metrics(folder: Path | str) -> list[dict[str, float]]:
    """The entries of a run folder's `metrics.jsonl`, without a last line that a kill cut short.

    Raises:
        PSAError: for a damaged line, naming it, or a file that cannot be read.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        with open(path, "rb") as file:
            return _entries(file, path)
    except OSError as error:
        raise PSAError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error


def _entries(file: BinaryIO, path: Path) -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    sealed = False
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
        entry = _entry(line.removesuffix(b"\n"))
        follows = entry is not None and (not entries or entry["step"] == entries[-1]["step"] + 1)
        has_check = entry is not None and entry.pop("check", None) is not None
        if entry is None and not line.endswith(b"\n") and len(line) < _LONGEST_LINE:  # the last, cut off
            break
        if (
            entry is None
            or not follows
            or (entries and has_check != sealed)
            or (not has_check and _lost_its_check(entry))
        ):
            raise PSAError(
                f"Line {number} of {path} is damaged. Put a copy of the file back, or delete it: the adapter and the "
                "run's state do not depend on it."
            )
        sealed = has_check
        entries.append(entry)
    return entries


def _line(entry: Mapping[str, float]) -> str:
    return json.dumps({**entry, "check": zlib.crc32(json.dumps(entry).encode())}) + "\n"


def _lost_its_check(entry: Mapping[str, float]) -> bool:
    """Whether the last figure is the check of the others, under a name that is damaged: older lines have no check."""
    *_, last = entry
    others = {name: value for name, value in entry.items() if name != last}
    return entry[last] == zlib.crc32(json.dumps(others).encode())


def _entry(line: bytes) -> dict[str, float] | None:
    """A line's numbers by name; none where it holds anything else, or its check does not fit."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or entry["step"] < 1:
        return None
    if not all(type(value) in (int, float) for value in entry.values()):
        return None
    if "check" in entry and line + b"\n" != _line({k: v for k, v in entry.items() if k != "check"}).encode():
        return None
    return entry


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


DRIFT_REMEDY = "Raise winner_weight or anchor_weight, or lower the learning rate."
"""What a run's settings can do about the rise that `WinnerWatch` sees."""


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
        return self.sentence if before <= self.limit < self.trend else None

    @property
    def has_risen(self) -> bool:
        return self.trend > self.limit

    @property
    def sentence(self) -> str:
        """What the trend says, and after it `DRIFT_REMEDY`."""
        return (
            f"The error on chosen pictures has risen {self.trend:.1%} above the base model's: the run is drifting to "
            f"noise. {DRIFT_REMEDY}"
        )


def check_finite(name: str, value: float, step: int) -> None:
    """Raise PSAError where a step's loss or gradient is NaN or infinite."""
    if not math.isfinite(value):
        raise PSAError(
            f"Training stopped at step {step}: the {name} is {value}. The last saved state is kept. Lower the "
            "learning rate, or compute in float32, and start again."
        )


def _summary_writer(folder: Path, step: int):
    require("tensorboard", "Writing TensorBoard files", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(folder, purge_step=step + 1)
    except OSError as error:
        raise PSAError(
            f"What TensorBoard shows cannot be written to {folder}: {error.strerror}. Check the folder, its "
            "permissions and the free space."
        ) from error


@contextmanager
def _untold_threads() -> Iterator[None]:
    """TensorBoard's thread hands a full disk's error over with the next figure; Python would print it as a traceback,
    too."""
    before = threading.excepthook

    def tell(failed: Any) -> None:
        is_handed_over = isinstance(failed.exc_value, OSError) and "tensorboard" in type(failed.thread).__module__
        if not is_handed_over:
            before(failed)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before
