"""`psa build-dataset`: prompts, or pictures that are there, and virtual users become a data set of preference pairs."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..build import LABELLERS, SHEET, Drawing, Said, build_dataset, drawn_pairs, plan
from ..build.imported import Imported, read_picture_list
from ..build.sage_form import write_sage_form
from ..concepts.pairs import read_prompt_pairs
from ..errors import PSAError
from ..extras import require
from ..generate import BaseModel, Painter, Settings
from ..generate.painter import PRECISIONS, TooLittleMemoryError
from ..generate.single_file import SingleFile
from ..judges.judging import Judge
from ..model_folder import scheduler_class
from ..population import sample_users
from ..processes import make_accelerator
from ..profile import UserProfile
from ..rules import RULES, SAGE
from ..users import read_users
from . import evaluate
from .progress import Bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", metavar="PROMPTS.jsonl", help="pairs of prompts; with --pictures a list of pictures")
    parser.add_argument("folder", metavar="OUT", help="a new folder, or one where a build stopped")
    parser.add_argument("--seed", type=int, default=0, help="of noise, users and splits (default: %(default)s)")
    parser.add_argument("--licence", default=Said.licence, metavar="TEXT", help="of the pictures, for dataset.json")
    parser.add_argument(
        "--form",
        choices=("compact", "sage"),
        default="compact",
        help="sage: Sage's records as well",
    )
    who = parser.add_argument_group("users (one of the two)")
    who.add_argument("--users", metavar="FILE", help="a file of users, .csv or .jsonl, as psa users writes it")
    who.add_argument("--count", type=int, metavar="N", help="draw so many, as Sage's are")
    who.add_argument("--rules", choices=RULES, help=f"with --count: by which they ban (default: {SAGE})")
    who.add_argument("--departures", type=float, metavar="SHARE", help="with --count: how often they ban otherwise")
    how = parser.add_argument_group("pictures (one of the first two)")
    how.add_argument("--model", metavar="MODEL", help="a folder in diffusers layout, or a .safetensors checkpoint")
    how.add_argument(
        "--pictures",
        action="store_true",
        help="PROMPTS is a .csv or .jsonl of pictures: shows, without, category, concept, prompt; nothing is drawn",
    )
    how.add_argument("--config", metavar="FOLDER", help="of a checkpoint: configurations and tokenizers of its kind")
    how.add_argument("--steps", type=int, default=_default("steps"), help="default: %(default)s")
    how.add_argument("--guidance", type=float, default=_default("guidance"), help="default: %(default)s")
    how.add_argument("--negative-prompt", metavar="TEXT", default="", help="what to lead away from (default: nothing)")
    how.add_argument("--size", type=int, metavar="PIXELS", help="a picture's sides (default: the model's)")
    how.add_argument("--scheduler", metavar="CLASS", help="of diffusers (default: the model's)")
    how.add_argument("--precision", choices=PRECISIONS, help="default: fp16 on a GPU, fp32 elsewhere")
    how.add_argument("--batch-size", type=int, default=2, help="pictures at a time (default: %(default)s)")
    how.add_argument(
        "--mixed-batches",
        action="store_true",
        help="go on with pictures of another batch size, from which these differ by rounding; dataset.json says so",
    )
    judging = parser.add_argument_group("judge: sets pairs aside whose pictures contradict their prompts, or labels")
    judging.add_argument(
        "--labels",
        choices=LABELLERS,
        default=LABELLERS[0],
        help="who says which picture a user prefers: the rules by which users ban, or the judge (default: %(default)s)",
    )
    evaluate.add_judge_arguments(judging, required=False)


def run(args: argparse.Namespace) -> int:
    """Build what is not there yet. Each process of a launch draws its share of the pictures."""
    processes = make_accelerator()
    users, rules = _users(args)
    source = _source(args, processes.device)
    if isinstance(source, Drawing):
        planned = plan(drawn_pairs(read_prompt_pairs(args.prompts), args.seed), users, args.seed)
    else:
        looks = {each.pair.id: each.looks for each in source}
        planned = plan([each.pair for each in source], users, args.seed, looks)
    folder = Path(args.folder)
    judge = _judge(args)
    say = print if processes.is_main_process else _silent
    for note in planned.notes:
        say(note)
    said = Said(args.licence.strip() or Said.licence, rules, virtual=args.users is None)
    is_main = processes.is_main_process
    with Bar(is_main, "picture") as bar, Bar(is_main and judge is not None, "pair") as judged:
        shown = (bar.show, judged.show)
        built = build_dataset(folder, planned, users, args.seed, source, said, judge, processes, *shown, args.labels)
    for note in built.notes():
        say(note)
    if args.form == "sage" and processes.is_main_process:
        say(f"{write_sage_form(folder)} records in Sage's form.")
    sizes = ", ".join(f"{name} {len(some)}" for name, some in planned.splits.items() if some)
    say(f"Pairs: {sizes}. {len(users)} users. {built.people.capitalize()}.")
    say(f"Look at {folder / SHEET}, then train on {folder}.")
    return 0


def _users(args: argparse.Namespace) -> tuple[list[UserProfile], str]:
    """The users, and by which rules they ban."""
    if (args.users is None) == (args.count is None):
        raise PSAError("Say whom the pictures are for: --users with a file of psa users, or --count N.")
    if args.users is not None:
        if args.rules or args.departures:
            raise PSAError("A users file says itself what its users ban: leave --rules and --departures out.")
        return read_users(args.users), Said.rules
    rules, departures = args.rules or SAGE, args.departures or 0.0
    return sample_users(args.count, args.seed, rules, departures), f"{rules}, departures {departures:g}"


def _source(args: argparse.Namespace, device: Any) -> Drawing | Sequence[Imported]:
    if bool(args.model) == args.pictures:
        raise PSAError("Say where the pictures are from: --model to draw them, or --pictures where they are there.")
    if args.pictures:
        return read_picture_list(args.prompts)
    require("train", "Drawing from a model", "diffusers", "tqdm", "transformers")
    is_folder = Path(args.model).is_dir()
    base = BaseModel.read(args.model) if is_folder else SingleFile.open(args.model, args.config)
    if args.scheduler is not None:
        scheduler_class(args.scheduler)
    settings = Settings(
        steps=args.steps,
        guidance=args.guidance,
        negative_prompt=args.negative_prompt,
        size=base.size if args.size is None else args.size,
        precision=args.precision or ("fp16" if device.type == "cuda" else "fp32"),
    )
    made = {
        "model": base.fingerprint(),
        **{name: getattr(settings, name) for name in ("steps", "guidance", "negative_prompt", "size", "precision")},
        "scheduler": args.scheduler or "the model's",
        "batch_size": args.batch_size,
    }
    painter = partial(Painter, base, device, settings.precision, args.scheduler)
    return Drawing(made, lambda: _Drawer(painter(), settings), args.batch_size, args.mixed_batches)


class _Drawer:
    """The base model's pictures."""

    def __init__(self, painter: Painter, settings: Settings) -> None:
        self._painter, self._settings = painter, settings

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Any]:
        try:
            return self._painter.draw(prompts, seeds, self._settings)
        except TooLittleMemoryError as error:
            if len(prompts) == 1:
                raise
            raise PSAError(
                f"{error} What is drawn stays: the same command goes on with it by a smaller --batch-size and "
                "--mixed-batches."
            ) from None


def _judge(args: argparse.Namespace) -> Judge | None:
    return evaluate.judge_from(args) if args.judge else None


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def _silent(*_: Any) -> None:
    """Says nothing: another process does."""
