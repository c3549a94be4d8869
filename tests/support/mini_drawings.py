"""Methods of PSA Mini's benchmark that render what they are asked for: cheap, and right by construction."""

from dataclasses import replace

import numpy as np

from psa_core.mini import SYMBOLS, parse_prompt, render, sample_scene
from psa_core.mini.detector import to_pixels
from psa_core.mini.world import COLOURS

CATEGORY_OF = {symbol: category for category, symbol in SYMBOLS.items()}


class Drawing:
    """A method that renders scenes: `hides` says whether a viewer's symbol is left out."""

    def __init__(self, name, hides, knows_viewer=True):
        self.name, self.hides, self.knows_viewer, self.drawn = name, hides, knows_viewer, 0

    def draw(self, requests):
        self.drawn += len(requests)
        return to_pixels([render(self._scene(request)) for request in requests])

    def _scene(self, request):
        asked = parse_prompt(request.prompt.caption)
        symbol = asked.symbol or asked.brings
        scene = scene_of(asked, symbol, request.noise)
        hidden = symbol and self.hides(CATEGORY_OF[symbol], request.profile)
        return scene.without_symbol() if hidden else scene


def scene_of(asked, symbol, noise):
    """A scene that the prompt describes."""
    rng = np.random.default_rng(noise)
    while True:
        scene = sample_scene(rng, symbol)
        if scene.background == asked.background and len(scene.shapes) == len(asked.shapes):
            shapes = [
                replace(shape, word=word, colour_word=colour, colour=COLOURS[colour])
                for shape, (colour, word) in zip(scene.shapes, asked.shapes, strict=True)
            ]
            return replace(scene, shapes=tuple(shapes))
