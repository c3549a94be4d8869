"""`psa mini dataset | train-base | train-adapter | train-classifier | guard | evaluate`."""

import argparse
import dataclasses
from typing import Any

from ..adapter.files import load_adapter, save_adapter
from ..extras import require
from ..mini import BASE_MODEL, PSA_ADAPTER, RIVAL_ADAPTER
from ..mini.adapters import KINDS, train_adapter
from ..mini.base_model import SEED, UNET_STEPS, train_base
from ..mini.classifier import STEPS, accuracy, load_classifier, save_classifier, train_classifier
from ..mini.dataset import Sizes, write_dataset

_FRESH = 2000  # renders that a classifier is tried on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="action", required=True)

    dataset = commands.add_parser("dataset", help="write preference pairs in Sage's format")
    dataset.add_argument("folder", metavar="OUT", help="a new folder")
    dataset.add_argument("--seed", type=int, default=0)
    dataset.add_argument("--ban-all", action="store_true", help="ban everything for everyone: the global rival's data")
    for field in dataclasses.fields(Sizes):
        option = "--" + field.name.replace("_", "-")
        dataset.add_argument(option, type=int, default=field.default, help="default: %(default)s")

    base = commands.add_parser("train-base", help="train the base model anew; a stopped run goes on")
    base.add_argument("folder", metavar="OUT")
    base.add_argument("--seed", type=int, default=SEED)
    base.add_argument("--steps", type=int, default=UNET_STEPS, help="of the UNet (default: %(default)s)")

    adapter = commands.add_parser("train-adapter", help="train an adapter; a stopped run goes on")
    adapter.add_argument("kind", choices=KINDS)
    adapter.add_argument("data", metavar="DATA", help="a folder written by `psa mini dataset`")
    adapter.add_argument("run_folder", metavar="RUN", help="the run's folder")
    adapter.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    adapter.add_argument("--steps", type=int, help="optimizer steps")
    adapter.add_argument("-o", "--output", required=True, metavar="FILE.safetensors")

    classifier = commands.add_parser("train-classifier", help="train the classifier of pictures anew, on renders")
    classifier.add_argument("output", metavar="OUT.safetensors")
    classifier.add_argument("--seed", type=int, default=0)
    classifier.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")

    guard = commands.add_parser("guard", help="measure the guard with the classifier as its judge")
    guard.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    guard.add_argument("--psa", default=PSA_ADAPTER, metavar="FILE", help="default: the shipped adapter")
    guard.add_argument("--count", type=int, default=100, help="requests of each kind (default: %(default)s)")
    guard.add_argument("--split", choices=("val", "test"), default="val", help="of places (default: %(default)s)")
    guard.add_argument("--seed", type=int, default=0, help="of prompts and noise (default: %(default)s)")

    evaluate = commands.add_parser("evaluate", help="measure adapters against the base model")
    evaluate.add_argument("--psa", default=PSA_ADAPTER, metavar="FILE", help="default: the shipped adapter")
    evaluate.add_argument(
        "--safetydpo", default=RIVAL_ADAPTER, metavar="FILE", help="the global rival (default: the shipped one)"
    )
    evaluate.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    evaluate.add_argument("--per-cell", type=int, default=300, help="prompts x users a figure (default: %(default)s)")
    evaluate.add_argument("--seed", type=int, default=0, help="of prompts and noise (default: %(default)s)")
    evaluate.add_argument(
        "-o", "--output", required=True, metavar="FILE.json", help="tables as .md and a .png go beside it"
    )
    evaluate.add_argument("--force", action="store_true", help="replace files of that name, whoever made them")


def run(args: argparse.Namespace) -> int:
    if args.action not in ("dataset", "train-classifier"):
        require("train", f"psa mini {args.action}", "diffusers", "transformers")
    return _ACTIONS[args.action](args)


def _dataset(args: argparse.Namespace) -> int:
    sizes = Sizes(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Sizes)})
    write_dataset(args.folder, args.seed, sizes, args.ban_all, _bar)
    print(f"\nWritten to {args.folder}")
    return 0


