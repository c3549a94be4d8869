"""A learned sink, against the term of L0 subtracted: what a viewer who bans nothing pays, and what all others get.

    python bench/learned_sink.py WORK [--steps 800] [--per-cell 60] [--pictures 60]

WORK is a folder of `psa mini benchmark` or `psa mini ablate`. The sink is one more key in each of the adapter's
attentions, learned, the same for everybody, with a value of zero: a viewer's attention that goes there adds nothing.
Beside it stand the recipe, trained as long on the same pairs, and the same less L0's term. On `val`, one seed each.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from psa_core.adapter import model as adapter_model
from psa_core.adapter.attention import UserKeyValue
from psa_core.adapter.files import load_adapter, save_adapter
from psa_core.evaluate import mean
from psa_core.evaluate.changes import changes
from psa_core.evaluate.output import print_progress
from psa_core.mini import BASE_MODEL
from psa_core.mini.ablations import Ablation, ablate, table
from psa_core.mini.adapters import train_adapter
from psa_core.mini.benchmark import Plan
from psa_core.mini.evaluate import evaluate
from psa_core.mini.generate import MiniModel
from psa_core.mini.lineup import PSA, Entry, adapters, digest
from psa_core.mini.method import Method
from psa_core.mini.requests import asking
from psa_core.mini.rivals.adapters import NOBODY, Base, LessNobody, WithAdapter
from psa_core.seeds import draw_seed

RECIPE, LESS, SINK = "the recipe", "the recipe less L0", "learned sink"


class LayerWithSink(adapter_model.LayerProjection):
    """A layer's projections, whose attention may also go to a learned key without a value."""

    def __init__(self, cross_attention_dim: int, width: int, num_tokens: int) -> None:
        super().__init__(cross_attention_dim, width, num_tokens)
        self.sink = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: torch.Tensor) -> UserKeyValue:
        user, rows = super().forward(tokens), len(tokens)
        key = torch.cat([user.key, self.sink.float().expand(rows, 1, -1)], dim=1)
        return UserKeyValue(key, torch.cat([user.value, torch.zeros_like(key[:, :1])], dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=800, help="of each training (default: %(default)s)")
    parser.add_argument("--per-cell", type=int, default=60, help="pictures a figure (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=60, help="of L0's (default: %(default)s)")
    args = parser.parse_args()
    plan = Plan("val", args.per_cell, 2, 500)

    ablate(args.work, BASE_MODEL, [RECIPE], plan, args.steps, print_progress)
    model, place = MiniModel(BASE_MODEL), args.work / "ablations" / f"{args.steps}-steps"
    recipe = place / "the-recipe.safetensors"
    entries = adapters(model, {RECIPE: recipe})
    weights = digest(model.folder)
    entries.append(Entry(LessNobody(model, LESS, load_adapter(recipe)), weights + digest(recipe)))

    adapter_model.LayerProjection = LayerWithSink
    sink = place / "learned-sink"
    trained = train_adapter(PSA, args.work / "data", sink, BASE_MODEL, steps=args.steps).adapter
    file = sink / "adapter.safetensors"
    save_adapter(trained, file)
    entries.append(Entry(WithAdapter(model, SINK, trained), weights + digest(file)))

    results = evaluate(entries, plan, args.work / "seen", print_progress)
    print(table([Ablation(name, results) for name in (RECIPE, LESS, SINK)]))
    print("\nL0's pixels that are not the base model's:")
    for entry in entries[1:]:
        print(f"- {entry.name}: {changed_for_nobody(entry.method, Base(model), args.pictures)}", flush=True)


def changed_for_nobody(method: Method, base: Method, count: int):
    """The mean share of changed pixels of L0's pictures, with its interval over prompts."""
    requests = asking(False, [NOBODY], count, "val", draw_seed(Plan("val").seed, "L0"))
    with torch.no_grad():
        before, after = base.draw(requests), method.draw(requests)
    nowhere = torch.zeros(len(before), *before.shape[2:], dtype=torch.bool)
    return mean([change.changed for change in changes(before, after, nowhere)], (0.0, 1.0))


if __name__ == "__main__":
    main()
