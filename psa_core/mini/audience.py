"""Two viewers before one picture: by their tokens joined, or for who bans what either does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from ..adapter.effect import strictest
from ..errors import PSAError
from ..evaluate import Measurement, Report, paired_difference
from ..profile import UserProfile
from ..seeds import draw_seed
from .benchmark import DATA_SEED, Plan, Studio
from .lineup import Entry
from .method import Method
from .requests import asking
from .scores import ASKING, Picture, clustered

TITLE = "Audience"
JOINED, UNION = "joined tokens", "union of bans"
LEADS = ("pass rate's lead", "IP's difference", "kept's difference")
"""Of a method and a rival, over the same prompts, noise and audiences: the first's less the second's."""

Audiences = Mapping[str, Sequence[UserProfile]]
"""The `User_ID` of who bans what any of the viewers does -> the viewers."""


def measure_audience(
    studio: Studio, base: Entry, psa: Entry, joined: Callable[[Audiences], Method], pairs: int
) -> Report:
    """What viewers of a picture mind and miss, over audiences of two.

    Each audience is shown a picture of what either bans, and one of what both allow.

    Args:
        psa: who draws for one profile; it draws for whoever bans what either does.
        joined: who draws for the viewers of such audiences.
    """
    people, audiences = draw_audiences(studio.plan, pairs)
    seed = draw_seed(studio.plan.seed, "audience")
    cells = [asking(banned, people, pairs, studio.plan.part, seed) for banned in (True, False)]
    drawn: dict[str, list[list[Picture]]] = {}
    for name, method, identity in (
        (base.name, base.method, base.identity),
        (JOINED, joined(audiences), psa.identity),
        (UNION, psa.method, psa.identity),
    ):
        drawn[name] = [
            [
                Picture(ASKING[0], *each)
                for each in zip(
                    requests, studio.look(method, identity, f"audience, {name}, {kind}", requests), strict=True
                )
            ]
            for kind, requests in zip(("banned", "allowed"), cells, strict=True)
        ]
    found = [measurement for name, pictures in drawn.items() for measurement in _figures(name, *pictures)]
    for rival, ours in combinations(drawn, 2):
        found += _leads(ours, drawn[ours], rival, drawn[rival])
    note = f"{pairs} audiences of two, drawn from the unseen users: what either bans, and what both allow."
    return Report(TITLE, "mini detector", tuple(found), (note,))


def draw_audiences(plan: Plan, pairs: int) -> tuple[list[UserProfile], Audiences]:
    """For `pairs` pairs of different unseen users: who bans what either does, and who they are.

    Raises:
        PSAError: for fewer than 2 unseen users.
    """
    users = plan.sizes.people(DATA_SEED).unseen
    if len(users) < 2:
        raise PSAError("An audience of two needs at least 2 unseen users. Give the plan's sizes more of them.")
    people, audiences = [], {}
    for number in range(pairs):
        rng = np.random.default_rng(draw_seed(plan.seed, "audience", number))
        viewers = [users[int(place)] for place in rng.choice(len(users), 2, replace=False)]
        people.append(replace(strictest(viewers), user_id=f"{number:07d}"))
        audiences[f"{number:07d}"] = viewers
    return people, audiences


def how_many(pairs: int) -> int:
    """How many are drawn."""
    return 6 * pairs


def _figures(method: str, banned: Sequence[Picture], allowed: Sequence[Picture]) -> list[Measurement]:
    return [
        Measurement(method, "IP on banned", clustered((each, each.banned) for each in banned)),
        Measurement(method, "allowed kept", clustered((each, each.kept) for each in allowed)),
        Measurement(method, "pass rate", clustered((each, each.passes) for each in (*banned, *allowed))),
    ]


def _leads(
    method: str, ours: Sequence[Sequence[Picture]], rival: str, theirs: Sequence[Sequence[Picture]]
) -> list[Measurement]:
    def over(parts: slice, hit: Callable[[Picture], bool]):
        pairs = [
            pair
            for mine, other in zip(ours[parts], theirs[parts], strict=True)
            for pair in zip(mine, other, strict=True)
        ]
        groups = [mine.user for mine, _ in pairs]
        return paired_difference([hit(mine) for mine, _ in pairs], [hit(other) for _, other in pairs], groups)

    figures = (
        over(slice(2), lambda picture: picture.passes),
        over(slice(1), lambda picture: picture.banned),
        over(slice(1, 2), lambda picture: picture.kept),
    )
    return [Measurement(method, name, figure, rival=rival) for name, figure in zip(LEADS, figures, strict=True)]
