"""What a training run is told: one flat table, with presets."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PSAError
from ..files import existing_file

_PUBLISHED: dict[str, Any] = {}  # the defaults of TrainConfig
_SDXL = {
    "resolution": 1024,
    "batch_size": 2,
    "effective_batch_size": 128,
    "optimizer": "adafactor",
    "gradient_checkpointing": True,
}
_RECOMMENDED = {
    "beta": 1000.0,
    "winner_weight": 1000.0,
    "anchor_weight": 1000.0,
    "standardise": True,
    "timestep_range": (50, 1000),
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": _PUBLISHED,
    "published-sdxl": _SDXL,
    "recommended": _RECOMMENDED,
    "recommended-sdxl": {**_SDXL, **_RECOMMENDED},
}
"""`published`: the paper's settings for SD1.5 (`-sdxl`: for SDXL). `recommended`: the same run with the terms that
keep winner and loser errors from growing together."""

_CHOICES = {
    "crop": ("center", "random"),
    "timestep_sampling": ("uniform", "min-snr"),
    "optimizer": ("adamw", "muon", "adafactor", "adamw8bit"),
    "schedule": ("constant", "linear", "cosine"),
    "precision": ("bf16", "fp32"),
    "on_winner_rise": ("warn", "stop"),
}
_PROBABILITIES = ("caption_dropout", "profile_dropout")
_AT_LEAST_ONE = ("resolution", "bucket_step", "num_tokens", "steps", "batch_size", "effective_batch_size", "save_every")
_POSITIVE = ("beta", "learning_rate", "max_grad_norm", "min_snr_gamma", "winner_rise_limit")


@dataclass(frozen=True)
class TrainConfig:
    """A training run's settings. The defaults are the published ones for SD1.5 (arXiv 2508.01151).

    Pictures: `resolution` is the side of the square that every bucket's area stays within; bucket
    sides are multiples of `bucket_step` pixels. `crop` cuts both pictures of a pair at the same
    place, the centre or one drawn per pair; `flip` mirrors both, at random.

    Objective: `beta` of LPPD; `winner_weight`, `anchor_weight` (see `objective.py`); `standardise`
    the profile embeddings over the training users (folded into the saved adapter). Timesteps are
    drawn from `timestep_range` [first, last), uniformly or in proportion to the min-SNR weight.

    Batches: `batch_size` pairs a forward pass, `effective_batch_size` pairs an optimizer step over
    all processes; the accumulation follows from them, so one process and many take the same steps.

    `reference_draws` > 0 gives each pair that many fixed noise draws, whose reference errors are
    computed once. `evaluate_every`, `early_stop` and `ema_decay` are off at 0; `early_stop` counts
    evaluations without improvement. `winner_rise_limit` is the winner error's rise over the
    reference's, as a share of it, above which training warns or stops.

    Raises:
        PSAError: naming the setting and what it takes.
    """

    preset: str = "published"
    resolution: int = 512
    bucket_step: int = 64
    crop: str = "center"
    flip: bool = True
    caption_dropout: float = 0.2
    profile_dropout: float = 0.0
    num_tokens: int = 1
    standardise: bool = False
    beta: float = 5000.0
    winner_weight: float = 0.0
    anchor_weight: float = 0.0
    timestep_sampling: str = "uniform"
    timestep_range: tuple[int, int] = (0, 1000)
    min_snr_gamma: float = 5.0
    reference_draws: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 5e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    schedule: str = "constant"
    warmup_steps: int = 500
    steps: int = 5000
    batch_size: int = 6
    effective_batch_size: int = 192
    max_grad_norm: float = 1.0
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    ema_decay: float = 0.0
    seed: int = 0
    evaluate_every: int = 0
    evaluate_pairs: int = 256
    early_stop: int = 0
    save_every: int = 100
    winner_rise_limit: float = 0.05
    on_winner_rise: str = "warn"
    workers: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field, getattr(self, field.name)))
        for name, choices in {"preset": tuple(PRESETS), **_CHOICES}.items():
            _require(getattr(self, name) in choices, name, f"one of: {', '.join(choices)}")
        for name in _PROBABILITIES:
            _require(0 <= getattr(self, name) <= 1, name, "a share from 0 to 1")
        for name in _AT_LEAST_ONE:
            _require(getattr(self, name) >= 1, name, "at least 1")
        for name in _POSITIVE:
            _require(getattr(self, name) > 0, name, "above 0")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                _require(isinstance(number, str) or number >= 0, field.name, "not negative")
        _require(self.ema_decay < 1, "ema_decay", "from 0 up to, but not including, 1")
        _require(self.timestep_range[0] < self.timestep_range[1], "timestep_range", "[first, last) with first < last")
        _require(self.resolution >= self.bucket_step, "bucket_step", "no larger than resolution")
        _require(self.effective_batch_size % self.batch_size == 0, "effective_batch_size", "a multiple of batch_size")
        _require(self.early_stop == 0 or self.evaluate_every > 0, "evaluate_every", "above 0 where early_stop is on")

    def accumulation(self, processes: int) -> int:
        """Forward passes each of `processes` makes for one optimizer step."""
        passes = self.effective_batch_size // self.batch_size
        _require(
            passes % processes == 0,
            "effective_batch_size",
            f"a multiple of batch_size x processes ({self.batch_size} x {processes})",
        )
        return passes // processes

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainConfig":
        """The preset that `data` names (`published` without one), changed by the other settings in it."""
        refuse_unknown(data, [field.name for field in dataclasses.fields(cls)], "training setting")
        preset = data.get("preset", "published")
        _require(preset in PRESETS, "preset", f"one of: {', '.join(PRESETS)}")
        return cls(**{**PRESETS[preset], **data})


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file, or say in a PSAError where it is not one."""
    path = existing_file(path, "config file")
    try:
        import tomllib as toml
    except ImportError:  # Python 3.10
        try:
            import tomli as toml  # type: ignore[no-redef]
        except ImportError:
            raise PSAError("Reading a TOML config on Python 3.10 needs tomli: pip install tomli.") from None
    try:
        return toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PSAError(f"{path.name} is not a valid TOML file: {error}.") from None


def refuse_unknown(data: Mapping[str, Any], known: list[str], what: str) -> None:
    """Raise PSAError for the first key of `data` that is not in `known`, with the nearest that is."""
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}."
            raise PSAError(f"'{key}' is not a {what}. {hint}")


def _typed(field: dataclasses.Field, value: Any) -> Any:
    default = field.default
    if isinstance(default, tuple):
        element = type(default[0])
        whole = isinstance(value, list | tuple) and len(value) == len(default)
        _require(whole and all(_is(element, v) for v in value), field.name, f"a list such as {list(default)}")
        return tuple(element(v) for v in value)
    _require(_is(type(default), value), field.name, f"of the kind {type(default).__name__}, such as {default!r}")
    return float(value) if isinstance(default, float) else value


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def _require(condition: bool, name: str, what: str) -> None:
    if not condition:
        raise PSAError(f"The training setting '{name}' must be {what}.")
