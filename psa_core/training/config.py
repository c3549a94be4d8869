"""What a training run is told: one flat table, with presets."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..settings import BaseSettings, Listed

_AS_REFERENCE = {"aspect": "square", "resize": "bilinear", "latents": "sample", "sizes": "fixed"}
_SDXL = {
    "resolution": 1024,
    "batch_size": 2,
    "effective_batch_size": 128,
    "optimizer": "adafactor",
    "gradient_checkpointing": True,
}
MEASURED: Literal["measured"] = "measured"
"""As a `timestep_range`: what `timesteps.py` finds on the run's own base model and pairs before the first step."""
_RECOMMENDED = {
    "timestep_range": MEASURED,
    "beta": 300.0,
    "winner_weight": 75.0,
    "anchor_weight": 750.0,
    "caption_dropout": 0.0,
    "num_tokens": 16,
    "optimizer": "muon",
    "learning_rate": 5e-3,
    "schedule": "cosine",
    "warmup_steps": 50,
    "weight_decay": 0.0,
    "steps": 1600,
    "batch_size": 4,
    "effective_batch_size": 16,
    "gradient_checkpointing": True,
    "ema_decay": 0.99,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": _AS_REFERENCE,
    "published-sdxl": {**_AS_REFERENCE, **_SDXL},
    "recommended": _RECOMMENDED,
    "recommended-sdxl": {
        **_RECOMMENDED,
        "resolution": 1024,
        "batch_size": 1,
        "learning_rate": 3e-3,
        "optimizer_offload": True,  # 1.4 GB, for which there is no room
        "steps": 800,
        "ema_decay": 0.0,  # likewise
    },
}
"""`published`: the paper's settings for SD1.5 (`-sdxl`: for SDXL), pictures read as its code does, at its scale.
`recommended`: for an evening on one card with 12 GB, after what the mini world taught; docs/training.md says what
supports each setting."""

_FIRST_RECOMMENDED = {
    "beta": 1000.0,
    "winner_weight": 1000.0,
    "anchor_weight": 1000.0,
    "standardise": True,
    "timestep_range": (50, 1000),
}
EARLIER: Mapping[str, Mapping[str, Any]] = {
    "recommended": _FIRST_RECOMMENDED,
    "recommended-sdxl": {**_SDXL, **_FIRST_RECOMMENDED},
}
"""What these presets were before. A run that was begun so goes on so."""

READING = tuple(_AS_REFERENCE)
"""The settings that say how pictures are read."""

_INT32 = 2**31 - 1
_Count = Annotated[int, Field(ge=1, le=_INT32)]
_Side = Annotated[int, Field(ge=1, le=8192)]
_CountOrOff = Annotated[int, Field(ge=0, le=_INT32)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0)]
_Positive = Annotated[float, Field(gt=0)]


