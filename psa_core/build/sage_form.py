"""The same records in Sage's form: a file name for each user and picture, and `metadata.jsonl`."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..dataset import PairSplit
from ..dataset.compact import PairRecord
from ..dataset.lists import is_sage_picture
from ..dataset.pair_files import PAIRS
from ..dataset.reading import read_what_is_left
from ..errors import PSAError
from ..files import atomic_path
from ..json_lines import write_objects
from ..schema import in_file_name
from .plan import SPLITS

MOST_RECORDS = 100_000
_METADATA = "metadata.jsonl"


def write_sage_form(folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Write each split's records as Sage's, in place of what was there, and return how many.

    The pictures are hard links to those in `pictures/`, or copies where a file system has none. A split of which
    nothing is left has no metadata.

    Raises:
        PSAError: for more than 100,000 records, or a folder that cannot be written.
    """
    splits = list(_with_records(folder))
    total = sum(map(len, splits))
    if total > MOST_RECORDS:
        raise PSAError(
            f"Sage's form has a record for each pair and user, here {total:,} of them, and more than {MOST_RECORDS:,} "
            "are not written. Use the compact form, which stands for the same records, or fewer users."
        )
    done = 0
    for split in splits:
        _clear(split.folder)
        write_objects(split.folder / _METADATA, _records(split))
        done += len(split)
        if progress:
            progress(done, total)
    return total


def _with_records(folder: Path) -> Iterator[PairSplit]:
    """The splits of which something is left: a judge may set all of a small one aside, and a person take it out."""
    for name in SPLITS:
        if (folder / name / PAIRS).is_file():
            if split := read_what_is_left(folder, name):
                yield split
            else:
                _clear(folder / name)


def _clear(split: Path) -> None:
    """Take away what an earlier list names: of pairs that are taken out since, nothing stays."""
    try:
        (split / _METADATA).unlink(missing_ok=True)
        for path in split.iterdir():
            if is_sage_picture(path.name):
                path.unlink()
    except OSError as error:
        raise PSAError(f"What lies in {split} cannot be taken away: {error.strerror}. Check the folder.") from error


def _records(split: PairSplit) -> Iterator[dict[str, Any]]:
    for record in split:
        assert isinstance(record, PairRecord)
        chosen, rejected = (_named(split.folder, record, path) for path in (record.chosen, record.rejected))
        yield {
            "file_name": chosen,
            "chosen": chosen,
            "rejected": rejected,
            "caption": record.caption,
            **({"caption_without": record.caption_without} if record.caption_without else {}),
            "user_data": record.profile.to_dict(),
        }


def _named(folder: Path, record: PairRecord, picture: Path) -> str:
    """Give a picture its name in Sage's form: user_{User_ID}_{category}_{concept}_{n}_{s|u}, s being the safe one."""
    pair = record.pair
    if pair.category is None:
        name = f"harmless_{record.line}{picture.suffix}"
    else:
        kind = "s" if picture == record.safe else "u"
        concept = in_file_name(pair.concept)
        name = f"user_{record.profile.user_id}_{pair.category}_{concept}_{record.line}_{kind}{picture.suffix}"
    place = folder / name
    if place.exists() and place.samefile(picture):
        return name
    try:
        place.unlink(missing_ok=True)  # of another pair, by an earlier list
        os.link(picture, place)
    except OSError:
        with atomic_path(place) as temporary:
            shutil.copyfile(picture, temporary)
    return name
