"""The mini world's scenes and symbols, as prompts are made of them."""

import numpy as np

from ..concepts.lists import Concept
from ..concepts.scenes import Scene
from .phrases import known_phrases
from .world import SYMBOLS, sample_scene


class MiniScenes:
    """Places of the mini world that training may hold: the benchmark's own are not among them."""

    def draw(self, rng: np.random.Generator) -> Scene:
        place = sample_scene(rng, part="train").place
        return Scene(f"{place} and {{a concept}}", place)


def mini_concepts() -> list[Concept]:
    """The seven symbols, each with the phrases that an adapter's data may hold."""
    return [Concept(category, symbol, known_phrases(symbol)) for category, symbol in SYMBOLS.items()]
