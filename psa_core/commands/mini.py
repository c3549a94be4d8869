"""`psa mini dataset | train-base | train-adapter | train-classifier | guard | evaluate | benchmark | ablate`."""

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from ..adapter.files import load_adapter, save_adapter
from ..errors import PSAError
from ..extras import require
from ..mini import ADAPTERS, BASE_MODEL
from ..mini.adapters import KINDS, train_adapter
from ..mini.base_model import FURTHER_STEPS, SEED, UNET_STEPS, train_base
from ..mini.classifier import STEPS, accuracy, load_classifier, save_classifier, train_classifier
from ..mini.dataset import Sizes, write_dataset
from ..mini.further import Further
from ..mini.whole import PARTS
from ..outputs import check_target
from ..training.folder import RunFolder

_FURTHER = {
    "viewers": "before whom the strength is calibrated; 0 leaves it out",
    "strengths": "of PSA, of which the least that keeps the promise is found",
    "pairs": "audiences of two; 0 leaves them out",
    "changes": "pictures of a kind, of which changed pixels are counted; 0 leaves it out",
    "guarded": "pictures of a kind, at which the guard looks; 0 leaves it out",
}
_VIEWERS = "-viewers"  # ends the name of the picture of six viewers
_ADAPTER = (".safetensors",)
_SECONDS = 0.15  # of a CPU, for a picture
_FRESH = 2000  # renders that a classifier is tried on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="action", required=True)

    dataset = commands.add_parser("dataset", help="write preference pairs in Sage's format")
    dataset.add_argument("folder", metavar="OUT", help="a new folder")
    dataset.add_argument("--seed", type=int, default=0)
    dataset.add_argument(
        "--ban-all", action="store_true", help="ban everything for everyone: the ban-all adapter's data"
    )
    for field in dataclasses.fields(Sizes):
        option = "--" + field.name.replace("_", "-")
        dataset.add_argument(option, type=int, default=field.default, help="default: %(default)s")

    base = commands.add_parser("train-base", help="train the base model anew; a stopped run goes on")
    base.add_argument("folder", metavar="OUT")
    base.add_argument("--seed", type=int, default=SEED)
    base.add_argument("--steps", type=int, help=f"of the UNet (default: {UNET_STEPS}, from a start {FURTHER_STEPS})")
    base.add_argument("--start", metavar="FOLDER", help="a base model to go on from, such as the first edition's")

    adapter = commands.add_parser("train-adapter", help="train an adapter; a stopped run goes on")
    adapter.add_argument("kind", choices=list(KINDS))
    adapter.add_argument("data", metavar="DATA", help="a folder written by `psa mini dataset`")
    adapter.add_argument("run_folder", metavar="RUN", help="the run's folder")
    adapter.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    adapter.add_argument("--steps", type=int, help="optimizer steps")
    adapter.add_argument("--seed", type=int, help="of the run (default: 0)")
    adapter.add_argument("-o", "--output", required=True, metavar="FILE.safetensors")
    _add_force(adapter)

    classifier = commands.add_parser("train-classifier", help="train the classifier of pictures anew, on renders")
    classifier.add_argument("output", metavar="OUT.safetensors")
    classifier.add_argument("--seed", type=int, default=0)
    classifier.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    _add_force(classifier)

    guard = commands.add_parser("guard", help="measure the guard with the classifier as its judge")
    guard.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    guard.add_argument("--psa", default=ADAPTERS["psa"], metavar="FILE", help="default: the shipped adapter")
    guard.add_argument("--per-cell", type=int, default=100, help="pictures of each kind (default: %(default)s)")

    evaluate = commands.add_parser("evaluate", help="measure adapters against the base model")
    for name, path in ADAPTERS.items():
        evaluate.add_argument(f"--{name}", default=path, metavar="FILE", help="default: the shipped adapter")
    _add_drawing(evaluate)
    beside = evaluate.add_mutually_exclusive_group()
    beside.add_argument(
        "--alone",
        action="store_true",
        help="an adapter of yours: --psa beside the base model, and of the further parts those that are asked for",
    )
    beside.add_argument("--rivals", action="store_true", help="beside what needs no training: words, SLD, ...")
    evaluate.add_argument("--work", metavar="FOLDER", help="keep here what was seen, so that a stopped run goes on")

    benchmark = commands.add_parser(
        "benchmark", help="train every rival that is missing, and measure all; a stopped run goes on"
    )
    benchmark.add_argument("work", metavar="WORK", help="a folder for data, adapters and what was seen")
    benchmark.add_argument(
        "--without", nargs="+", choices=PARTS, default=[], metavar="PART", help=f"leave out some of: {', '.join(PARTS)}"
    )
    _add_drawing(benchmark)

    ablate = commands.add_parser(
        "ablate", help="what each choice of the recipe is worth, on val; a stopped run goes on"
    )
    ablate.add_argument("work", metavar="WORK", help="the benchmark's folder, or a new one")
    ablate.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    ablate.add_argument("--only", nargs="+", metavar="NAME", help="of the ablations' names (default: all)")
    ablate.add_argument("--steps", type=int, help="optimizer steps of each (default: the recipe's)")
    ablate.add_argument("--per-cell", type=int, default=100, help="pictures a figure (default: %(default)s)")
    ablate.add_argument("-o", "--output", required=True, metavar="FILE.md")
    _add_force(ablate)


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default=BASE_MODEL, metavar="FOLDER", help="default: the shipped base model")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="choose by val; test is drawn once")
    parser.add_argument("--per-cell", type=int, default=200, help="pictures a figure (default: %(default)s)")
    parser.add_argument(
        "--rivals-per-cell", type=int, metavar="N", help="where no target rests on it (default: as many)"
    )
    parser.add_argument("--levels", type=int, default=140, help="prompts a level (default: %(default)s)")
    parser.add_argument("--harmless", type=int, default=2000, help="harmless prompts (default: %(default)s)")
    for field in dataclasses.fields(Further):
        default: Any = field.default
        many = isinstance(default, tuple)
        parser.add_argument(
            f"--{field.name}",
            type=float if many else int,
            nargs="+" if many else None,
            help=f"{_FURTHER[field.name]} (default: {' '.join(map(str, default)) if many else default})",
        )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.json", help="the page as .md and a .png go beside it"
    )
    _add_force(parser)


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace files of that name, whoever made them")


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
    train_base(args.folder, args.seed, args.steps, _say, args.start)
    return 0


