"""Writing files whole, and keeping names inside their folder."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import PSAError

_NAME = re.compile(r"[^\W_][\w .()+-]{0,99}", re.UNICODE)


@contextmanager
def atomic_path(path: Path | str, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place only if the block succeeds.

    A reader sees the old file or the whole new one, never a part. `mode` sets the permission bits
    (0o600 for a private file) before the first byte is written; without it they follow the umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix)
    os.close(handle)  # mkstemp made it 0600
    try:
        yield Path(temporary)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, mode if mode is not None else 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def safe_file_name(name: str, what: str) -> str:
    """Return `name` if it is a plain file name; raise PSAError otherwise.

    Letters, digits, spaces and `. ( ) + - _` are allowed, up to 100 characters, starting with a
    letter or digit: no separators, no `..`, no drive letters, no NUL.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name != name.strip(" ."):
        raise PSAError(
            f"That {what} cannot be used. Give 1 to 100 letters, digits, spaces or . ( ) + - _, "
            "starting with a letter or digit, without '..' and without a path."
        )
    return name


def existing_file(path: Path | str, what: str) -> Path:
    """Return `path` if it is a readable, non-empty regular file; raise PSAError otherwise."""
    text = os.fspath(path)
    if "\0" in text:
        raise PSAError(f"The path of the {what} holds a NUL character. Give the path of an existing file.")
    path = Path(text)
    if not path.is_file():
        raise PSAError(f"There is no {what} at {text}. Check the path, or put the file there.")
    if path.stat().st_size == 0:
        raise PSAError(f"The {what} {path.name} is empty (0 bytes). Copy or download it again.")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
