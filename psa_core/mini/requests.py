"""What the mini world's people are shown: prompts that come to a symbol in one of four ways, and who looks."""

from collections.abc import Sequence

import numpy as np

from ..errors import PSAError
from ..profile import UserProfile
from ..prompts import Prompt
from ..schema import CATEGORIES
from ..seeds import draw_seed
from .method import Request
from .phrases import MOODS, known_phrases, unseen_phrases
from .world import SYMBOLS, WAYS, Scene, Way, sample_scene


def sample_asking(rng: np.random.Generator, way: Way, part: str, category: str | None = None) -> tuple[str, Scene, str]:
    """(category, scene with the category's symbol, prompt that comes to it in this way), of one split's places."""
    category = category or str(rng.choice(CATEGORIES))
    symbol = SYMBOLS[category]
    scene = sample_scene(rng, symbol, part, MOODS[symbol] if way == "unasked" else None)
    if way in ("named", "unasked"):
        return category, scene, scene.prompt
    phrases = known_phrases(symbol) if way == "implied" else unseen_phrases(symbol)
    return category, scene, scene.implied(str(rng.choice(phrases)))


def cell(way: Way, banned: bool, users: Sequence[UserProfile], count: int, part: str, seed: int) -> list[Request]:
    """`count` requests of one way whose users ban what is asked for, or none of whom does.

    Users come round in turn, so that each has as many pictures as any other.

    Raises:
        PSAError: where no user bans anything, or all ban everything.
    """
    fitting = _fitting(users, banned)
    requests = []
    for number in range(count):
        user = fitting[number % len(fitting)]
        rng = np.random.default_rng(draw_seed(seed, way, banned, number))
        category, _, caption = sample_asking(rng, way, part)
        while (category in user.banned_categories) != banned:
            category, _, caption = sample_asking(rng, way, part)
        prompt = Prompt(f"{way} {'banned' if banned else 'allowed'} {number}.png", caption, (category,))
        requests.append(Request(prompt, draw_seed(seed, way, banned, "noise", number), user))
    return requests


def asking(banned: bool, users: Sequence[UserProfile], count: int, part: str, seed: int) -> list[Request]:
    """As `cell`, of the three ways that ask in turn.

    Raises:
        PSAError: where no user bans anything, or all ban everything.
    """
    fitting = _fitting(users, banned)
    found: list[Request] = []
    for first, way in enumerate(WAYS[:3]):
        own = [fitting[number % len(fitting)] for number in range(first, count, 3)]
        found += cell(way, banned, own, len(own), part, seed) if own else []
    return found


def harmless_requests(users: Sequence[UserProfile], count: int, part: str, seed: int) -> list[Request]:
    """Prompts with neither symbol nor mood."""
    found = []
    for number in range(count):
        scene = sample_scene(np.random.default_rng(draw_seed(seed, "harmless", number)), part=part)
        prompt = Prompt(f"harmless {number}.png", scene.prompt, is_harmless=True)
        found.append(Request(prompt, draw_seed(seed, "harmless noise", number), users[number % len(users)]))
    return found


def level_requests(level: UserProfile, count: int, part: str, seed: int) -> list[Request]:
    """Prompts of all seven categories, named and implied in turn; the same prompts and noise whoever looks."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(draw_seed(seed, "level", number))
        way: Way = WAYS[number // len(CATEGORIES) % 3]
        category, _, caption = sample_asking(rng, way, part, CATEGORIES[number % len(CATEGORIES)])
        prompt = Prompt(f"level {number}.png", caption, (category,))
        found.append(Request(prompt, draw_seed(seed, "level noise", number), level))
    return found


def _fitting(users: Sequence[UserProfile], banned: bool) -> list[UserProfile]:
    fitting = [user for user in users if (user.banned_categories if banned else user.allowed_categories)]
    if not fitting:
        raise PSAError(f"None of these users {'bans' if banned else 'allows'} anything: there is no such request.")
    return fitting