def _train_base(args: argparse.Namespace) -> int:
    train_base(args.folder, args.seed, args.steps, _say)
    return 0


def _train_adapter(args: argparse.Namespace) -> int:
    changes = {"steps": args.steps} if args.steps is not None else {}
    try:
        result = train_adapter(args.kind, args.data, args.run_folder, args.base, _show, **changes)
    except (KeyboardInterrupt, SystemExit):
        print("\nUnfinished: stopped. Start again to go on.", flush=True)
        raise
    save_adapter(result.adapter, args.output)
    print(f"\n{result.reason}\nAdapter: {args.output}")
    return 0


def _train_classifier(args: argparse.Namespace) -> int:
    trained = train_classifier(args.seed, args.steps, _say)
    save_classifier(trained, args.output)
    print(f"Classifier: {args.output}")
    for worn in (False, True):
        shares = accuracy(load_classifier(args.output), args.seed + 1, _FRESH, worn)
        right = ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
        print(f"Right on {_FRESH} fresh renders{', each worn a little' if worn else ''}: {right}", flush=True)
    return 0


def _guard(args: argparse.Namespace) -> int:
    from ..mini.generate import MiniModel
    from ..mini.guarded import guard_rows, table

    users = Sizes().people(0).unseen
    rows = guard_rows(MiniModel(args.base), load_adapter(args.psa), users, args.count, args.split, args.seed, _say)
    print(table(rows))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from ..evaluate.output import check_output, made_by_line, print_progress, write_results
    from ..mini.evaluate import evaluate_mini
    from ..mini.generate import MiniModel
    from ..mini.results import PSA, RIVAL, results_page, told

    output = check_output(args.output, args.force)
    adapters = {RIVAL: load_adapter(args.safetydpo), PSA: load_adapter(args.psa)}
    reports = evaluate_mini(MiniModel(args.base), adapters, args.per_cell, args.seed, print_progress)
    command = _again(args)
    measured = {
        "base": f"{told(args.base, BASE_MODEL, 'base model')}, without an adapter.",
        RIVAL: f"{told(args.safetydpo, RIVAL_ADAPTER, 'adapter')} of the global rival: the same loss and trainer, "
        "everything banned for everyone, no profile.",
        PSA: f"{told(args.psa, PSA_ADAPTER, 'adapter')} of PSA.",
    }
    page = results_page(
        reports, made_by=made_by_line(command), measured=measured, per_cell=args.per_cell, picture=output.stem
    )
    write_results(reports, output, command, page)
    return 0


def _again(args: argparse.Namespace) -> str:
    """The command that makes these results, for their page."""
    defaults = {"psa": PSA_ADAPTER, "safetydpo": RIVAL_ADAPTER, "base": BASE_MODEL, "per_cell": 300, "seed": 0}
    changed = [
        f" --{name.replace('_', '-')} {getattr(args, name)}"
        for name, value in defaults.items()
        if getattr(args, name) != value
    ]
    return f"psa mini evaluate{''.join(changed)} -o {args.output}"


def _say(text: str) -> None:
    print(text, flush=True)


def _bar(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        print(f"\r{done} of {total} pairs", end="", flush=True)


def _show(progress: Any) -> None:
    if progress.step % 25 == 0 or progress.step == progress.steps:
        metrics = progress.metrics
        print(
            f"step {progress.step} of {progress.steps}: loss {metrics['loss']:.4f}, accuracy {metrics['accuracy']:.2f},"
            f" winner gap {metrics['winner_gap']:.5f}",
            flush=True,
        )
    if progress.message:
        print(progress.message, flush=True)


_ACTIONS = {
    "dataset": _dataset,
    "train-base": _train_base,
    "train-adapter": _train_adapter,
    "train-classifier": _train_classifier,
    "guard": _guard,
    "evaluate": _evaluate,
}
