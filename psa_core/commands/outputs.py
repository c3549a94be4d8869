"""Files that commands write, where there may be one of that name already."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import PSAError


def write_output(path: Path, write: Callable[[Path], None], force: bool, kept: str = "") -> None:
    """Write a file as `write` does, to the path that it is given; the same file stays as it is.

    Args:
        kept: what is not lost where it is refused, for the sentence.

    Raises:
        PSAError: where another file is there and nobody says by `force` to replace it.
    """
    if os.path.lexists(path) and not force:
        with tempfile.TemporaryDirectory() as folder:
            now = Path(folder, path.name)
            write(now)
            if path.is_file() and path.read_bytes() == now.read_bytes():
                return
        raise PSAError(
            f"{path} exists and holds something else, perhaps what somebody wrote by hand. Give another name, or "
            f"--force to replace it.{kept}"
        )
    write(path)