def _train_adapter(args: argparse.Namespace) -> int:
    is_run = RunFolder(args.run_folder).state_path.is_file()  # whose adapter may be there, if it is done
    check_target(args.output, _ADAPTER, args.force, lambda path: is_run and _is_adapter(path))
    changes = {name: getattr(args, name) for name in ("steps", "seed") if getattr(args, name) is not None}
    try:
        result = train_adapter(args.kind, args.data, args.run_folder, args.base, _show, **changes)
    except (KeyboardInterrupt, SystemExit):
        print("\nUnfinished: stopped. Start again to go on.", flush=True)
        raise
    save_adapter(result.adapter, args.output)
    print(f"\n{result.reason}\nAdapter: {args.output}")
    return 0


def _train_classifier(args: argparse.Namespace) -> int:
    check_target(args.output, _ADAPTER, args.force)
    trained = train_classifier(args.seed, args.steps, _say)
    save_classifier(trained, args.output)
    print(f"Classifier: {args.output}")
    for worn in (False, True):
        shares = accuracy(load_classifier(args.output), args.seed + 1, _FRESH, worn)
        right = ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
        print(f"Right on {_FRESH} fresh renders{', each worn a little' if worn else ''}: {right}", flush=True)
    return 0


def _is_adapter(path: Path) -> bool:
    try:
        load_adapter(path)
    except PSAError:
        return False
    return True


def _guard(args: argparse.Namespace) -> int:
    from ..mini.benchmark import Plan
    from ..mini.generate import MiniModel
    from ..mini.guarded import guard_rows, table

    plan = Plan("val", args.per_cell, harmless=args.per_cell)
    print(table(guard_rows(MiniModel(args.base), load_adapter(args.psa), plan, _say)))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from ..evaluate.output import check_output
    from ..mini.generate import MiniModel
    from ..mini.lineup import adapters, untrained

    output = check_output(args.output, args.force, [_VIEWERS])
    names = ("psa",) if args.alone else ADAPTERS
    files = {name: Path(getattr(args, name.replace("-", "_"))) for name in names}
    model = MiniModel(args.base)
    entries = adapters(model, files) + (untrained(model, files["psa"]) if args.rivals else [])
    return _measure(args, entries, output, Path(args.work) if args.work else None)


def _benchmark(args: argparse.Namespace) -> int:
    from ..evaluate.output import check_output
    from ..mini.whole import check_base, line_up, plan_work

    output = check_output(args.output, args.force, [_VIEWERS])
    sizes = _further(args)
    work = Path(args.work)
    check_base(work, args.base)
    steps = plan_work(work, args.base, args.without)
    missing = [step for step in steps if not step.is_done]
    minutes = sum(step.minutes for step in missing)
    print(f"{len(missing)} of {len(steps)} things are to be made: about {minutes:.0f} minutes of two CPU cores.")
    print(f"Then the pictures, about {_SECONDS} CPU seconds each, {sizes.how_many(args.split):,} of them for strength,")
    print("audiences, changes and guard. What is done is kept; start again to go on.", flush=True)
    for step in missing:
        print(f"{step.name} (about {step.minutes:.0f} minutes)", flush=True)
        step.make()
    return _measure(args, line_up(work, args.base, args.without), output, work / "seen")


