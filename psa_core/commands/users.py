"""`psa users`: virtual people as the Sage dataset draws them, to a file."""

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..concepts.answers import Answer, AnswerLog
from ..encoders.language_model import LanguageModelEncoder
from ..errors import PSAError
from ..files import atomic_path
from ..json_text import parse_json
from ..language_model import OnDevice
from ..outputs import check_folder, write_output
from ..pictures import write_picture
from ..plots.user_space import user_space
from ..population import sample_users
from ..processes import chosen_device
from ..profile import UserProfile
from ..rules import RULES, SAGE
from ..schema import CATEGORIES
from ..users import check_users_name, write_users
from .progress import show_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT", help="out.csv, with the columns of Sage's users.csv, or out.jsonl")
    parser.add_argument("--count", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same users (default: %(default)s)")
    parser.add_argument("--rules", choices=RULES, default=SAGE, help="who bans what (default: %(default)s)")
    parser.add_argument(
        "--departures",
        type=float,
        default=0.0,
        metavar="P",
        help="the chance that somebody departs from the rules in a category, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--picture", metavar="FILE.png", help="also draw who bans what, and where the levels lie")
    parser.add_argument("--force", action="store_true", help="replace other files of these names")
    llm = parser.add_argument_group("in place of rules")
    llm.add_argument(
        "--llm",
        metavar="FOLDER",
        help="ask a causal language model what each one bans, as the paper did; its answers are kept in "
        "OUT.answers.jsonl as they come",
    )
    llm.add_argument("--templates", metavar="FOLDER", help="holds get_banned.txt and get_embeds.txt (default: ours)")
    llm.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    if args.picture is not None and Path(args.picture).suffix.lower() != ".png":
        raise PSAError("The picture is written as PNG. Let the name after --picture end in .png.")
    output, kept = check_users_name(args.output), ""
    for path in (output, args.picture):
        if path is not None:
            check_folder(Path(path).parent)  # before anything is asked
    users = sample_users(args.count, args.seed, args.rules, args.departures)
    said = f"by the rules {args.rules}" + (f", with departures of {args.departures:g}" if args.departures else "")
    if args.llm is not None:
        if args.departures:
            raise PSAError("--departures are from the rules, and a language model follows none. Leave one of them out.")
        encoder = LanguageModelEncoder(args.llm, args.templates, placement=OnDevice(chosen_device(args.device)))
        log = output.with_name(f"{output.stem}.answers.jsonl")
        users, said = _asked(users, encoder, AnswerLog(log, private=True)), f"as {Path(args.llm).name} says"
        kept = f" The model's answers are kept in {log}: nothing is asked again."
    elif args.templates or args.device:
        raise PSAError("--templates and --device are for language models. Add --llm FOLDER, or leave them out.")
    write_output(output, lambda path: write_users(path, users), args.force, kept)
    if args.picture is not None:
        write_output(Path(args.picture), lambda path: _draw(path, users), args.force)
    print(f"Wrote {args.output}: {len(users)} virtual users, who ban {said}. None of them is real.")
    bans = Counter(category for user in users for category in user.banned_categories)
    print(", ".join(f"{category} {bans[category] / len(users):.0%}" for category in CATEGORIES))
    return 0


def _draw(path: Path, users: list[UserProfile]) -> None:
    with atomic_path(path) as temporary:
        write_picture(user_space(users), temporary)


def _asked(users: list[UserProfile], encoder: LanguageModelEncoder, log: AnswerLog) -> list[UserProfile]:
    """With the bans that the model says; people of the same fields are asked about once, and kept ones never again."""
    asked = []
    for number, user in enumerate(users, start=1):
        fields = replace(user, user_id=None, banned_categories=())
        key = hashlib.sha256(json.dumps([encoder.id, fields.to_dict()]).encode()).hexdigest()[:32]
        banned = _kept(log.get(key))
        if banned is None:
            banned = encoder.banned_categories(fields)
            log.keep(key, Answer(json.dumps(banned)), {"made_by": encoder.id})
        asked.append(replace(user, banned_categories=banned))
        show_count(number, len(users))
    return asked


def _kept(answer: Answer | None) -> tuple[str, ...] | None:
    try:
        banned = None if answer is None else parse_json(answer.text)
    except ValueError:
        return None
    return tuple(banned) if isinstance(banned, list) and all(word in CATEGORIES for word in banned) else None
