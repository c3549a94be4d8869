"""One-at-a-time ablations of the recipe: what each choice is worth, on `val`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..adapter.files import save_adapter
from ..evaluate import HARMLESS, Figure
from ..training import TrainConfig
from .adapters import CONFIG, KINDS, settings_of, train_adapter, trained_otherwise
from .benchmark import Plan, Studio
from .dataset import write_dataset
from .evaluate import HARMLESS_TITLE, TITLES, Results, evaluate, pass_rate_lead
from .generate import MiniModel
from .lineup import PSA, Entry, adapters
from .whole import MINUTES, check_base, refuse_made_otherwise
from .world import WAYS

_SIZES = {
    name: CONFIG[name] for name in ("resolution", "bucket_step", "precision", "batch_size", "effective_batch_size")
}
RECIPE = "the recipe"
ABLATIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        RECIPE: {},
        "one user a pair": {"every_user": False},
        "1 token": {"num_tokens": 1},
        "4 tokens": {"num_tokens": 4},
        "beta 100": {"beta": 100.0},
        "beta 1,000": {"beta": 1000.0},
        "no winner term": {"winner_weight": 0.0},
        "no pairs under the caption without": {"plain_share": 0.0},
        "no anchor": {"anchor_weight": 0.0},
        "anchor 250": {"anchor_weight": 250.0},
        "no harmless pictures in the anchor": {"harmless": False},
        "all timesteps": {"timestep_range": (0, 1000)},
        "AdamW, 3e-3": {"optimizer": "adamw", "learning_rate": 3e-3},
        "embedding standardised": {"standardise": True},
        "pictures mirrored": {"flip": True},
        "the preset recommended": {"preset": "recommended", **_SIZES},
        "the preset published": KINDS["published"].changes,
    }
)
"""What `train_adapter` is told that differs from the recipe (`adapters.CONFIG`); a preset stands for itself, at the
small world's sizes."""
_MINUTES_TO_DRAW = 2.0  # of two CPU cores


@dataclass(frozen=True)
class Ablation:
    """What a changed recipe makes of unseen users, by its name in the results.

    `lead` is its pass rate's over that of the recipe, for the same requests of all ways; `None` where that takes no
    part.
    """

    name: str
    results: Results
    lead: Figure | None = None


def minutes(work: Path, names: Sequence[str], steps: int) -> float:
    """Of two CPU cores, for those whose adapter is not there yet."""
    each = MINUTES[PSA] * steps / CONFIG["steps"] + _MINUTES_TO_DRAW
    return each * sum(not adapter_file(work, name, steps).is_file() for name in names)


def ablate(
    work: Path,
    base: Path | str,
    names: Sequence[str],
    plan: Plan,
    steps: int = CONFIG["steps"],
    progress: Callable[[str], None] = lambda _: None,
) -> list[Ablation]:
    """Train what is missing in `work`, each over as many steps, and measure on the plan's split; a stopped run goes on.

    Raises:
        PSAError: for an adapter that is there and was trained with other settings, or a folder of another base model.
    """
    check_base(work, base)
    data = work / "data"
    if not (data / HARMLESS / "metadata.jsonl").is_file():
        write_dataset(data)
    files = {name: adapter_file(work, name, steps) for name in names}
    for name, path in files.items():
        _train(name, path, data, base, steps, progress)
    studio = Studio(plan, work / "seen", progress)
    _, *entries = line_up = adapters(MiniModel(base), files)
    results = evaluate(line_up, plan, studio.folder, progress)
    recipe = next((entry for entry in entries if entry.name == RECIPE), None)
    return [Ablation(entry.name, results, _lead(studio, entry, recipe)) for entry in entries]


def adapter_file(work: Path, name: str, steps: int) -> Path:
    """Where an ablation's adapter lies; its run folder is beside it, under the same name."""
    return work / "ablations" / f"{steps}-steps" / f"{name.replace(' ', '-').replace(',', '')}.safetensors"


def _train(name: str, path: Path, data: Path, base: Path | str, steps: int, progress: Callable[[str], None]) -> None:
    """Train the ablation's adapter into its file, unless it is there."""
    changes = {**ABLATIONS[name], "steps": steps}
    if path.is_file():
        settings = {key: value for key, value in changes.items() if key in TrainConfig.model_fields}
        refuse_made_otherwise(path, trained_otherwise(path, settings_of(PSA, **settings)))
        return
    progress(f"training: {name}")
    save_adapter(train_adapter(PSA, data, path.with_suffix(""), base, **changes).adapter, path)


def _lead(studio: Studio, entry: Entry, recipe: Entry | None) -> Figure | None:
    return None if recipe is None or entry is recipe else pass_rate_lead(studio, entry, recipe)


def table(ablations: Sequence[Ablation]) -> str:
    """Markdown: a row for each."""
    heads = (
        "what differs",
        *(f"IP, {way}" for way in WAYS),
        "kept",
        "pass rate",
        "lead over the recipe, all ways",
        "price",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    unseen = TITLES["unseen"]
    for each in ablations:
        wanted: list[tuple[str, str | None]] = [("IP on banned", way) for way in WAYS]
        wanted += [("allowed kept", None), ("pass rate", None)]
        figures = [each.results.figure(unseen, each.name, *names) for names in wanted]
        price = each.results.figure(HARMLESS_TITLE, each.name, "Frechet rise", HARMLESS)
        row = " | ".join(str(figure or "-") for figure in (*figures, each.lead, price))
        lines.append(f"| {each.name} | {row} |")
    return "\n".join(lines)
