"""The pack's socket types and its place in the node menu."""

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


def aliases(*words: str) -> dict[str, Any]:
    """For a schema: what else people search the node by, where ComfyUI is new enough to know of it."""
    known = any(field.name == "search_aliases" for field in fields(io.Schema))
    return {"search_aliases": list(words)} if known else {}