class TrainConfig(BaseSettings):
    """A training run's settings. `from_dict` gives a preset's, by default the published ones (arXiv 2508.01151).

    A setting's own default is what runs did before there was such a setting, so that what an older
    version saved means what it meant.

    Pictures: `resolution` is the side of the square that every bucket's area stays within; bucket
    sides are multiples of `bucket_step` pixels; with `aspect = "square"` every picture becomes a square
    of that side. `crop` cuts both pictures of a pair at the same place, the centre or one drawn per
    pair; `flip` mirrors both, at random. `latents` are the mean of the VAE's posterior, or a sample,
    drawn once a picture. `sizes` are SDXL's size numbers: each picture's own, or `fixed` to
    (R, R, 0, 0, R, R), R being `resolution`.

    Objective: `beta` of LPPD; `winner_weight`, `anchor_weight` (see `objective.py`); `standardise`
    the profile embeddings over the training users (folded into the saved adapter). In `plain_share` of the
    draws a pair stands under its caption without the concept, where data has one: then everybody's choice
    is the safe picture, so that what viewers allow is not drawn unasked. Timesteps are
    drawn from `timestep_range` [first, last), uniformly or in proportion to the min-SNR weight; `measured`
    is the range in which the run's own base model decides what its pictures show (see `timesteps.py`).

    Batches: `batch_size` pairs a forward pass, `effective_batch_size` pairs an optimizer step over
    all processes; the accumulation follows from them, so one process and many take the same steps.

    `optimizer_offload` keeps what the optimizer remembers in the computer's memory between steps.

    `reference_draws` > 0 gives each pair that many fixed noise draws, whose reference errors are
    computed once. `evaluate_every`, `early_stop` and `ema_decay` are off at 0; `early_stop` counts
    evaluations without improvement. `winner_rise_limit` is the winner error's rise over the
    reference's, as a share of it, above which training warns or stops.

    Raises:
        PSAError: naming the setting and what it takes.
    """

    what: ClassVar[str] = "training setting"
    where: ClassVar[str] = "The table of training settings"

    preset: Literal[tuple(PRESETS)] = "published"  # type: ignore[valid-type]
    resolution: _Side = 512
    bucket_step: _Side = 64
    aspect: Literal["kept", "square"] = "kept"
    resize: Literal["lanczos", "bilinear"] = "lanczos"
    crop: Literal["center", "random"] = "center"
    latents: Literal["mean", "sample"] = "mean"
    sizes: Literal["own", "fixed"] = "own"
    flip: bool = True
    caption_dropout: _Share = 0.2
    profile_dropout: _Share = 0.0
    num_tokens: Annotated[int, Field(ge=1, le=1024)] = 1
    standardise: bool = False
    beta: _Positive = 5000.0
    winner_weight: _Weight = 0.0
    anchor_weight: _Weight = 0.0
    plain_share: _Share = 0.0
    timestep_sampling: Literal["uniform", "min-snr"] = "uniform"
    timestep_range: Annotated[tuple[_CountOrOff, _CountOrOff], Listed] | Literal["measured"] = Field(
        (0, 1000), description='a list such as [0, 1000], or "measured"'
    )
    min_snr_gamma: _Positive = 5.0
    reference_draws: Annotated[int, Field(ge=0, le=10_000)] = 0
    optimizer: Literal["adamw", "muon", "adafactor", "adamw8bit"] = "adamw"
    learning_rate: _Positive = 5e-6
    betas: Annotated[tuple[_Weight, _Weight], Listed] = (0.9, 0.999)
    weight_decay: _Weight = 1e-2
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: _CountOrOff = 500
    steps: _Count = 5000
    batch_size: _Count = 6
    effective_batch_size: _Count = 192
    optimizer_offload: bool = False
    max_grad_norm: _Positive = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    evaluate_every: _CountOrOff = 0
    evaluate_pairs: _CountOrOff = 256
    early_stop: _CountOrOff = 0
    save_every: _Count = 100
    winner_rise_limit: _Positive = 0.05
    on_winner_rise: Literal["warn", "stop"] = "warn"
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    tensorboard: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> "TrainConfig":
        if self.timestep_range != MEASURED and self.timestep_range[0] >= self.timestep_range[1]:
            raise self.refusal("timestep_range", "[first, last) with first < last")
        if self.resolution < self.bucket_step:
            raise self.refusal("bucket_step", "no larger than resolution")
        if self.effective_batch_size % self.batch_size:
            raise self.refusal("effective_batch_size", "a multiple of batch_size")
        if self.early_stop and not self.evaluate_every:
            raise self.refusal("evaluate_every", "above 0 where early_stop is on")
        return self

    def accumulation(self, processes: int) -> int:
        """Forward passes each of `processes` makes for one optimizer step."""
        passes = self.effective_batch_size // self.batch_size
        if passes % processes:
            takes = f"a multiple of batch_size x processes ({self.batch_size} x {processes})"
            raise self.refusal("effective_batch_size", takes)
        return passes // processes

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainConfig":
        """The preset that `data` names (`published` without one), changed by the other settings in it."""
        preset = data.get("preset", "published")
        return cls(**{**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **data})
