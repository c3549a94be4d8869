"""Writing files whole, and keeping names inside their folder."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import TextIO

from safetensors import SafetensorError

from .errors import PSAError

_MAX_NAME_BYTES = 200  # file systems stop at 255, and an ending is to follow
_RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"
}
_PART = re.compile(r"\.part-(?:([0-9a-f]{8})-(\d{1,9})-(\d+)-)?[0-9a-f]{16}(?:\..*)?", re.DOTALL)
_SPARE = 1 << 28  # bytes of a disk that are to stay free
_SHOWN_OF_A_PATH = 400  # characters
_ABANDONED_S = 3600  # nothing was written for so long to a part of a process that cannot be seen from here
NOT_THROUGH_LINKS = getattr(os, "O_NOFOLLOW", 0)
"""A flag of `os.open` for what is changed in place: somebody else's folder may hold a link there, to anywhere."""
_swept: set[str] = set()  # folders that this process has written to, and swept before


def _machine() -> str:
    """Stands for where a process's number means something: the kernel since it was started, and the container in it.

    Containers, and machines that share a folder, may all be called the same.
    """
    parts = [platform.node()]
    with suppress(OSError):  # not Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.blake2s("\n".join(parts).encode(), digest_size=4).hexdigest()


MACHINE = _machine()
"""8 hex digits; another machine or container has others, and so has this one after a restart."""


class NameTakenError(PSAError):
    """There is a file of that name already, and it was not to be replaced."""


