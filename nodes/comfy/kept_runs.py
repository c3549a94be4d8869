"""Whether what ComfyUI's cache keeps of a run still stands.

PSA Train's result is its folder's: where that is gone or another process has gone on with it, or a picture that it
learned from is another one, the node runs again. Else what follows it in a graph would not be drawn anew for nothing.
"""

from collections.abc import Iterable
from pathlib import Path

from ...psa_core.training.assembly import Splits
from .fingerprints import always_new

Stamps = tuple[tuple[int, ...], ...]

_said: dict[str, str] = {}
"""By run name, the fingerprint under which the node runs, or has run."""
_left: dict[str, tuple[list[Path], Stamps]] = {}
"""By run name, the files that its result rests on, and as what the node left them."""


def run_fingerprint(run_name: str | None) -> str:
    """Another value once the run's files are not as PSA Train left them; of a name from another node, each time."""
    if run_name is None:
        return always_new()
    files, stamps = _left.get(run_name, ([], ()))
    if not files or _stamps(files) != stamps:
        _left.pop(run_name, None)
        _said[run_name] = always_new()
    return _said[run_name]


def keep_run(run_name: str, folder: Path, splits: Splits) -> None:
    """Note how a run that ended left its folder, and the pictures that it learned from or was measured on."""
    results = [folder / name for name in ("state.safetensors", "last.safetensors", "best.safetensors")]
    pictures = {path for part in splits.all for number in range(part.scenes) for path in part.scene(number).pictures}
    files = [*results, *pictures]
    _left[run_name] = files, _stamps(files)


def _stamps(files: Iterable[Path]) -> Stamps:
    return tuple(_stamp(path) for path in files)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
