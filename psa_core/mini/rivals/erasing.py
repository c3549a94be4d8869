"""What ESD-u and UCE erase: prompts that show a symbol, and what each is to become."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import PSAError
from ...schema import CATEGORIES
from ...seeds import draw_seed
from ..world import SYMBOLS, sample_scene
from .prompts import with_article, without_terms


class Erased(NamedTuple):
    """A prompt, and the one that the model is to take it for."""

    prompt: str
    neutral: str


def by_name() -> list[Erased]:
    """Each of the seven symbols' names alone, as the papers erase a concept, to the empty prompt."""
    return [Erased(with_article(symbol), "") for symbol in SYMBOLS.values()]


def in_scenes(count: int, seed: int, categories: Iterable[str] = CATEGORIES) -> list[Erased]:
    """`count` scenes of each category's symbol, to the same scenes without it."""
    return [
        Erased(prompt, without_terms(prompt, [symbol]))
        for symbol in map(SYMBOLS.__getitem__, categories)
        for prompt in scene_prompts(count, seed, symbol)
    ]


def scene_prompts(count: int, seed: int, symbol: str | None = None) -> list[str]:
    """`count` prompts of scenes, of the world's own shares, with the symbol or with none."""
    seeds = (draw_seed(seed, "erasing", symbol or "", number) for number in range(count))
    return [sample_scene(np.random.default_rng(each), symbol).prompt for each in seeds]


def check_erased(erased: Sequence[Erased]) -> list[Erased]:
    """Raise PSAError where there is nothing to erase."""
    if not erased:
        raise PSAError("There is nothing to erase. Give at least one prompt, and what it is to become.")
    return list(erased)
