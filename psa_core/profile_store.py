"""A small store of profiles by name, so that graphs and files can hold a name in a person's place."""

import json
import os
from pathlib import Path

from .errors import PSAError
from .files import NameTakenError, atomic_path, is_plain_name, safe_file_name, sweep_parts
from .profile import UserProfile

_ENDING = ".json"


class ProfileStore:
    """Profiles as JSON files in one folder, in Sage's spelling, readable by their owner alone.

    Files have the mode 0600, the folder 0700. Names follow `safe_file_name`. No message holds more of
    a profile than its name. What a killed save left is removed by the next call that lists, saves or deletes.

    Args:
        folder: where the profiles lie; made at the first `save`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """The names of the stored profiles, sorted; none where the folder does not exist yet."""
        sweep_parts(self.folder)
        try:
            files = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PSAError("The folder of stored profiles cannot be read. Check its permissions.") from error
        names = (file.removesuffix(_ENDING) for file in files if file.endswith(_ENDING))
        return sorted(name for name in names if is_plain_name(name))

    def load(self, name: str) -> UserProfile:
        """Read the profile stored as `name`.

        Raises:
            PSAError: for a name that is no plain file name or not stored, or a file that is damaged.
        """
        path = self._path(name)
        if not path.is_file():
            raise self._not_stored(name)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise PSAError(
                f"The stored profile '{name}' cannot be read: its file is damaged or closed to you. Save it again."
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
        text = json.dumps(profile.to_dict(), indent=1)
        self._make_folder()
        sweep_parts(self.folder)
        try:
            with atomic_path(path, mode=0o600, replace=overwrite) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except NameTakenError:
            raise PSAError(
                f"The name '{name}' is taken by a stored profile. Choose another name, delete that profile, or allow "
                "overwriting it."
            ) from None

    def delete(self, name: str) -> None:
        """Remove the profile stored as `name`, damaged or not.

        Raises:
            PSAError: for a name that is no plain file name or not stored, or a folder closed to writing.
        """
        sweep_parts(self.folder)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise self._not_stored(name) from None
        except OSError as error:
            raise PSAError(f"The stored profile '{name}' cannot be deleted. Check its folder's permissions.") from error

    def _path(self, name: str) -> Path:
        return self.folder / (safe_file_name(name, "profile name") + _ENDING)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise PSAError("The folder of stored profiles cannot be made. Check its permissions.") from error

    def _not_stored(self, name: str) -> PSAError:
        return PSAError(f"No profile is stored as '{name}'. Save one under that name, or choose another.")
