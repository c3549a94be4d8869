"""The whole benchmark from nothing: what has to be trained, how long that takes, and where it lies."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapter.files import save_adapter
from ..errors import PSAError
from ..files import NameTakenError, atomic_path
from ..profile import LEVELS
from ..schema import CATEGORIES
from .adapters import KINDS, settings_of, train_adapter, trained_otherwise
from .base_model import train_base
from .dataset import HARMLESS, Sizes, write_dataset
from .generate import MiniModel
from .lineup import (
    BAN_ALL,
    PSA,
    SECOND_BASE,
    Entry,
    adapters,
    base_entry,
    changed,
    digest,
    loras,
    repeats,
    uce_a_ban_set,
    untrained,
)
from .rivals import erasing, esd, uce
from .rivals.lora import LoRASettings, train_lora
from .rivals.weights import Weights, made_otherwise, save_weights

PARTS = ("majority", "published", "ESD-u", "UCE", "LoRA", "seeds", SECOND_BASE)
"""What takes training and may be left out: rivals, PSA's other seeds, a second base model with its adapters."""
SEEDS = (1, 2)
"""Of the trainings of PSA beside that with seed 0."""
MINUTES = {"psa": 20.0, "psa-inferred": 20.0, "ban-all": 4.0, "majority": 4.0, "published": 20.0}
"""Of two CPU cores, for the training of a kind."""
_BASE_NOTE = "base-model.sha256"
_SECOND_SEED = 1  # the seed with which the second base model goes on from the first
_BAN_ALL_SIZES = Sizes(train=1000, val=2, test_seen=2, test_unseen=2, test_held_out=2)  # nothing is to be told apart
_UCE, _ESD, _LORA = uce.UCESettings(), esd.ESDSettings(), LoRASettings()
_LORA_SETS = (
    ("Propaganda", "Sexuality"),
    LEVELS["L2"].banned_categories,
    LEVELS["L3"].banned_categories,
    LEVELS["L1"].banned_categories,
)
"""The ban sets that get a LoRA: the commonest one, and three levels'."""


@dataclass(frozen=True)
class Step:
    """One thing that is made: the file by which it is known to be done, and minutes of two CPU cores.

    `part` is the one of `PARTS` that needs it; what belongs to none is always made. `differs` tells the settings that
    the file was made with and that are others now.
    """

    name: str
    done: Path
    minutes: float
    make: Callable[[], None]
    part: str | None = None
    differs: Callable[[], Sequence[str]] = tuple

    @property
    def is_done(self) -> bool:
        """Raise PSAError where it was made with other settings: its figures would pass as today's."""
        if not self.done.is_file():
            return False
        refuse_made_otherwise(self.done, self.differs())
        return True


def refuse_made_otherwise(path: Path, settings: Sequence[str]) -> None:
    """Raise PSAError where there are settings that the file was made with and that are others now."""
    if settings:
        raise PSAError(
            f"{path.name} in the folder '{path.parent.name}' was made with other settings than today's: "
            f"{', '.join(settings)}. Delete it and what lies under its name in the folder of its run, and start again; "
            "or name another folder."
        )


def check_base(work: Path, base: Path | str) -> None:
    """Note in the folder whose adapters it holds; raise PSAError where they are another base model's."""
    note, own = work / _BASE_NOTE, digest(Path(base))
    if not note.is_file():
        work.mkdir(parents=True, exist_ok=True)
        with suppress(NameTakenError), atomic_path(note, replace=False) as temporary:  # another process may be faster
            temporary.write_text(own, encoding="utf-8")
    if note.read_text(encoding="utf-8", errors="replace") != own:
        raise PSAError(
            f"What the folder '{work.name}' holds was made with another base model. Name that one with --base, or "
            "another folder."
        )


