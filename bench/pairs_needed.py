"""How many pairs, and minutes, an adapter needs until PSA Mini's targets are reached on `val`.

    python bench/pairs_needed.py DATA WORK [--kind psa] [--set learning_rate=0.03 ...] [--every 3200] [--per-cell 60]

DATA is a folder of `psa mini dataset`. The adapter is trained as `psa mini train-adapter` does, with the settings that
`--set` changes (values as in TOML), and measured at checkpoints by the mini world's benchmark, on its split `val`. A
target counts as reached where its figure is within the limit; `held` says that its whole interval is. Everything is
kept in WORK: what was stopped goes on, and what was drawn is not drawn again. Figures within a run are by adapters on
the way: a rate that falls has not fallen there yet. So the last line counts for a run of that many pairs; for fewer,
start one with fewer steps.
"""

import argparse
import json
import time
from pathlib import Path

from psa_core.adapter.files import save_adapter
from psa_core.evaluate import Figure
from psa_core.files import atomic_path
from psa_core.mini import BASE_MODEL
from psa_core.mini.adapters import KINDS, train_adapter
from psa_core.mini.benchmark import Plan
from psa_core.mini.evaluate import Results, evaluate
from psa_core.mini.generate import MiniModel
from psa_core.mini.lineup import INFERRED, PSA, adapters
from psa_core.mini.results import Target, targets
from psa_core.settings import read_toml

NAMES = (PSA, INFERRED)  # of kinds of adapters that there are targets for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kind", choices=NAMES, default=PSA, help="which of the targets are asked for")
    parser.add_argument("--base", default=BASE_MODEL)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting, as TOML")
    parser.add_argument("--every", type=int, default=3200, help="pairs between two checkpoints (default: %(default)s)")
    parser.add_argument("--per-cell", type=int, default=60, help="pictures a figure (default: %(default)s)")
    parser.add_argument("--harmless", type=int, default=500, help="harmless prompts (default: %(default)s)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoints = train(args)
    plan = Plan("val", args.per_cell, 2, args.harmless)
    reached = None
    for pairs, (path, minutes) in checkpoints.items():
        results = measure(args, plan, path)
        asked = asked_for(args.kind, results)
        print(f"\n{pairs:,} pairs, {minutes:.1f} CPU minutes of training")
        met = []
        for target, figure in asked:
            within = figure.value >= target.limit if target.at_least else figure.value <= target.limit
            met.append(within)
            sign = ">=" if target.at_least else "<="
            print(f"  {'yes' if within else 'no ':4}{target.what:60}{figure} {sign} {target.limit:.3f}: ", end="")
            print(target.answer(figure), flush=True)
        if all(met) and reached is None:
            reached = (pairs, minutes)
    if reached:
        print(f"\nAll targets are first reached after {reached[0]:,} pairs, {reached[1]:.1f} CPU minutes.")
    else:
        print("\nNot all targets are reached at any checkpoint.")


def train(args: argparse.Namespace) -> dict[int, tuple[Path, float]]:
    """Adapters by the pairs that they have seen, and minutes of CPU time until there."""
    changes = {}
    if args.set:
        table = args.work / "settings.toml"
        table.write_text("\n".join(args.set), encoding="utf-8")
        changes = read_toml(table)
    log = args.work / "checkpoints.json"
    known = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else {}
    began, before = time.process_time(), max(known.values(), default=0.0)
    every = 0

    def keep(progress) -> None:
        nonlocal every
        if progress.step % 25 == 0:
            print(f"step {progress.step} of {progress.steps}, accuracy {progress.metrics['accuracy']:.2f}", flush=True)
        pairs = round(progress.step * batch)
        every = every or max(1, round(args.every / batch))
        if progress.step % every and progress.step != progress.steps:
            return
        save_adapter(progress.adapter(), args.work / f"{pairs}.safetensors")
        known[str(pairs)] = before + (time.process_time() - began) / 60
        with atomic_path(log) as temporary:
            temporary.write_text(json.dumps(known), encoding="utf-8")

    batch = changes.get("effective_batch_size", KINDS[args.kind].changes.get("effective_batch_size", 16))
    train_adapter(args.kind, args.data, args.work / "run", args.base, keep, **changes)
    order = sorted(known, key=int)
    return {int(pairs): (args.work / f"{pairs}.safetensors", known[pairs]) for pairs in order}


def measure(args: argparse.Namespace, plan: Plan, adapter: Path) -> Results:
    """The benchmark of the base model and one adapter, under the kind's name; levels are drawn, but not asked for."""
    entries = adapters(MiniModel(args.base), {args.kind: adapter})
    return evaluate(entries, plan, args.work / "seen", lambda line: None)


def asked_for(kind: str, results: Results) -> list[tuple[Target, Figure]]:
    """The targets of the kind, with their figures, as far as they were measured."""
    found = [(target, target.figure(results)) for target in targets(results) if target.method == kind]
    return [(target, figure) for target, figure in found if figure is not None]


if __name__ == "__main__":
    main()
