"""People in files: Sage's users.csv."""

import csv
from collections.abc import Iterable
from pathlib import Path

from .errors import PSAError
from .files import existing_file
from .profile import UserProfile


def read_users_csv(path: Path | str) -> list[UserProfile]:
    """Read users in the format of Sage's `users.csv`; row n gets `User_ID` n unless a column says so.

    Raises:
        PSAError: for a file without users, or naming the file and row of the first one that is not valid.
    """
    path = existing_file(path, "users file")
    profiles = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise PSAError(f"{path.name} is not a CSV file in UTF-8. Export it again.") from error
    if not rows:
        raise PSAError(f"{path.name} holds no users: it needs a header row and at least one more.")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():  # how csv marks a row of another length
            raise PSAError(f"{path.name}, user {number}: the row has more or fewer cells than the header.")
        try:
            profiles.append(UserProfile.from_dict({"User_ID": f"{number:07d}", **row}))
        except PSAError as error:
            raise PSAError(f"{path.name}, user {number}: {error}") from None
    return profiles


def by_id(profiles: Iterable[UserProfile]) -> dict[str | None, UserProfile]:
    """Profiles by User_ID.

    Raises:
        PSAError: where two have the same one, so that nobody stands in for somebody else.
    """
    profiles = list(profiles)
    found = {profile.user_id: profile for profile in profiles}
    if len(found) < len(profiles):
        raise PSAError("Two users in the users file have the same User_ID. Give each one of their own.")
    return found
