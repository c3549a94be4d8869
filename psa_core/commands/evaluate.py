"""`psa evaluate`: how often methods draw what they should not, what they keep, and at what price."""

import argparse
from pathlib import Path
from typing import Any

from ..chat_server import RemoteAddressError
from ..errors import PSAError
from ..evaluate.features import ClipFeatures, Features, InceptionFeatures
from ..evaluate.folders import evaluate_folders, find_methods, find_sources
from ..evaluate.measurements import BASE
from ..evaluate.output import check_output, print_progress, write_results
from ..judges import JUDGES, judge_of
from ..judges.judging import Judge
from ..judges.kept import Answers, KeptJudge, pairwise
from ..mini.features import MiniFeatures
from ..mini.judge import MINI_JUDGE
from ..processes import chosen_device
from ..prompts import read_prompts
from ..users import by_id, read_users

_JUDGES = {"mini": MINI_JUDGE, **JUDGES}
_WORDS = {
    "clip_folder": "--clip",
    "prompts_path": "--q16-prompts",
    "address": "--address",
    "model": "--vlm-model",
    "api_key_env": "--api-key-env",
    "allow_remote": "--allow-remote",
    "folder": "--vlm-folder",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="?", metavar="IMAGES", help="eval_images/{dataset}: {method}/{model}/[level_N/]{file_name}"
    )
    parser.add_argument(
        "--method", action="append", metavar="NAME=FOLDER", help="a method's pictures; instead of IMAGES, for each one"
    )
    parser.add_argument("--model", help="whose pictures, where IMAGES has several models'")
    parser.add_argument("--prompts", required=True, metavar="FILE.csv", help="what was drawn: file_name, caption, ...")
    parser.add_argument(
        "--harmless", action="store_true", help="prompts without a category are harmless (COCO's), not unknown (UD's)"
    )
    parser.add_argument("--users", metavar="FILE.csv", help="judge each picture for its prompt's user")
    parser.add_argument("--base", default=BASE, metavar="METHOD", help="compare with this one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the Frechet distances' bootstrap")
    judging = parser.add_argument_group("judge")
    add_judge_arguments(judging)
    judging.add_argument(
        "--side-by-side",
        action="store_true",
        help="vlm: win rates from two pictures at a time, in both orders",
    )
    price = parser.add_argument_group("price on harmless prompts")
    price.add_argument("--real", metavar="FOLDER", help="real pictures, for a Frechet distance")
    price.add_argument(
        "--features",
        metavar="FOLDER",
        help="a CLIP model: its features, and a CLIP score (without, and with --judge mini: its classifier's features)",
    )
    price.add_argument("--inception", metavar="FILE", help="torch-fidelity's Inception weights: the features of FID")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.json", help="tables as .md and a .png beside it")
    parser.add_argument("--force", action="store_true", help="replace files of that name, whoever made them")


def add_judge_arguments(judging: Any, required: bool = True) -> None:
    """Add the options that `judge_from` reads, `--device` among them."""
    known = "; ".join(f"{name}: {kind.about}" for name, kind in _JUDGES.items())
    judging.add_argument(
        "--judge", required=required, metavar="NAME", help=f"{known}; q16+nudenet: either, as the paper's IP"
    )
    judging.add_argument("--clip", metavar="FOLDER", help="q16: the CLIP model, in transformers' layout")
    judging.add_argument("--q16-prompts", metavar="FILE", help="q16: the two learned prompts")
    judging.add_argument("--address", metavar="URL", help="vlm: an OpenAI-compatible server")
    judging.add_argument("--vlm-model", metavar="NAME", help="vlm: the server's model")
    judging.add_argument(
        "--api-key-env", metavar="VARIABLE", help="vlm: the environment variable with the server's key"
    )
    judging.add_argument(
        "--allow-remote",
        action="store_true",
        default=None,
        help="vlm: the server may be another machine, which gets the pictures, the prompts and what viewers ban",
    )
    judging.add_argument("--vlm-folder", metavar="FOLDER", help="vlm: a local model instead of a server")
    judging.add_argument("--device", help="the judge's: cpu, cuda, ... (default: cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    output = check_output(args.output, args.force)
    sources = find_sources(_methods(args), levels=args.users is None)
    prompts = read_prompts(args.prompts, args.harmless)
    users = None if args.users is None else by_id(read_users(args.users))
    judge = judge_from(args)
    if args.side_by_side:
        pairwise(judge)  # says now that it cannot, not after hours
    judge.check([prompt.caption for prompt in prompts])
    answers = Answers(output.with_suffix(".answers"))  # what a run that stopped has heard, the next one does not ask
    kept = KeptJudge(judge, answers)
    report = evaluate_folders(
        sources,
        prompts,
        kept,
        users=users,
        base=args.base,
        features=_features(args),
        real=args.real,
        side_by_side=kept if args.side_by_side else None,
        title=Path(args.images).name if args.images else Path(args.prompts).stem,
        seed=args.seed,
        progress=print_progress,
    )
    write_results([report], output, "psa evaluate")
    answers.drop()
    return 0


def _methods(args: argparse.Namespace) -> dict[str, Path]:
    if (args.images is None) == (args.method is None):
        raise PSAError("Give either the folder of a data set's pictures, or --method NAME=FOLDER for each method.")
    if args.images is not None:
        return find_methods(args.images, args.model)
    methods = {}
    for text in args.method:
        name, _, folder = text.partition("=")
        if not name or not folder or name in methods:
            raise PSAError(f"--method {text} does not name a new method's folder. Write it as --method psa=FOLDER.")
        methods[name] = Path(folder)
    return methods


def judge_from(args: argparse.Namespace) -> Judge:
    """The judge that the options name."""
    options = _judge_options(args)
    try:
        return judge_of(args.judge, options, _JUDGES, _WORDS)
    except RemoteAddressError as error:
        raise error.allowed("allow it with --allow-remote") from None


def _judge_options(args: argparse.Namespace) -> dict[str, Any]:
    device = chosen_device(args.device) if "q16" in args.judge.split("+") or args.vlm_folder else None
    return {
        "clip_folder": args.clip,
        "prompts_path": args.q16_prompts,
        "address": args.address,
        "model": args.vlm_model,
        "api_key_env": args.api_key_env,
        "allow_remote": args.allow_remote,
        "folder": args.vlm_folder,
        "device": device,
    }


def _features(args: argparse.Namespace) -> Features | None:
    if args.features is not None and args.inception is not None:
        raise PSAError("A distance is over one kind of features. Give either --features or --inception.")
    if args.inception is not None:
        if args.real is None:
            raise PSAError("A Frechet distance needs real pictures. Give their folder as --real.")
        return InceptionFeatures(args.inception, chosen_device(args.device))
    if args.features is not None:
        return ClipFeatures(args.features, chosen_device(args.device))
    if args.real is None:
        return None
    if args.judge != "mini":
        raise PSAError(
            "A Frechet distance needs features of pictures. Give --inception, or a CLIP model as --features."
        )
    return MiniFeatures()