def plan_work(work: Path, base: Path | str, without: Sequence[str] = ()) -> list[Step]:
    """Everything that the line-up is made of, in order, less the parts that are left out."""
    ban_all = work / "data-ban-all"
    steps = [
        Step("the data set", _last(work / "data"), 1, lambda: write_dataset(work / "data")),
        Step("the ban-all data set", _last(ban_all), 1, lambda: write_dataset(ban_all, 0, _BAN_ALL_SIZES, True)),
    ]
    for kind in KINDS:
        steps.append(_adapter_step(work, kind, base, kind, part=kind if kind in PARTS else None))
    steps.append(_weights_step("UCE", _weights(work, "UCE"), 0.2, _UCE, lambda: _uce(base)))
    steps.append(_weights_step("ESD-u", _weights(work, "ESD-u"), 5, _ESD, lambda: _esd(base)))
    for number, bans in enumerate(_LORA_SETS):
        name = f"the LoRA for {', '.join(bans)}"
        steps.append(_weights_step(name, _lora(work, number), 4, _LORA, _trains_lora(work, number, base), "LoRA"))
    for seed in SEEDS:
        steps.append(_adapter_step(work, PSA, base, f"{PSA}-{seed}", "seeds", seed))
    second = work / "base-2"
    steps.append(Step("a second base model", second / "model_index.json", 16, _second_base(second, base), SECOND_BASE))
    for kind in (PSA, BAN_ALL):
        steps.append(_adapter_step(work, kind, second, f"{kind}-base-2", SECOND_BASE))
    return [step for step in steps if step.part is None or step.part not in without]


def line_up(work: Path, base: Path | str, without: Sequence[str] = ()) -> list[Entry]:
    """All methods, from what `plan_work` made."""
    model = MiniModel(base)
    files = {kind: _weights(work, kind) for kind in KINDS if kind not in without}
    found = [*adapters(model, files), *untrained(model, files[PSA])]
    found += changed(model, {name: _weights(work, name) for name in ("UCE", "ESD-u") if name not in without})
    if "UCE" not in without:
        found.append(uce_a_ban_set(model, _weights(work, "UCE")))
    if "LoRA" not in without:
        found.append(loras(model, {bans: _lora(work, number) for number, bans in enumerate(_LORA_SETS)}))
    if "seeds" not in without:
        found += repeats(model, {f"{PSA}, seed {seed}": _weights(work, f"{PSA}-{seed}") for seed in SEEDS})
    if SECOND_BASE not in without:
        second = MiniModel(work / "base-2")
        on_it = {f"{kind}, {SECOND_BASE}": _weights(work, f"{kind}-base-2") for kind in (PSA, BAN_ALL)}
        found += [base_entry(second, SECOND_BASE), *repeats(second, on_it, SECOND_BASE)]
    return found


def _last(data: Path) -> Path:
    """What is written last of a data set."""
    return data / HARMLESS / "metadata.jsonl"


def _weights(work: Path, name: str) -> Path:
    return work / f"{name}.safetensors"


def _adapter_step(work: Path, kind: str, base: Path | str, name: str, part: str | None = None, seed: int = 0) -> Step:
    """The training of an adapter whose file and run folder have this name."""
    file = _weights(work, name)

    def make() -> None:
        data = work / ("data-ban-all" if KINDS[kind].ban_all else "data")
        save_adapter(train_adapter(kind, data, work / "runs" / name, base, seed=seed).adapter, file)

    def differs() -> list[str]:
        return trained_otherwise(file, settings_of(kind, seed=seed))

    return Step(f"the adapter {name}", file, MINUTES[kind], make, part, differs)


def _weights_step(
    name: str, file: Path, minutes: float, settings: Any, make: Callable[[], Weights], part: str | None = None
) -> Step:
    """The making of weights by these settings, which their file tells; the method's name is its part's without one."""
    made = vars(settings)
    return Step(
        name,
        file,
        minutes,
        lambda: save_weights(file, make(), made),
        part or name,
        lambda: made_otherwise(file, made),
    )


def _second_base(folder: Path, base: Path | str) -> Callable[[], None]:
    return lambda: train_base(folder, _SECOND_SEED, start=base)


def _lora(work: Path, number: int) -> Path:
    return _weights(work, f"lora-{number + 1}")


def _trains_lora(work: Path, number: int, base: Path | str) -> Callable[[], Weights]:
    run = work / "runs" / f"lora-{number + 1}"
    return lambda: train_lora(work / "data", base, _LORA_SETS[number], run, _LORA)


def _esd(base: Path | str) -> Weights:
    return esd.train(MiniModel(base), erasing.by_name(), _ESD)


def _uce(base: Path | str) -> Weights:
    return uce.for_bans(MiniModel(base), CATEGORIES)
