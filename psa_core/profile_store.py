"""A small store of profiles by name, so that graphs and files can hold a name in a person's place."""

import json
import os
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from .errors import PSAError
from .files import NameTakenError, atomic_path, is_plain_name, sweep_parts
from .json_text import parse_json
from .locks import held
from .profile import UserProfile

_ENDING = ".json"
_NEVER_IN_NAMES = frozenset('/\\:*?"<>|')  # what paths are made of, here or elsewhere
_SYMBOLS = frozenset("$+=^`~")
_LONGEST = 1 << 16  # bytes of a stored profile, which takes some hundred
_LONGEST_STEM = 200  # bytes; file systems stop at 255
_one_at_a_time = threading.Lock()


class ProfileStore:
    """Profiles as JSON files in one folder, in Sage's spelling, readable by their owner alone.

    Files have the mode 0600, the folder 0700. Names are words as people write them, signs such as `'`
    and `&` included: a file's name has `%27` where its profile's has `'`. No message holds more of a
    profile than its name. What a killed save left is removed by the next call that lists, saves or deletes.

    Args:
        folder: where the profiles lie; made at the first `save`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """The names of the stored profiles, sorted; none where the folder does not exist yet."""
        sweep_parts(self.folder)
        try:
            files = set(os.listdir(self.folder))  # each name is looked for among all
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PSAError("The folder of stored profiles cannot be read. Check its permissions.") from error
        names = (unquote(file.removesuffix(_ENDING)) for file in files if file.endswith(_ENDING))
        return sorted(name for name in names if (stem := _stem(name)) and stem + _ENDING in files)

    def load(self, name: str) -> UserProfile:
        """Read the profile stored as `name`.

        Raises:
            PSAError: for a name that is no plain file name or not stored, or a file that is damaged.
        """
        path = self._path(name)
        if not path.is_file():
            raise self._not_stored(name)
        try:
            with open(path, "rb") as file:
                data = parse_json(file.read(_LONGEST).decode("utf-8"), once=True)
        except (OSError, ValueError):
            raise PSAError(
                f"The stored profile '{name}' cannot be read: its file is damaged, has a name twice, or is closed to "
                "you. Save it again."
            ) from None  # the cause carries the whole file
        try:
            return UserProfile.from_dict(data)
        except PSAError as error:
            raise PSAError(f"The stored profile '{name}' is not valid. {error}") from None

    def stamp(self, name: str) -> tuple[int, ...]:
        """A value that changes with what is stored as `name`; empty where nothing is."""
        path = self._path(name)
        try:
            status = path.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def save(self, name: str, profile: UserProfile, overwrite: bool = False) -> None:
        """Store `profile` as `name`, atomically.

        What is stored under that name is kept unless `overwrite` is true, and the refusal is the same
        whether the two profiles are equal or not: else guessing would find out what is stored. Of
        several processes that save one new name at once, one succeeds.

        Raises:
            PSAError: for a name that is taken or no plain file name, something that is no profile, or
                a folder that cannot be written.
        """
        path = self._path(name)
        if not isinstance(profile, UserProfile):
            raise PSAError("Only a user profile can be stored as one.")
        self._make_folder()
        with self._alone():
            self._write(name, path, json.dumps(profile.to_dict(), indent=1).encode(), overwrite)

    def _write(self, name: str, path: Path, content: bytes, overwrite: bool) -> None:
        sweep_parts(self.folder)
        try:
            with atomic_path(path, mode=0o600, replace=overwrite) as temporary:
                temporary.write_bytes(content)
        except NameTakenError:
            raise PSAError(
                f"The name '{name}' is taken by a stored profile. Choose another name, delete that profile, or allow "
                "overwriting it."
            ) from None

    def copy(self, name: str, new: str) -> None:
        """Store what is stored as `name` as `new`, too, byte for byte, whether it can be read or not.

        Raises:
            PSAError: for a name that is not stored, or as `save` does for the new one.
        """
        with self._alone():
            self._copy(name, new)

    def rename(self, name: str, new: str) -> None:
        """As `copy`, and nothing is stored as `name` afterwards, unless it is saved later."""
        with self._alone():
            self._copy(name, new)
            self._remove(name)

    def delete(self, name: str) -> None:
        """Remove the profile stored as `name`, damaged or not.

        Raises:
            PSAError: for a name that is no plain file name or not stored, or a folder closed to writing.
        """
        sweep_parts(self.folder)
        with self._alone():
            self._remove(name)

    def _copy(self, name: str, new: str) -> None:
        path, target = self._path(name), self._path(new)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise self._not_stored(name) from None
        except OSError as error:
            raise PSAError(f"The stored profile '{name}' cannot be read. Check its file's permissions.") from error
        self._write(new, target, content, overwrite=False)

    def _remove(self, name: str) -> None:
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise self._not_stored(name) from None
        except OSError as error:
            raise PSAError(f"The stored profile '{name}' cannot be deleted. Check its folder's permissions.") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within the block no other thread changes a store nor, where folders can be locked, another process this one.

        What is saved between the two halves of a rename would be removed with the old name.
        """
        with _one_at_a_time, ExitStack() as closing:
            with suppress(OSError):  # Windows opens no folder
                handle = os.open(self.folder, os.O_RDONLY)
                closing.callback(os.close, handle)
                closing.enter_context(held(handle))
            yield

    def _path(self, name: str) -> Path:
        stem = _stem(name)
        if stem is None:
            raise PSAError(
                "That profile name cannot be used. Give 1 to 100 letters, digits, spaces and signs such as . ( ) + - _ "
                "' & , !, starting with a letter or digit, without '..', without / \\ : * ? \" < > | and no device "
                "name such as CON."
            )
        return self.folder / (stem + _ENDING)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise PSAError("The folder of stored profiles cannot be made. Check its permissions.") from error

    def _not_stored(self, name: str) -> PSAError:
        return PSAError(f"No profile is stored as '{name}'. Save one under that name, or choose another.")


def _stem(name: object) -> str | None:
    """The file's name, without its ending, of the profile `name`; `None` for no name that a profile can have."""
    if not isinstance(name, str) or not is_plain_name("".join("x" if _is_sign(c) else c for c in name)):
        return None
    stem = "".join("".join(f"%{byte:02X}" for byte in c.encode()) if _is_sign(c) else c for c in name)
    return stem if len(stem.encode()) <= _LONGEST_STEM else None


def _is_sign(character: str) -> bool:
    """Whether it may stand in a profile's name though not in a plain file name."""
    if character in " .()+-_" or character in _NEVER_IN_NAMES:
        return False
    return character in _SYMBOLS or unicodedata.category(character)[0] == "P"
