"""Prompts to build a data set of, and the builder's widgets."""

from psa_core.concepts.pairs import PromptPair

WIDGETS = {
    "users": 10,
    "rules": "sage",
    "departures": 0.0,
    "seed": 3,
    "steps": 2,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
    "negative": "",
}
"""Of PSA Build Dataset, for small pictures that are soon drawn; its `name` and inputs are the test's own."""


def prompt_pairs(
    categories=("Violence", "Hate"), concepts: int = 5, scenes: int = 4, harmless: int = 3
) -> list[PromptPair]:
    """So many concepts of each category, each in so many scenes, and scenes without one."""
    pairs = []
    for category in categories:
        for concept in range(concepts):
            for scene in range(scenes):
                words, thing = f"a {category.lower()} scene {concept} {scene}", f"{category.lower()}thing{concept}"
                pairs.append(PromptPair(category, thing, f"{words} with {thing}", words, "named", "by hand"))
    scenes = [f"a meadow {number}" for number in range(harmless)]
    return [*pairs, *(PromptPair(None, "", scene, scene, "named", "by hand") for scene in scenes)]
