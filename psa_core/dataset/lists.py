"""A data set's lists, replaced all together or not at all.

New ones are written into `.lists.part`, which says nothing yet. Once that is named `.lists`, they are what the data set
holds: whoever meets the folder next, a builder or a reader, puts them into their places if a kill came in between.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import PSAError
from ..files import atomic_path
from ..json_text import parse_json
from ..locks import locked_folder
from .answers import JUDGED
from .pair_files import DESCRIPTION, PAIRS, PICTURES, USERS

_READY, _PART, _GONE = ".lists", ".lists.part", ".gone"
_SAGE_LIST = "metadata.jsonl"
_OF_THE_SET, _OF_A_SPLIT = (DESCRIPTION, USERS, PAIRS, JUDGED), (PAIRS, _SAGE_LIST)
_SAGE_PICTURE = re.compile(r"(user_[0-9]{7}_[^\\]+_[0-9]+_[su]|harmless_[0-9]+)\.[a-z]+")  # \ leads on, on Windows
_LONGEST_LIST = 1 << 28  # bytes


@contextmanager
def new_lists(folder: Path) -> Iterator[Path]:
    """Yield a folder for the lists, under the names that they have in `folder`; after the block they stand there.

    Lists that were there before and are not among them go, and so does what was made of them (Sage's form). The caller
    holds the folder's lock.

    Raises:
        PSAError: where they cannot be written; then those before are as they were.
    """
    part = folder / _PART
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        with atomic_path(part / _GONE) as temporary:
            temporary.write_text(json.dumps(_gone(folder, part)), encoding="utf-8")
        os.replace(part, folder / _READY)
    except OSError as error:
        raise _cannot(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    place_lists(folder)


def place_lists(folder: Path) -> None:
    """Finish what `new_lists` began. The caller holds the folder's lock.

    Raises:
        PSAError: where that cannot be done.
    """
    ready = folder / _READY
    if not _is_folder(ready):
        return
    try:
        for path in sorted(ready.rglob("*")):
            name = path.relative_to(ready).as_posix()
            if _is_list(folder, name, make=True) and not path.is_dir():
                os.replace(path, folder / name)
        for name in _read_gone(ready):
            if _is_list(folder, name) or _is_sage_picture(folder, name):
                (folder / name).unlink(missing_ok=True)
        for split in {name.rpartition("/")[0] for name in _read_gone(ready)}:
            if _is_plain(split) and _is_folder(folder / split):
                with suppress(OSError):  # it holds something
                    (folder / split).rmdir()
        shutil.rmtree(ready)
    except OSError as error:
        raise _cannot(folder, error) from error


def settle(folder: Path | str) -> None:
    """Before a data set is read: see that its lists are all of one time.

    Raises:
        PSAError: where another process is replacing them, or a stopped one has to be finished and cannot be.
    """
    if _is_folder(Path(folder) / _READY):
        with locked_folder(Path(folder), "building a data set in"):
            place_lists(Path(folder))


@contextmanager
def unchanged(folder: Path | str, *listed: Path) -> Iterator[None]:
    """See that what the block reads is of one time: the set's lists and `listed`, those of its splits.

    Raises:
        PSAError: where one was replaced meanwhile, in place of what the block raises of that.
    """
    before = _stamps(folder, listed)

    def check() -> None:
        if _is_folder(Path(folder) / _READY) or _stamps(folder, listed) != before:
            raise PSAError(f"The lists in {folder} were replaced while they were read. Read them again.")

    try:
        yield
    except PSAError:
        check()
        raise
    check()


def _stamps(folder: Path | str, listed: Sequence[Path]) -> list[tuple[int, int] | None]:
    """What tells each list from another in its place: its size and time. Not its inode: some file systems have none."""
    found: list[tuple[int, int] | None] = []
    for path in (*(Path(folder) / name for name in _OF_THE_SET), *listed):
        try:
            status = path.stat()
            found.append((status.st_size, status.st_mtime_ns))
        except (OSError, ValueError):  # a NUL in the name
            found.append(None)
    return found


def _gone(folder: Path, part: Path) -> list[str]:
    """What is there and will be no more."""
    splits = [each for each in folder.iterdir() if _is_plain(each.name) and _is_folder(each) and each.name != PICTURES]
    names = [name for name in _OF_THE_SET if (folder / name).is_file()]
    for name in (f"{split.name}/{each.name}" for split in splits for each in split.iterdir()):
        if _is_list(folder, name) or _is_sage_picture(folder, name):
            names.append(name)
    return sorted(name for name in names if not (part / name).exists())


def _read_gone(ready: Path) -> list[str]:
    path, names = ready / _GONE, None
    with suppress(FileNotFoundError, ValueError):  # once all is done the folder goes, piece by piece
        # Somebody else's may hold a pipe there, which would be waited for, or a link to what never ends.
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LONGEST_LIST:
            names = parse_json(path.read_bytes())
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _is_list(folder: Path, name: str, make: bool = False) -> bool:
    """Whether a list may have this name: somebody else's data set may ask for any, and through links."""
    split, slash, file = name.rpartition("/")
    if not slash:
        return name in _OF_THE_SET
    if file not in _OF_A_SPLIT or not _is_plain(split):
        return False
    if make and not (folder / split).exists():
        (folder / split).mkdir()
    return _is_folder(folder / split)


def _is_sage_picture(folder: Path, name: str) -> bool:
    split, _, file = name.rpartition("/")
    return _is_plain(split) and is_sage_picture(file) and _is_folder(folder / split)


def is_sage_picture(name: str) -> bool:
    """Whether a file in a split's folder has the name of a picture in Sage's form, as it is written here."""
    return _SAGE_PICTURE.fullmatch(name) is not None


def _is_plain(split: str) -> bool:
    return bool(split) and not split.startswith(".") and not any(sign in split for sign in "/\\\0:")


def _is_folder(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.is_dir() and not path.is_symlink()
    return False


def _cannot(folder: Path, error: OSError) -> PSAError:
    return PSAError(
        f"The lists in {folder} cannot be written: {error.strerror or error}. Check the folder, its permissions and "
        "the free space."
    )
