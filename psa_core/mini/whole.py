"""The whole benchmark from nothing: what has to be trained, how long that takes, and where it lies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..adapter.files import save_adapter
from ..profile import LEVELS
from .adapters import KINDS, train_adapter
from .base_model import train_base
from .dataset import Sizes, write_dataset
from .generate import MiniModel
from .lineup import BAN_ALL, PSA, Entry, adapters, base_entry, changed, loras, repeats, untrained
from .rivals import erasing, esd, uce
from .rivals.lora import LoRASettings, train_lora
from .rivals.weights import save_weights

_MINUTES = {"psa": 12.0, "psa-inferred": 12.0, "ban-all": 3.0, "majority": 3.0, "published": 12.0}
SEEDS = (1, 2)
"""Of the trainings of PSA beside that with seed 0."""
_SECOND_BASE = 1  # the seed with which the second base model goes on from the first
_ERASED = 40  # scenes of each symbol that UCE edits
_BAN_ALL_SIZES = Sizes(train=1000, val=2, test_seen=2, test_unseen=2, test_held_out=2)  # nothing is to be told apart
_LORA_SETS = (
    ("Propaganda", "Sexuality"),
    LEVELS["L2"].banned_categories,
    LEVELS["L3"].banned_categories,
    LEVELS["L1"].banned_categories,
)
"""The ban sets that get a LoRA: the commonest one, and three levels'."""


@dataclass(frozen=True)
class Step:
    """One thing that is made: the file by which it is known to be done, and minutes of two CPU cores."""

    name: str
    done: Path
    minutes: float
    make: Callable[[], None]

    @property
    def is_done(self) -> bool:
        return self.done.is_file()


def plan_work(work: Path, base: Path | str) -> list[Step]:
    """Everything that the whole line-up is made of, in order."""
    steps = [
        Step("the data set", work / "data" / "harmless" / "metadata.jsonl", 1, lambda: write_dataset(work / "data")),
        Step(
            "the ban-all data set",
            work / "data-ban-all" / "harmless" / "metadata.jsonl",
            1,
            lambda: write_dataset(work / "data-ban-all", sizes=_BAN_ALL_SIZES, ban_all=True),
        ),
    ]
    for kind in KINDS:
        steps.append(Step(f"the adapter {kind}", _adapter(work, kind), _MINUTES[kind], _trains(work, kind, base)))
    for seed in SEEDS:
        name = f"the adapter {PSA}, seed {seed}"
        steps.append(Step(name, _adapter(work, f"{PSA}-{seed}"), _MINUTES[PSA], _trains(work, PSA, base, seed)))
    second = work / "base-2"
    steps.append(Step("a second base model", second / "model_index.json", 16, _second_base(second, base)))
    for kind in (PSA, BAN_ALL):
        file = _adapter(work, f"{kind}-base-2")
        steps.append(Step(f"the adapter {kind} on it", file, _MINUTES[kind], _trains(work, kind, second, 0, "-base-2")))
    steps.append(Step("ESD-u", work / "ESD-u.safetensors", 5, lambda: _esd(work, base)))
    steps.append(Step("UCE", work / "UCE.safetensors", 0.2, lambda: _uce(work, base)))
    for number, bans in enumerate(_LORA_SETS):
        steps.append(Step(f"the LoRA for {', '.join(bans)}", _lora(work, number), 4, _trains_lora(work, number, base)))
    return steps


def line_up(work: Path, base: Path | str) -> list[Entry]:
    """All methods, from what `plan_work` made."""
    model = MiniModel(base)
    files = {kind: _adapter(work, kind) for kind in KINDS}
    weights = {name: work / f"{name}.safetensors" for name in ("ESD-u", "UCE")}
    costly = loras(model, {bans: _lora(work, number) for number, bans in enumerate(_LORA_SETS)})
    own = [*adapters(model, files), *untrained(model, files[PSA]), *changed(model, weights), costly]
    again = {f"{PSA}, seed {seed}": _adapter(work, f"{PSA}-{seed}") for seed in SEEDS}
    second = MiniModel(work / "base-2")
    on_it = {f"{kind}, second base": _adapter(work, f"{kind}-base-2") for kind in (PSA, BAN_ALL)}
    return [*own, *repeats(model, again), base_entry(second, "second base"), *repeats(second, on_it)]


def _adapter(work: Path, kind: str) -> Path:
    return work / f"{kind}.safetensors"


def _trains(work: Path, kind: str, base: Path | str, seed: int = 0, ending: str = "") -> Callable[[], None]:
    def make() -> None:
        data = work / ("data-ban-all" if KINDS[kind].ban_all else "data")
        name = f"{kind}-{seed}" if seed else f"{kind}{ending}"
        save_adapter(train_adapter(kind, data, work / "runs" / name, base, seed=seed).adapter, _adapter(work, name))

    return make


def _second_base(folder: Path, base: Path | str) -> Callable[[], None]:
    return lambda: train_base(folder, _SECOND_BASE, start=base)


def _lora(work: Path, number: int) -> Path:
    return work / f"lora-{number + 1}.safetensors"


def _trains_lora(work: Path, number: int, base: Path | str) -> Callable[[], None]:
    def make() -> None:
        settings = LoRASettings()
        run = work / "runs" / f"lora-{number + 1}"
        factors = train_lora(work / "data", base, _LORA_SETS[number], run, settings)
        save_weights(_lora(work, number), factors, vars(settings))

    return make


def _esd(work: Path, base: Path | str) -> None:
    settings = esd.ESDSettings()
    weights = esd.train(MiniModel(base), erasing.by_name(), settings)
    save_weights(work / "ESD-u.safetensors", weights, vars(settings))


def _uce(work: Path, base: Path | str) -> None:
    settings = uce.UCESettings()
    erased = erasing.in_scenes(_ERASED, seed=0)
    weights = uce.edit(MiniModel(base), erased, erasing.scene_prompts(7 * _ERASED, seed=0), settings)
    save_weights(work / "UCE.safetensors", weights, vars(settings))