@contextmanager
def atomic_path(path: Path | str, mode: int | None = None, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place only if the block succeeds.

    A reader sees the old file or the whole new one, never a part. `mode` sets the permission bits
    (0o600 for a private file) before the first byte is written; without it they follow the umask.
    A process's first write into a folder sweeps it (see `sweep_parts`).
    Without `replace`, a file that is there stays, also one that another process puts there meanwhile.

    Raises:
        NameTakenError: without `replace`, where there is a file at the end.
        PSAError: where the file cannot be written (no permission, a full disk, a folder in its place).
    """
    _check_path(path, "to write to")
    path = Path(path)
    temporary = path.with_name(f"{_part_name()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (folder := os.path.abspath(path.parent)) not in _swept:
            _swept.add(folder)
            sweep_parts(folder)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode)
        bits = os.fstat(handle).st_mode & 0o777  # with the umask applied
        os.close(handle)
        yield temporary
        os.chmod(temporary, bits if mode is None else mode)  # a writer may have put a file of its own there
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _place_once(temporary, path)
    except (OSError, SafetensorError) as error:
        raise PSAError(
            f"{printable(path.name)} cannot be written to {printable(path.parent)}: "
            f"{getattr(error, 'strerror', None) or error}. Check the folder, its permissions and the free space. "
            "A file that was there before is as it was."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def appending(path: Path, mode: int = 0o666, encoding: str = "ascii") -> Iterator[TextIO]:
    """A text file to append to, made if it is not there: a file itself, and no link, pipe or device in its place.

    Raises:
        OSError: where it cannot be written, or is no file.
    """
    # A pipe that nobody reads would be waited for.
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | NOT_THROUGH_LINKS | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags, mode), "a", encoding=encoding) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        yield file


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, hidden there; it goes, with all that is in it, when the block ends.

    What a kill leaves of it is for `sweep_parts`.

    Raises:
        PSAError: where it cannot be made.
    """
    folder = parent / _part_name()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise PSAError(
            f"Nothing can be written to {printable(parent)}: {error.strerror}. Check the folder and its permissions."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_room(folder: Path, size: int) -> None:
    """Raise PSAError where the disk that holds `folder` has no room for so many bytes and some to spare."""
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise PSAError(
            f"There is no room on the disk: it takes {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free. Make room, "
            "some to spare included."
        )


def sweep_parts(folder: Path | str) -> None:
    """Delete what killed processes left half-written directly in `folder`, by `atomic_path` or `temporary_folder`.

    What is of a process that lives stays. So does, for an hour after the last write, what is of a process that cannot
    be seen from here: of another machine or container, or from before a restart.
    """
    with suppress(OSError):
        for part in os.scandir(folder):
            if match := _PART.fullmatch(part.name):
                with suppress(OSError):
                    if part.is_file(follow_symlinks=False) and _is_abandoned(match, part):
                        os.unlink(part.path)
                    elif match[1] and part.is_dir(follow_symlinks=False) and _is_abandoned(match, part):
                        shutil.rmtree(part.path)


def _part_name() -> str:
    return f".part-{_process_id()}-{secrets.token_hex(8)}"


def _process_id() -> str:
    pid = os.getpid()
    return f"{MACHINE}-{pid}-{_start_of(pid) or 0}"


def _start_of(pid: int) -> int | None:
    """When a process of this machine began, 0 where the system does not say; `None` if it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another account's
        pass
    return 0


def _is_abandoned(match: re.Match, part: os.DirEntry) -> bool:
    machine, pid, start = match.groups()
    if machine == MACHINE and os.name != "nt":  # os.kill asks nothing there: it kills
        now, then = _start_of(int(pid)), int(start)
        return now is None or (now != then and 0 not in (now, then))
    within = Path(part.path).rglob("*") if part.is_dir(follow_symlinks=False) else ()
    written = max(path.lstat().st_mtime for path in (Path(part.path), *within))
    return time.time() - written > _ABANDONED_S


def _place_once(temporary: Path, path: Path) -> None:
    """Give `temporary` the name `path` unless there is a file of that name: of several at once, one succeeds."""
    try:
        if os.name == "nt":
            os.rename(temporary, path)
            return
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.replace(temporary, path)
    except FileExistsError:
        raise NameTakenError(
            f"There is a file {printable(path.name)} in {printable(path.parent)} already. Choose another name."
        ) from None


def printable(path: Path | str) -> str:
    """A path for a message: `shown`, and longer than other texts, but not as long as a path can be."""
    return shown(os.fspath(path), _SHOWN_OF_A_PATH)


def os_sentence(error: OSError) -> str:
    """What to say of an error of the system's that nobody turned into a better sentence."""
    what = "A file" if error.filename is None else shown(str(error.filename))
    return f"{what} cannot be used: {error.strerror or error}. Check the path, its permissions and the free space."


def _check_path(path: Path | str, what: str) -> None:
    text = os.fspath(path)
    if "\0" in text:
        raise PSAError(f"The path {what} holds a NUL character. Give another one.")
    if not Path(text).name:
        raise PSAError(f"The path {what} names no file. Give one with a file name.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise PSAError(
            f"The path {what} holds characters that no file name can have: {printable(text)}. Give another one."
        ) from None


def is_plain_name(name: str) -> bool:
    """Whether `name` is one that `safe_file_name` lets through."""
    return (
        1 <= len(name) <= 100
        and name[0].isalnum()
        and all(c.isalnum() or c in " .()+-_" or unicodedata.category(c)[0] == "M" for c in name)
        and len(name.encode()) <= _MAX_NAME_BYTES
        and ".." not in name
        and name[-1] not in " ."
        and not is_device(name)
    )


def is_device(name: str) -> bool:
    """Whether Windows keeps a name for a device, with any ending."""
    return name.split(".")[0].rstrip().lower() in _RESERVED_ON_WINDOWS


def safe_file_name(name: str, what: str) -> str:
    """Return `name` if it is a plain file name on every system; raise PSAError otherwise.

    Letters and digits of any script, spaces and `. ( ) + - _` are allowed, up to 100 characters (200
    bytes in UTF-8), starting with a letter or digit: no separators, no `..`, no drive letters, no
    NUL, none of the names that Windows keeps for devices.
    """
    if not isinstance(name, str) or not is_plain_name(name):
        raise PSAError(
            f"That {what} cannot be used. Give 1 to 100 letters, digits, spaces or . ( ) + - _, "
            "starting with a letter or digit, without '..' and without a path, and no device name such as CON."
        )
    return name


def existing_file(path: Path | str, what: str) -> Path:
    """Return `path` if it is a readable, non-empty regular file; raise PSAError otherwise."""
    _check_path(path, f"of the {what}")
    path = Path(path)
    name = printable(path.name)
    if not os.path.isfile(path):
        raise PSAError(f"There is no {what} at {printable(path)}. Check the path, or put the file there.")
    if not os.access(path, os.R_OK):
        raise PSAError(f"The {what} {name} may not be read. Change its permissions.")
    if path.stat().st_size == 0:
        raise PSAError(f"The {what} {name} is empty (0 bytes). Copy or download it again.")
    return path


def own_file(folder: Path, name: str, what: str, root: Path | None = None) -> Path:
    """As `existing_file`, for a file of somebody's data set: a link is followed as far as `inside` says."""
    path = existing_file(folder / name, what)
    try:
        inside(folder, name, root)
    except PSAError as error:
        raise PSAError(f"The {what} cannot be read: {error}") from None
    return path


def inside(folder: Path, name: object, root: Path | None = None, what: str = "its folder") -> Path:
    """The existing file that somebody's list calls `name`, a path relative to `folder`.

    A link is followed where its target lies in `folder` or `root`, or among the blobs of the hub's cache that holds
    `folder` (`datasets--X/snapshots/{revision}` beside `datasets--X/blobs`, as huggingface_hub lays them).

    Args:
        root: the data set's own folder, where that is more than `folder`, which must lie in it itself.
        what: how sentences call `folder`.

    Raises:
        PSAError: for a name that is no relative path inside, a link that leads elsewhere or round in a circle, or a
            file that is not there.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise PSAError("that is not a path. Give the file's path relative to its folder.")
    if not is_text(name):
        raise PSAError(f"{shown(name)} has a name that is no text in UTF-8. Rename the file.")
    given, windows = Path(name), PureWindowsPath(name)
    if given.is_absolute() or windows.anchor or not _stays(os.path.normpath(name)):
        raise PSAError(f"{shown(name)} leads out of {what}. Put the file inside it, and give its path there.")
    try:
        target = Path(os.path.realpath(folder / given, strict=True))
        roots = [(root or folder).resolve()]
        place = folder.resolve()
    except FileNotFoundError:
        raise PSAError(f"there is no file {shown(name)}. Put it there, or leave it out.") from None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a name too long, half a surrogate pair
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise PSAError(f"{shown(name)} cannot be a file's path here ({reason}). Correct it, or leave it out.") from None
    if not place.is_relative_to(roots[0]):
        raise PSAError(f"{shown(folder.name)} is a link that leads out of its folder. Put the folder itself inside it.")
    if not any(target.is_relative_to(each) for each in [*roots, *_blobs(roots)]):
        raise PSAError(f"{shown(name)} is a link that leads out of {what}. Put the file itself inside it.")
    if not target.is_file():
        raise PSAError(f"{shown(name)} is no file. Put one there, or leave it out.")
    return folder / given


def _stays(normal: str) -> bool:
    return normal != ".." and not normal.replace("\\", "/").startswith("../")


def _blobs(roots: list[Path]) -> Iterator[Path]:
    for root in roots:
        for place in (root, *root.parents):
            if place.parent.name == "snapshots":
                yield (place.parent.parent / "blobs").resolve()


def is_text(text: str) -> bool:
    """Whether `text` can be written in UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def some(names: Iterable[str], most: int = 20) -> str:
    """Somebody's names, fit for a sentence: each `shown`, and of very many the first, and how many more there are."""
    names = list(names)
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*(shown(name) for name in names[:most]), *more])


def shown(text: str, length: int = 120) -> str:
    """Somebody's text, fit for a sentence: not long; what no terminal can write is escaped (controls, half a pair)."""
    written = text[: length + 1].encode("utf-8", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in written)
    return plain if len(plain) <= length else f"{plain[:length]}..."
