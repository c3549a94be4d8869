"""What a run is: the content that its result depends on, and nothing else."""

import json
from collections.abc import Mapping
from typing import Any

from .config import TrainConfig
from .denoiser import Denoiser
from .pairs import PairDataset

# Settings that change nothing of what is computed, or only when the run reports, so a resumed run may bring new ones.
_FREE = {
    "preset", "save_every", "tensorboard", "workers", "gradient_checkpointing", "evaluate_every", "evaluate_pairs",
    "on_winner_rise", "winner_rise_limit", "optimizer_offload",
}  # fmt: skip
_PARTS = {
    "base": "another base model",
    "data": "another dataset or profile encoder",
    "harmless": "other harmless pictures",
}


def run_identity(
    config: TrainConfig, denoiser: Denoiser, pairs: PairDataset, held_out: Mapping[str, PairDataset]
) -> dict[str, Any]:
    """The run's settings and hashes of what it learns from, JSON-compatible; no path or date is in it."""
    return {
        "config": json.loads(json.dumps(config.to_dict())),
        "base": denoiser.id,
        "data": pairs.id,
        "harmless": pairs.harmless.id if pairs.harmless is not None and pairs.anchored else None,
        "held_out": [split.id for split in held_out.values()],
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any], step: int = 0) -> str | None:
    """Words for what makes two identities those of different runs; none where the one, at `step`, can go on as the
    other. To end where it stands is no difference.

    Of an old run, which noted only its settings, those are compared.
    """
    measured = _measures(then) and _measures(now)
    counting = _counting(now["config"], measured)
    before = {name: field.default for name, field in TrainConfig.model_fields.items()} | then["config"]
    settings = [name for name in counting if now["config"][name] != before[name]]
    if "steps" in settings and now["config"]["steps"] == step:
        settings.remove("steps")
    found = [f"other settings ({', '.join(settings)})"] if settings else []
    found += [words for part, words in _PARTS.items() if part in then and then[part] != now[part]]
    if measured and then["held_out"] != now["held_out"]:
        found.append("other held-out pairs")
    return " and ".join(found) or None


def _measures(identity: Mapping[str, Any]) -> bool:
    """Whether the run has held-out pairs: their figures say which adapter is its best."""
    return bool(identity.get("held_out"))


def _counting(config: Mapping[str, Any], measured: bool) -> list[str]:
    """The settings that count for the result of a run, `measured` on held-out pairs or not."""
    free = set(_FREE)
    if config["schedule"] == "constant":
        free.add("steps")  # they can be continued
    if config["timestep_sampling"] == "uniform":
        free.add("min_snr_gamma")
    if config["early_stop"]:
        free.remove("evaluate_every")  # it counts evaluations
    if measured:
        free.remove("evaluate_pairs")  # figures over other pairs cannot be compared
    return [name for name in config if name not in free]
