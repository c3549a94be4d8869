"""A folder, or an open file, for one process at a time."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import PSAError
from .files import MACHINE, NOT_THROUGH_LINKS, shown
from .json_text import parse_json

LOCK_FILE = ".lock"
_LOCKED_BYTE = 1 << 20  # far behind the text: Windows lets nobody read what is locked
_CHILDREN_S = 30  # a loader's workers look every 5 seconds whether their parent lives


@contextmanager
def locked_folder(folder: Path, doing: str) -> Iterator[None]:
    """Within the block no other process holds `folder`, which must exist.

    The lock ends with its process, however that ends: what a killed one leaves is no obstacle.

    Raises:
        PSAError: where another process holds it, saying which; `doing` says what one does there.
    """
    with _opened(folder) as handle:
        with _failing_for(folder):
            if not _take(handle) and not _outwait_children(handle):
                raise PSAError(
                    f"Another process is {doing} {folder}: {_named(_read(handle))}. Wait for it, stop it, or choose "
                    "another folder."
                )
            since = time.strftime("%Y-%m-%d %H:%M")
            mine = {"pid": os.getpid(), "host": platform.node(), "machine": MACHINE, "since": since}
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(mine).encode())
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)


@contextmanager
def turn_in(folder: Path) -> Iterator[None]:
    """Within the block, a short one, it is this process's turn in `folder`, made if it is not there; it waits for that.

    Raises:
        PSAError: where the folder cannot be written to.
    """
    with _failing_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder) as handle, held(handle):
        yield


@contextmanager
def held(handle: int) -> Iterator[None]:
    """Within the block no other process holds the open file; it waits for one that does.

    Where a file system knows no locks, it goes on without one.
    """
    try:
        import fcntl
    except ImportError:
        while not _take_on_windows(handle):
            time.sleep(0.01)
        yield
        return
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The folder's lock file, closed at the end, which ends the lock."""
    with _failing_for(folder):
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | NOT_THROUGH_LINKS, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _failing_for(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PSAError(
            f"{folder} cannot be written to: {error.strerror}. Check the folder and its permissions, or choose another."
        ) from error


def _outwait_children(handle: int) -> bool:
    """Take the lock of a process that is dead, whose children live on for a moment, and with them its lock.

    The file stays the same: were it removed, two processes could each lock one of that name.
    """
    end = time.monotonic() + _CHILDREN_S
    while _is_dead(_read(handle), "machine", MACHINE) and time.monotonic() < end:
        time.sleep(0.1)
        if _take(handle):
            return True
    return False


def _take(handle: int) -> bool:
    """Lock the open file, or say that another holds it. Where a file system knows no locks, its text decides."""
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return _is_dead(_read(handle) or {"pid": 0, "host": platform.node()}, "host", platform.node())
    return True


def _take_on_windows(handle: int) -> bool:
    import msvcrt

    os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    return True


def _read(handle: int) -> dict[str, Any]:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        holder = parse_json(os.read(handle, 1000))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, Any], where: str, here: str) -> bool:
    """Whether `holder` is surely no living process: what it says of `where` it runs is `here`, and it is not there."""
    pid = holder.get("pid")
    if holder.get(where) != here or type(pid) is not int or os.name != "posix":
        return False
    try:
        os.kill(pid, 0) if pid > 0 else None
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return pid <= 0


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "it has not said yet which one it is"
    pid, host, since = (shown(str(holder.get(name)), 60) for name in ("pid", "host", "since"))
    return f"process {pid} on {host}, since {since}"
