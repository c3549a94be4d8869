"""The same records in Sage's form: a file name for each user and picture, and `metadata.jsonl`."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..dataset import PairSplit, read_split
from ..dataset.compact import PairRecord
from ..dataset.pair_files import PAIRS, numbered_lines
from ..errors import PSAError
from ..files import atomic_path
from ..json_lines import write_objects
from .folder import set_aside
from .plan import SPLITS

MOST_RECORDS = 100_000


def write_sage_form(folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Write each split's records as Sage's, and return how many; a split whose metadata is there is left as it is.

    The pictures are hard links to those in `pictures/`, or copies where a file system has none.

    Raises:
        PSAError: for more than 100,000 records, or a folder that cannot be written.
    """
    splits = [read_split(folder, name) for name in _with_records(folder)]
    total = sum(map(len, splits))
    if total > MOST_RECORDS:
        raise PSAError(
            f"Sage's form has a record for each pair and user, here {total:,} of them, and more than {MOST_RECORDS:,} "
            "are not written. Use the compact form, which stands for the same records, or fewer users."
        )
    done = 0
    for split in splits:
        if not (split.folder / "metadata.jsonl").is_file():
            write_objects(split.folder / "metadata.jsonl", _records(split))
        done += len(split)
        if progress:
            progress(done, total)
    return total


def _with_records(folder: Path) -> list[str]:
    """The splits that have a pair which is not set aside: a judge may set all of a small one aside."""
    aside, found = set_aside(folder), []
    for name in SPLITS:
        if (folder / name / PAIRS).is_file():
            members = (data for _, _, data in numbered_lines(folder / name / PAIRS, f"list of the split '{name}'"))
            if any(not isinstance(data, dict) or data.get("pair") not in aside for data in members):
                found.append(name)
    return found


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
        concept = re.sub(r"[^\w-]+", "-", pair.concept)[:60]
        name = f"user_{record.profile.user_id}_{pair.category}_{concept}_{record.line}_{kind}{picture.suffix}"
    if not (folder / name).exists():
        try:
            os.link(picture, folder / name)
        except OSError:
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(picture, temporary)
    return name
