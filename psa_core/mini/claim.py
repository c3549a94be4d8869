"""A folder in which one thing is made: nothing of somebody else's is touched there, and what was stopped goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import PSAError
from ..files import atomic_path, sweep_parts
from ..locks import LOCK_FILE, locked_folder

_MARK = ".unfinished"  # says of what a folder holds a part


@contextmanager
def claimed(folder: Path, what: str, doing: str) -> Iterator[None]:
    """Within the block `folder` is this process's alone, and holds nothing, or the unfinished part of this very thing.

    Args:
        what: the thing: all that it depends on.
        doing: what one does there, in words for whoever else comes.

    Raises:
        PSAError: where the folder holds something else, another process makes something there, or it cannot be
            written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PSAError(f"The folder {folder} cannot be used: {error.strerror}. Choose another one.") from error
    with locked_folder(folder, doing):
        mark = folder / _MARK
        try:
            sweep_parts(folder)
            goes_on = mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == what
            holds = any(path.name not in (LOCK_FILE, _MARK) for path in folder.iterdir())
        except OSError as error:
            raise PSAError(f"The folder {folder} cannot be used: {error.strerror}. Choose another one.") from error
        if holds and not goes_on:
            raise PSAError(f"The folder {folder} is not empty. Choose a new one, or delete what is in it.")
        with atomic_path(mark) as temporary:
            temporary.write_text(what, encoding="utf-8")
        yield
        mark.unlink()
