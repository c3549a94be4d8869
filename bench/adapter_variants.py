"""Adapters that no setting makes, beside the recipe: a learned sink, keys zero at first, and L0's term subtracted.

    python bench/adapter_variants.py WORK [--steps 800] [--per-cell 60] [--pictures 60]

WORK is a folder of `psa mini benchmark` or `psa mini ablate`. The sink is one more key in each of the adapter's
attentions, learned, the same for everybody, with a value of zero: a viewer's attention that goes there adds nothing.
Each is trained as long as the recipe, on the same pairs; `less L0` is the recipe's adapter, less what it does for who
bans nothing. Measured on `val`, one seed each; what a viewer without bans pays is told below the table.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from psa_core.adapter import model as adapter_model
from psa_core.adapter.attention import UserKeyValue
from psa_core.adapter.files import load_adapter, save_adapter
from psa_core.evaluate import Figure, mean
from psa_core.evaluate.changes import changes
from psa_core.evaluate.output import print_progress
from psa_core.mini import BASE_MODEL
from psa_core.mini.ablations import RECIPE, Ablation, ablate, adapter_file, table
from psa_core.mini.adapters import train_adapter
from psa_core.mini.benchmark import Plan, Studio
from psa_core.mini.evaluate import evaluate, pass_rate_lead
from psa_core.mini.generate import MiniModel
from psa_core.mini.lineup import PSA, Entry, adapters, digest
from psa_core.mini.method import Method
from psa_core.mini.requests import asking
from psa_core.mini.rivals.adapters import NOBODY, LessNobody, WithAdapter
from psa_core.seeds import draw_seed


class LayerWithSink(adapter_model.LayerProjection):
    """A layer's projections, whose attention may also go to a learned key without a value."""

    def __init__(self, cross_attention_dim: int, width: int, num_tokens: int) -> None:
        super().__init__(cross_attention_dim, width, num_tokens)
        self.sink = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: torch.Tensor) -> UserKeyValue:
        user = super().forward(tokens)
        assert user.key is not None, "a sink is for an adapter with several tokens"
        key = torch.cat([user.key, self.sink.float().expand(len(tokens), 1, -1)], dim=1)
        return UserKeyValue(key, torch.cat([user.value, torch.zeros_like(key[:, :1])], dim=1))


class LayerWithZeroKeys(adapter_model.LayerProjection):
    """A layer's projections, whose keys start at zero: all tokens count alike at first."""

    def __init__(self, cross_attention_dim: int, width: int, num_tokens: int) -> None:
        super().__init__(cross_attention_dim, width, num_tokens)
        nn.init.zeros_(self.to_k_user[0].weight)


VARIANTS = {"learned sink": LayerWithSink, "keys zero at first": LayerWithZeroKeys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=800, help="of each training (default: %(default)s)")
    parser.add_argument("--per-cell", type=int, default=60, help="pictures a figure (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=60, help="of L0's (default: %(default)s)")
    args = parser.parse_args()
    plan = Plan("val", args.per_cell, 2, 500)

    ablate(args.work, BASE_MODEL, [RECIPE], plan, args.steps, print_progress)
    model = MiniModel(BASE_MODEL)
    weights = digest(model.folder)
    recipe = adapter_file(args.work, RECIPE, args.steps)
    entries = adapters(model, {RECIPE: recipe})
    entries.append(Entry(LessNobody(model, f"{RECIPE} less L0", load_adapter(recipe)), weights + digest(recipe)))
    for name, layer in VARIANTS.items():
        folder = adapter_file(args.work, name, args.steps).with_suffix("")
        with layers_are(layer):
            trained = train_adapter(PSA, args.work / "data", folder, BASE_MODEL, steps=args.steps).adapter
        file = folder / "adapter.safetensors"
        save_adapter(trained, file)
        entries.append(Entry(WithAdapter(model, name, trained), weights + digest(file)))

    base, *others = entries
    results = evaluate(entries, plan, args.work / "seen", print_progress)
    studio = Studio(plan, args.work / "seen")
    leads = [None, *(pass_rate_lead(studio, entry, others[0]) for entry in others[1:])]
    print(table([Ablation(entry.name, results, lead) for entry, lead in zip(others, leads, strict=True)]))
    print("\nThe share of L0's pixels that are not the base model's:")
    for entry in others:
        print(f"- {entry.name}: {changed_for_nobody(entry.method, base.method, args.pictures)}", flush=True)


@contextmanager
def layers_are(layer: type[adapter_model.LayerProjection]) -> Iterator[None]:
    """Within the block new adapters are made of these layers."""
    before = adapter_model.LayerProjection
    adapter_model.LayerProjection = layer
    try:
        yield
    finally:
        adapter_model.LayerProjection = before


def changed_for_nobody(method: Method, base: Method, count: int) -> Figure:
    """The mean share of changed pixels of L0's pictures, with its interval over prompts."""
    requests = asking(False, [NOBODY], count, "val", draw_seed(Plan("val").seed, "L0"))
    with torch.no_grad():
        before, after = base.draw(requests), method.draw(requests)
    nowhere = torch.zeros(len(before), *before.shape[2:], dtype=torch.bool)
    return mean([change.changed for change in changes(before, after, nowhere)], (0.0, 1.0))


if __name__ == "__main__":
    main()
