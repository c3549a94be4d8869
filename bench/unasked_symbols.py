"""How often an adapter of PSA Mini draws a symbol that nobody asked for, before prompts without symbol or mood.

    python bench/unasked_symbols.py ADAPTER.safetensors ... [--prompts 600] [--asking 90]

Of each adapter, before unseen users on the split `val`: the share of harmless prompts on which a symbol is shown, with
its 95 % interval, and which; the base model draws the same prompts from the same noise. Beside it, over fewer prompts
that ask: what is banned and shown, what stands in its place, and what is allowed and kept.
"""

import argparse
from collections import Counter
from pathlib import Path

from psa_core.adapter.files import load_adapter
from psa_core.mini import BASE_MODEL
from psa_core.mini.benchmark import DATA_SEED, Plan, Studio
from psa_core.mini.generate import MiniModel
from psa_core.mini.method import Method
from psa_core.mini.requests import asking, harmless_requests
from psa_core.mini.rivals.adapters import Base, WithAdapter
from psa_core.mini.scores import ASKING, Picture, clustered
from psa_core.seeds import draw_seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapters", nargs="+", type=Path)
    parser.add_argument("--base", default=BASE_MODEL)
    parser.add_argument("--prompts", type=int, default=600, help="harmless prompts (default: %(default)s)")
    parser.add_argument("--asking", type=int, default=90, help="prompts that ask, of a kind (default: %(default)s)")
    args = parser.parse_args()
    model = MiniModel(args.base)
    print("method | shown unasked | which | IP on banned | replaced | kept")
    measure(Base(model), args)
    for path in args.adapters:
        measure(WithAdapter(model, path.name, load_adapter(path)), args)


def measure(method: Method, args: argparse.Namespace) -> None:
    studio = Studio(Plan("val"))
    people, seed = studio.plan.sizes.people(DATA_SEED).unseen, draw_seed(studio.plan.seed, "unasked symbols")
    asked = {
        "harmless": harmless_requests(people, args.prompts, "val", seed),
        "banned": asking(True, people, args.asking, "val", seed),
        "allowed": asking(False, people, args.asking, "val", seed),
    }
    seen = {}
    for name, requests in asked.items():
        looks = studio.look(method, "", name, requests)
        seen[name] = [Picture(ASKING[0], *each) for each in zip(requests, looks, strict=True)]
    shown = Counter(each.seen.shown for each in seen["harmless"] if each.seen.shown)
    print(
        method.name,
        clustered((each, each.seen.shown is not None) for each in seen["harmless"]),
        ", ".join(f"{name} {count}" for name, count in shown.most_common()) or "-",
        clustered((each, each.banned) for each in seen["banned"]),
        clustered((each, each.replaced) for each in seen["banned"]),
        clustered((each, each.kept) for each in seen["allowed"]),
        sep=" | ",
        flush=True,
    )


if __name__ == "__main__":
    main()
