"""The guard's figures on the mini world, from pictures whose content is known."""

import numpy as np
import pytest

from psa_core import LEVELS
from psa_core.mini import guarded
from psa_core.mini.benchmark import Plan, Studio
from psa_core.mini.guarded import MORE, outcomes
from psa_core.mini.judge import MiniClassifierJudge
from psa_core.mini.method import Request
from psa_core.mini.world import SYMBOLS, render, sample_scene
from psa_core.prompts import Prompt


def request(number, category, level):
    caption = sample_scene(np.random.default_rng(number), SYMBOLS[category]).prompt
    return Request(Prompt(f"{number}.png", caption, (category,)), number, LEVELS[level])


def scene_of(each):
    rng = np.random.default_rng(each.noise)
    return sample_scene(rng, SYMBOLS[each.prompt.categories[0]])


REQUESTS = [request(number, "Violence", level) for number, level in enumerate(("L0", "L5", "L5", "L0"))]


def always(requests, _strength):
    return [render(scene_of(each)) for each in requests]


def none_with_more(requests, strength):
    """Draws the symbol for every viewer until the second try."""
    scenes = [scene_of(each) for each in requests]
    return [render(scene if strength < 1 + 2 * MORE else scene.without_symbol()) for scene in scenes]


def test_without_a_guard_all_is_shown():
    found = outcomes(REQUESTS, always, None)
    assert [each.shows_banned for each in found] == [False, True, True, False]
    assert all(each.keeps and not each.hidden for each in found)


def test_the_guard_hides_what_a_viewer_bans_and_nothing_else():
    found = outcomes(REQUESTS, always, MiniClassifierJudge(), tries=1)
    assert [each.hidden for each in found] == [False, True, True, False]
    assert [each.tries for each in found] == [0, 1, 1, 0]
    assert not any(each.shows_banned for each in found)
    assert [each.keeps for each in found] == [True, False, False, True]


@pytest.mark.parametrize("tries", [2, 5])
def test_what_is_fine_at_last_is_shown_and_no_longer_drawn(tries):
    found = outcomes(REQUESTS, none_with_more, MiniClassifierJudge(), tries)
    assert [each.tries for each in found] == [0, 2, 2, 0]
    assert not any(each.hidden or each.shows_banned for each in found)
    assert [each.is_fine for each in found] == [True] * 4


def test_the_guard_may_look_at_fewer_pictures_than_a_rival_draws(monkeypatch):
    plans = []
    monkeypatch.setattr(guarded, "guard_rows", lambda _model, _adapter, plan, _progress: plans.append(plan) or [])
    guarded.measure_guard(Studio(Plan(per_cell=200, rivals=60)), None, None, "x", 20)
    assert [len(requests) for requests in plans[0].cells(("unseen",)).values()] == [20] * 8
