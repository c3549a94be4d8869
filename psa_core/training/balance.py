"""Which users a scene is learned with, where it has records for many: answers and ban sets alike."""

from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice

import numpy as np

from ..dataset import Examples
from ..profile import UserProfile


def balanced(examples: Examples, profiles: Sequence[UserProfile]) -> Examples:
    """As many examples of each scene, from its own: either answer in turn, and of each all ban sets alike.

    By their own numbers, pairs of what few people ban are hardly seen with who bans it. So some examples come up more
    than once, and some of a common ban set not at all. A scene whose examples all have one answer has that alone.

    Args:
        examples: (N,) scenes, users and answers; see `Examples`.
        profiles: (U,) the users.

    Returns:
        (N,) examples, by scene.
    """
    by_scene = np.argsort(examples.scenes, kind="stable")
    starts = np.flatnonzero(np.diff(examples.scenes[by_scene], prepend=-1))
    turns: dict[bytes, np.ndarray] = {}  # scenes of one category share theirs
    order = np.empty(len(by_scene), np.int64)
    for start, stop in zip(starts, [*starts[1:], len(by_scene)], strict=True):
        own = by_scene[start:stop]
        users, swapped = examples.users[own], examples.swapped[own]
        key = users.tobytes() + swapped.tobytes()
        if key not in turns:
            turns[key] = np.array(_turns(users.tolist(), swapped.tolist(), profiles))
        order[start:stop] = own[turns[key]]
    return Examples(*(part[order] for part in examples))


def _turns(users: Sequence[int], swapped: Sequence[bool], profiles: Sequence[UserProfile]) -> list[int]:
    """Places in `users`: of those with either answer in turn, the answer of who bans more coming first."""
    kinds = [[place for place, other in enumerate(swapped) if other == answer] for answer in (False, True)]
    bans = [len(profiles[user].banned_categories) for user in users]
    kinds = sorted(filter(None, kinds), key=lambda places: -sum(bans[place] for place in places) / len(places))
    in_turn = [_ban_sets_alike(places, users, profiles) for places in kinds]
    return list(islice(chain.from_iterable(zip(*in_turn, strict=False)), len(users)))


def _ban_sets_alike(places: Sequence[int], users: Sequence[int], profiles: Sequence[UserProfile]) -> Iterator[int]:
    """These places without end, each ban set's as often as any other's."""
    of_set: dict[tuple[str, ...], list[int]] = {}
    for place in places:
        of_set.setdefault(profiles[users[place]].banned_categories, []).append(place)
    return chain.from_iterable(zip(*map(cycle, of_set.values()), strict=False))
