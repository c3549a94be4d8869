"""`psa dataset check`."""

import argparse
import json
import sys

from ..dataset.check import check_dataset
from ..files import atomic_path
from ..outputs import check_target, made_by_line, made_by_marks, says_made_by
from ..pictures import write_picture

_COMMAND = "psa dataset check"
_FAULTY = 1  # the exit code for a data set that is not as it should be


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="action", required=True)
    check = commands.add_parser(
        "check", help="count what is in a data set, and look for leakage, look-alikes and damage"
    )
    check.add_argument("folder", metavar="FOLDER", help="holds the splits' folders, such as train")
    check.add_argument("--users", metavar="FILE.csv", help="Sage's users.csv: what each record's user bans")
    check.add_argument("--json", metavar="FILE.json", help="write all of it as JSON, too")
    check.add_argument("--picture", metavar="FILE.png", help="write its shares as a picture, too")
    check.add_argument("--force", action="store_true", help="replace files of those names, whoever made them")


def run(args: argparse.Namespace) -> int:
    for path, ending in ((args.json, ".json"), (args.picture, ".png")):
        if path is not None:
            check_target(path, (ending,), args.force, lambda there: says_made_by(there, _COMMAND))
    found = check_dataset(args.folder, args.users, _show)
    line = made_by_line(_COMMAND)
    if args.json:
        text = json.dumps({"made_by": line, **found.to_dict()}, indent=1, ensure_ascii=False)
        with atomic_path(args.json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    if args.picture:
        with atomic_path(args.picture) as temporary:
            write_picture(found.to_figure(), temporary, pnginfo=made_by_marks(line))
    print(found.to_text())  # last: whoever reads it may have gone
    return 0 if found.passed else _FAULTY


def _show(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 100 == 0 or done == total):
        text = f"{what}: {done} of {total}" if done < total else ""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
