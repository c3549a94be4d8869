"""People in files: Sage's users.csv, and the same with a JSON object a line."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .csv_files import read_rows
from .errors import PSAError
from .files import atomic_path
from .json_lines import read_objects, write_objects
from .profile import UserProfile
from .schema import MOST_USERS

_JSONL = ".jsonl"


def read_users(path: Path | str) -> list[UserProfile]:
    """Read a users file: JSONL where its name ends in .jsonl, else CSV as `read_users_csv` does.

    Raises:
        PSAError: for a file without users, or naming the file and row of the first one that is not valid.
    """
    if Path(path).suffix.lower() != _JSONL:
        return read_users_csv(path)
    return _profiles(path, (data for _, data in read_objects(path, "users file", MOST_USERS)))


def read_users_csv(path: Path | str) -> list[UserProfile]:
    """Read users in the format of Sage's `users.csv`; row n gets `User_ID` n unless a column says so.

    Raises:
        PSAError: for a file without users, or naming the file and row of the first one that is not valid.
    """
    return _profiles(path, read_rows(path, "users file", "users")[1])


def write_users(path: Path | str, profiles: Sequence[UserProfile]) -> None:
    """Write users atomically: CSV with the columns of Sage's users.csv after `User_ID`, or JSONL, as the name ends.

    Lists of categories are printed as Sage prints them. The file is readable by its owner alone (mode 0600).

    Raises:
        PSAError: for a name that ends in neither .csv nor .jsonl, no user, or one without a `User_ID`.
    """
    path = check_users_name(path)
    if not profiles or any(profile.user_id is None for profile in profiles):
        raise PSAError("A users file holds at least one user, and each has a User_ID.")
    rows = [profile.to_dict() for profile in profiles]
    if path.suffix.lower() == _JSONL:
        write_objects(path, rows, mode=0o600)
        return
    with atomic_path(path, mode=0o600) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)  # a list is printed: ['Hate', 'Violence']


def check_users_name(path: Path | str) -> Path:
    """Raise PSAError for a file name that `write_users` does not take."""
    path = Path(path)
    if path.suffix.lower() not in (".csv", _JSONL):
        raise PSAError("Users are written as .csv or .jsonl. Let the file's name end so.")
    return path


def _profiles(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> list[UserProfile]:
    profiles = []
    for number, row in enumerate(rows, start=1):
        try:
            profiles.append(UserProfile.from_dict({"User_ID": f"{number:07d}", **row}))
        except PSAError as error:
            raise PSAError(f"{Path(path).name}, user {number}: {error}") from None
    if not profiles:
        raise PSAError(f"{Path(path).name} holds no users.")
    return profiles


def by_id(profiles: Iterable[UserProfile]) -> dict[str, UserProfile]:
    """Profiles by User_ID, those without one left out.

    Raises:
        PSAError: where two have the same one, so that nobody stands in for somebody else.
    """
    known = [(profile.user_id, profile) for profile in profiles if profile.user_id is not None]
    found = dict(known)
    if len(found) < len(known):
        raise PSAError("Two users in the users file have the same User_ID. Give each one of their own.")
    return found
