"""People in files: Sage's users.csv."""

from collections.abc import Iterable
from pathlib import Path

from .csv_files import read_rows
from .errors import PSAError
from .profile import UserProfile


def read_users_csv(path: Path | str) -> list[UserProfile]:
    """Read users in the format of Sage's `users.csv`; row n gets `User_ID` n unless a column says so.

    Raises:
        PSAError: for a file without users, or naming the file and row of the first one that is not valid.
    """
    profiles = []
    for number, row in enumerate(read_rows(path, "users file", "users")[1], start=1):
        try:
            profiles.append(UserProfile.from_dict({"User_ID": f"{number:07d}", **row}))
        except PSAError as error:
            raise PSAError(f"{Path(path).name}, user {number}: {error}") from None
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
