"""A data set that comes as somebody's .zip archive: all of it becomes a new folder, or nothing does.

Nothing that the archive says of itself is trusted. Files are written as plain ones, under names that mean the same on
every system, and what comes out is counted. Only what a data set is made of is taken; what a system leaves in archives
by itself (`__MACOSX`, hidden files, `Thumbs.db`) is passed over, anything else is named.
"""

import io
import os
import struct
import unicodedata
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_IFREG
from typing import NamedTuple

from ..errors import PSAError
from ..files import check_room, is_device, is_plain_name, printable, shown, some, temporary_folder
from ..pictures import ENDINGS
from .check import HELD_OUT, TRAINED_ON, split_names
from .overview import summary
from .pair_files import PAIRS
from .reading import read_split, read_what_is_left

ARCHIVE = ".zip"
_LISTS = (PAIRS, "metadata.jsonl")
_KEPT = {*ENDINGS, ".jsonl", ".json", ".csv", ".txt", ".md"}
_KEPT_WITHOUT_ENDING = {"licence", "license", "copying", "notice", "readme"}
_LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini"}
_ARCHIVES = {ARCHIVE, ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the others, zipfile unpacks a piece whole, however large
_ENCRYPTED = 0x2041  # bits of a member's flags
_UTF8 = 0x800  # another
_MOST_FILES = 250_000
_LONGEST_LIST = 1 << 25  # bytes of an archive's list of its members, which is read at once
_LONGEST_NAME, _DEEPEST = 255, 12  # bytes of a part of a path; parts
_RATIO, _ALWAYS = 100, 1 << 26  # unpacked to packed size at most, and bytes that any archive may unpack to
_CHUNK = 1 << 20
_NAMED = 3  # files that a sentence names
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, IndexError),
    *(NotImplementedError, OverflowError, RuntimeError),
)
_Members = dict[tuple[str, ...], zipfile.ZipInfo]


class Imported(NamedTuple):
    """The new folder, and what is in it, in words; nothing of a profile."""

    folder: Path
    said: str


def import_archive(archive: Path, parent: Path, file_name: str) -> Imported:
    """Unpack a data set into a new folder of `parent`, which must exist, and read it once.

    A single folder around everything is taken off.

    Args:
        file_name: what the archive's owner calls it, ending in .zip. The new folder is called so, too, as far as a
            folder can be; where there is one of that name, with a number behind it.

    Raises:
        PSAError: for an archive that is damaged, holds something else than a data set, or would not stay in its place
            and bounds; or a full disk. Then nothing is left.
    """
    name = folder_name(file_name)
    with temporary_folder(parent) as part:
        made = part / name
        try:
            left_out = _unpack(archive, made)
            said = _read(made)
            folder = _placed(made, parent / name)
        except PSAError as error:
            raise PSAError(f"The archive {name} is not unpacked. {str(error).replace(str(made), name)}") from None
        except OSError as error:
            raise PSAError(
                f"The archive {name} cannot be unpacked: {error.strerror or error}. Check the free space, and the "
                f"permissions of {printable(parent)}."
            ) from error
    if left_out:
        said += f"\nNot unpacked, for no data set is made of such files: {some(left_out, _NAMED)}."
    return Imported(folder, said)


def folder_name(file_name: str) -> str:
    """What the folder of an archive of that name is called; raises PSAError for one that does not end in .zip."""
    stem, ending = os.path.splitext(file_name)
    if ending.lower() != ARCHIVE:
        raise PSAError(f"{shown(file_name)} is no {ARCHIVE} archive by its name. Pack the data set's folder as one.")
    signs = unicodedata.normalize("NFC", stem)[:60].replace("..", "_")
    name = "".join(sign if is_plain_name(f"a{sign}a") else "_" for sign in signs).strip(" ._")
    return name if is_plain_name(f"{name} (9999)") and is_plain_name(name) else "data set"


def _unpack(archive: Path, folder: Path) -> list[str]:
    """Write the archive's data set into `folder`, a new one; returns the names of files that are none of it."""
    try:
        with _Archive(open(archive, "rb", buffering=0)) as file, zipfile.ZipFile(file) as opened:
            members, left_out = _members(opened)
            room = max(_ALWAYS, _RATIO * archive.stat().st_size)
            declared = sum(info.file_size for info in members.values())
            _check_size(declared, room)
            check_room(folder.parent, declared)
            for path, info in _without_outer_folders(members).items():
                room -= _write(opened, info, folder.joinpath(*path), room)
    except (PSAError, OSError):
        raise
    except _DAMAGED:
        raise PSAError(f"It is damaged, or no {ARCHIVE} archive. Pack the folder anew.") from None
    return left_out


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, room: int) -> int:
    """Write a member that takes no more than `room`, and say how much it took."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(info) as source, open(target, "xb") as written:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            _check_size(size, room)
            written.write(chunk)
    return size


class _Archive(io.BufferedReader):
    """A file that `zipfile` reads. An archive may be all list of members, and is not read into memory then."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LONGEST_LIST:
            raise _too_many()
        return super().read(size)