def _ablate(args: argparse.Namespace) -> int:
    from ..evaluate.output import print_progress
    from ..files import atomic_path
    from ..mini.ablations import ABLATIONS, ablate, minutes, table
    from ..mini.adapters import CONFIG
    from ..mini.benchmark import Plan
    from ..outputs import made_by_line, says_made_by

    names = args.only or list(ABLATIONS)
    if unknown := [name for name in names if name not in ABLATIONS]:
        raise PSAError(f"There is no ablation '{unknown[0]}'. There are: {'; '.join(ABLATIONS)}.")
    made_by = made_by_line(_again(args))
    output = check_target(args.output, (".md",), args.force, lambda path: says_made_by(path, "psa mini ablate"))
    work = Path(args.work)
    steps = CONFIG["steps"] if args.steps is None else args.steps
    hours = minutes(work, names, steps) / 60
    print(f"{len(names)} ablations, about {hours:.1f} hours of two CPU cores for what is missing.", flush=True)
    found = ablate(work, args.base, names, Plan("val", args.per_cell, 2, 500), steps, print_progress)
    told = f"{steps} steps of each; split `val`, unseen users, {args.per_cell} pictures a cell; one seed each."
    text = f"# One choice of the recipe at a time\n\n{table(found)}\n\n{told}\n\n{made_by}\n"
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"\n{text}")
    return 0


def _measure(args: argparse.Namespace, entries, output: Path, folder: Path | None) -> int:
    from ..evaluate.output import print_progress, write_results
    from ..mini.benchmark import Plan
    from ..mini.evaluate import evaluate, how_many, timed
    from ..mini.further import measure_further
    from ..mini.lineup import told
    from ..mini.results import drawn_reports, results_page
    from ..mini.strength import to_dict
    from ..mini.times_drawn import count_drawing
    from ..mini.viewers import how_many as how_many_shown
    from ..mini.viewers import viewers_picture
    from ..outputs import made_by_line

    plan = Plan(args.split, args.per_cell, args.levels, args.harmless, args.rivals_per_cell)
    sizes = _further(args)
    count = how_many(entries, plan) + sizes.how_many(args.split) + how_many_shown()
    minutes = count * _SECONDS / 60
    print(
        f"At most {count:,} pictures are to be drawn: about {minutes:.0f} CPU minutes, less what is kept.", flush=True
    )
    drawings, drawn = count_drawing(output, plan, {entry.name: entry.short_digest for entry in entries})
    print(drawn, flush=True)
    results = timed(evaluate(entries, plan, folder, print_progress), folder, print_progress)
    results = measure_further(results, sizes, folder, print_progress)
    strength = to_dict(results.calibration) if results.calibration else None
    command = _again(args)
    page = results_page(
        results, made_by=made_by_line(command), measured=told(entries), picture=output.stem, drawn=drawn
    )
    more = {"drawings": drawings, "strength": strength}
    pictures = {_VIEWERS: viewers_picture(entries, plan)}
    write_results(results.reports, output, command, page, more, pictures, drawn_reports(results))
    return 0


def _further(args: argparse.Namespace) -> Further:
    """What is not said is as by default; beside an adapter that is measured alone it is left out."""
    said = {field.name: getattr(args, field.name) for field in dataclasses.fields(Further)}
    said["strengths"] = tuple(args.strengths) if args.strengths else None
    nothing = {"viewers": 0, "pairs": 0, "changes": 0, "guarded": 0} if getattr(args, "alone", False) else {}
    return Further(**{**nothing, **{name: value for name, value in said.items() if value is not None}})


def _again(args: argparse.Namespace) -> str:
    """The command, less what is as by default. Of whole paths the names alone: results are handed round."""
    words = ["psa", "mini", args.action]
    if args.action in ("benchmark", "ablate"):
        words.append(_named(args.work))
    defaults: dict[str, Any] = {
        "without": [],
        "only": None,
        "steps": None,
        "split": "val",
        "per_cell": 100 if args.action == "ablate" else 200,
        "levels": 140,
        "harmless": 2000,
        "rivals_per_cell": None,
        "base": BASE_MODEL,
    }
    defaults |= {name.replace("-", "_"): path for name, path in ADAPTERS.items()}
    defaults |= {field.name: None for field in dataclasses.fields(Further)}
    for name, default in defaults.items():
        value = getattr(args, name, default)
        if value != default:
            words += [f"--{name.replace('_', '-')}", *map(_named, value if isinstance(value, list) else [value])]
    words += [f"--{name}" for name in ("alone", "rivals") if getattr(args, name, False)]
    return shlex.join([*words, "-o", _named(args.output)])


def _named(value: Any) -> str:
    text = str(value)
    return Path(text).name if Path(text).is_absolute() else text


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
    "benchmark": _benchmark,
    "ablate": _ablate,
}
