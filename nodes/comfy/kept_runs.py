"""Whether what ComfyUI's cache keeps of a run still stands.

PSA Train's result is its folder's: where that is gone, or another process has gone on with it, the node runs again;
else what follows it in a graph is not drawn anew for nothing. Of the pictures that it learned from, the data set's own
node knows.
"""

from collections.abc import Iterable
from pathlib import Path

from .fingerprints import always_new
from .folders import Stamp, stamp

_said: dict[str, str] = {}
"""By run name, the fingerprint under which the node runs, or has run."""
_left: dict[str, dict[Path, Stamp]] = {}
"""By run name, the files that are its result, and as what the node left them."""


def run_fingerprint(run_name: str | None) -> str:
    """Another value once the run's files are not as PSA Train left them; of a name from another node, each time."""
    if run_name is None:
        return always_new()
    left = _left.get(run_name)
    if left is None or _stamped(left) != left:
        _left.pop(run_name, None)
        _said[run_name] = always_new()
    return _said[run_name]


def keep_run(run_name: str, folder: Path) -> None:
    """Note how a run that ended left its folder."""
    _left[run_name] = _stamped(folder / name for name in ("state.safetensors", "last.safetensors", "best.safetensors"))


def _stamped(files: Iterable[Path]) -> dict[Path, Stamp]:
    return {path: stamp(path) for path in files}