def _members(opened: zipfile.ZipFile) -> tuple[_Members, list[str]]:
    """What is to be unpacked, by the parts of its path; and the names of what is not."""
    infos = opened.infolist()
    if len(infos) > _MOST_FILES:
        raise _too_many()
    members: _Members = {}
    left_out, seen = [], set()
    for info in infos:
        path = _path(info)
        if not path or info.is_dir() or any(part.startswith(".") or part.lower() in _LEFTOVERS for part in path):
            continue
        name = "/".join(path)
        ending = PurePosixPath(path[-1]).suffix.lower()
        if ending in _ARCHIVES:
            raise PSAError(
                f"It holds another archive, {shown(name)}. Unpack that, and pack the data set's folder anew."
            )
        if ending not in _KEPT and path[-1].lower() not in _KEPT_WITHOUT_ENDING:
            left_out.append(name)
            continue
        _check_kind(info, name)
        if (key := unicodedata.normalize("NFC", name).casefold()) in seen:
            raise PSAError(f"Two of its files are called {shown(name)} where names are compared. Rename one of them.")
        seen.add(key)
        members[path] = info
    return members, left_out


def _path(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The parts of a member's path, none for the folder of everything itself.

    Raises:
        PSAError: for a path that does not mean the same place inside a folder on every system.
    """
    name = info.orig_filename  # the other one is cut at a NUL
    if not info.flag_bits & _UTF8:
        with suppress(ValueError):
            name = name.encode("cp437").decode("utf-8")  # macOS does not say so
    parts = tuple(part for part in name.removesuffix("/").split("/") if part != ".")
    if not all(map(_is_portable, parts)) or len(parts) > _DEEPEST:
        raise PSAError(
            f"It holds a file that cannot be unpacked under its name, {shown(name)}. Rename it, or leave it out, and "
            "pack the folder anew."
        )
    return parts


def _is_portable(part: str) -> bool:
    return (
        part not in ("", "..")
        and not any(sign in '\\:?*<>|"' or unicodedata.category(sign) in ("Cc", "Cs") for sign in part)
        and part[-1] not in " ."
        and len(part.encode()) <= _LONGEST_NAME
        and not is_device(part)
    )


def _check_kind(info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise PSAError(f"{shown(name)} in it is encrypted. Pack the folder without a password.")
    if S_IFMT(info.external_attr >> 16) not in (0, S_IFREG):
        raise PSAError(f"{shown(name)} in it is a link, or no file at all. Pack the files themselves.")
    if info.compress_type not in _METHODS:
        raise PSAError(f"{shown(name)} in it is packed in an unusual way. Pack the folder as other .zip archives are.")


def _without_outer_folders(members: _Members) -> _Members:
    """Without folders that hold everything, down to that of the data set."""
    while len({path[0] for path in members}) == 1 and any(len(path) > 2 and path[-1] in _LISTS for path in members):
        members = {path[1:]: info for path, info in members.items()}
    return members


def _check_size(size: int, room: int) -> None:
    if size > room:
        raise PSAError(
            f"It unpacks to more than {_RATIO} times its size, as no pictures do. If it is a data set of yours, unpack "
            "it by hand."
        )


def _too_many() -> PSAError:
    return PSAError(f"It holds more than {_MOST_FILES:,} files. Unpack it by hand.")


def _read(folder: Path) -> str:
    """What the data set's splits hold, in words; raises PSAError where all that one of them holds is damaged."""
    names = [name for name in split_names(folder) if name in (*TRAINED_ON, *HELD_OUT)]
    if not names:
        raise PSAError(
            "There is no data set in it: no folder such as train with metadata.jsonl or pairs.jsonl. Pack the "
            "folder that holds train."
        )
    said = []
    for name in names:
        try:
            split = read_what_is_left(folder, name, skip_bad=True)
        except PSAError:
            read_split(folder, name)  # which says what is wrong with the first record
            raise
        said.append(summary(split) if split else f"{name}: nothing of it is left, all is set aside or taken out")
    return "\n".join(said)


def _placed(made: Path, wanted: Path) -> Path:
    """Give the folder `made` the name `wanted`, or one with a number where there is something of that name."""
    path, number = wanted, 0
    while True:
        if not os.path.lexists(path):
            try:
                os.rename(made, path)
                return path
            except OSError:
                if not os.path.lexists(path):  # nobody else's that has come meanwhile
                    raise
        number += 1
        path = wanted.with_name(f"{wanted.name} ({number})")
