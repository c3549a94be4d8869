"""Data sets in ComfyUI's input folder: which there are, and whether one has changed."""

import os
from pathlib import Path

from ...psa_core.dataset import split_file
from ...psa_core.dataset.answers import ANSWERS, JUDGED
from ...psa_core.dataset.pair_files import DESCRIPTION, PAIRS, PICTURES, USERS
from ...psa_core.files import existing_file
from .fingerprints import fingerprint
from .folders import Stamp, at_home, input_folder, stamp

SPLITS = ("train", "val", "test_seen", "test_unseen", "harmless")
BUILT = "psa_datasets"
"""The folder there in which PSA Build Dataset makes its own; psa_review.js knows it, too."""
_LISTS = (DESCRIPTION, USERS, PAIRS, JUDGED, ANSWERS)


def data_sets() -> dict[str, Path]:
    """The folders in ComfyUI's input folder, and in its folders, that hold a split, by their path there; none that is
    hidden, as what is being unpacked.

    The paths have slashes on every system, and come from the folders' own lists: whoever looks a name up here reaches
    nothing else.
    """
    root = input_folder()
    outer = _folders_in(root)
    found = [*outer, *(inner for folder in outer for inner in _folders_in(folder))]
    named = {path.relative_to(root).as_posix(): path for path in found if splits_of(path)}
    return dict(sorted(named.items()))


def splits_of(folder: Path) -> list[str]:
    """Those of `SPLITS` that a data set has."""
    return [name for name in SPLITS if os.path.isfile(split_file(folder, name))]


def users_file(folder: Path, users: str | None) -> Path | None:
    """The users file that somebody named: in the data set's folder, or absolute; `None` where none is named.

    Raises:
        PSAError: where there is no such file.
    """
    return existing_file(folder / at_home(users), "users file") if users else None


def data_set_fingerprint(folder: Path) -> str:
    """Another value once lists, users, answers or pictures of the data set in `folder` have changed."""
    lists = [stamp(folder / name) for name in _LISTS]
    return fingerprint(str(folder), lists, *(_files_below(folder / name) for name in (PICTURES, *SPLITS)))


def _files_below(folder: Path) -> list[tuple[str, Stamp]]:
    """Of the folder and those within: what a list calls `images/1.png`, too."""
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted((str(path), stamp(path)) for path in paths)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
    except OSError:  # one that may not be read has none to show
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
