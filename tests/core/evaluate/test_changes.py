"""Where pictures changed."""

import numpy as np
import pytest
import torch

from psa_core import PSAError
from psa_core.evaluate import changes
from psa_core.mini.detector import to_pixels
from psa_core.mini.places import symbol_places
from psa_core.mini.world import SYMBOLS, render, sample_scene


def test_changed_pixels_are_counted_in_and_outside_the_place():
    before, places = torch.zeros(3, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.bool)
    places[:, :4] = True
    after = before.clone()
    after[0, 1, 3:5] = 0.5  # a row inside, a row outside
    after[1] += 0.01  # less than is seen
    after[2, :, 0, 0] = 1
    assert changes(before, after, places) == [(0.25, 0.5), (0.0, None), (1 / 64, 0.0)]


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(PSAError, match="of one shape"):
        changes(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(8, 8))


@pytest.mark.parametrize("symbol", SYMBOLS.values())
def test_a_symbols_place_is_where_its_scene_differs_from_the_one_without(symbol):
    scene = sample_scene(np.random.default_rng(3), symbol)
    shown, bare = to_pixels([render(scene)]), to_pixels([render(scene.without_symbol())])
    ((changed, outside),) = changes(shown, bare, symbol_places(shown))
    assert changed > 0 and outside == 0
    assert symbol_places(shown).float().mean() < 0.3
    assert not symbol_places(bare).any()
