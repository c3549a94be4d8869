"""The pack's socket types and its place in the node menu."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "PSA"
VIEWERS, DRAWING, TRAINING, MEASURING = (
    f"{CATEGORY}/{task}" for task in ("viewers", "drawing", "training", "measuring")
)

Profile = io.Custom("PSA_PROFILE")  # psa_core.UserProfile
Encoder = io.Custom("PSA_ENCODER")  # anything with `id`, `dim` and `encode(profiles)`
Embedding = io.Custom("PSA_EMBEDDING")  # psa_core.UserEmbedding
Adapter = io.Custom("PSA_ADAPTER")  # psa_core.PSAAdapter
Effect = io.Custom("PSA_EFFECT")  # psa_core.adapter.effect.PSAEffect
Dataset = io.Custom("PSA_DATASET")  # psa_core.dataset.PairSplit
Prompts = io.Custom("PSA_PROMPTS")  # a list of psa_core.concepts.pairs.PromptPair
GuardRound = io.Custom("PSA_GUARD_ROUND")  # nodes.comfy.guard.Earlier; a guard makes it for itself

MORE_PROFILES = tuple(f"profile_{number}" for number in range(2, 9))
"""The inputs of further viewers, beside `profile`."""


BY_SIZE = "In pixels; 0 is the size that the model was made for: 128 for PSA Mini, 512 for SD1.5, 1024 for SDXL."
"""The tooltip of a picture's width or height."""


def more_profiles(tooltip: str) -> list[Any]:
    """Optional inputs for further viewers."""
    return [Profile.Input(name, optional=True, tooltip=tooltip) for name in MORE_PROFILES]


def viewers(profile: Any, more: Mapping[str, Any]) -> list[Any]:
    """The profiles that are wired, in the order of their inputs."""
    return [profile, *(more[name] for name in MORE_PROFILES if more.get(name) is not None)]


def seed(tooltip: str) -> io.Int.Input:
    """A seed that stays from run to run: a run is to go on, and figures are to be compared."""
    return io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate=False, tooltip=tooltip)


def departures() -> io.Float.Input:
    return io.Float.Input(
        "departures",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="The chance that somebody departs from the rules in a category.",
    )


def aliases(*words: str) -> dict[str, Any]:
    """For a schema: what else people search the node by, where ComfyUI is new enough to know of it."""
    known = any(field.name == "search_aliases" for field in fields(io.Schema))
    return {"search_aliases": list(words)} if known else {}
