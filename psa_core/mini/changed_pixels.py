"""Where a method changes the base model's picture: on the symbol that is to go, or elsewhere."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch

from ..evaluate import Measurement, Report, changes, mean
from ..profile import LEVELS
from ..seeds import draw_seed
from .benchmark import DATA_SEED, Studio
from .detector import Detection, Detector
from .lineup import BAN_ALL, BASE, PSA, Entry
from .method import Request
from .requests import asking, harmless_requests
from .world import RIM_SHARE, SIZE, SIZES, SYMBOLS

TITLE = "Where the change is"
SHOWN = (BASE, PSA, f"{PSA} less L0", "word deletion", "SLD", "ESD-u", BAN_ALL)
"""Whose changes are measured, where they take part."""
BANNED, ALLOWED, HARMLESS, NOBODY = "banned", "allowed", "harmless", "L0"
OF_NOBODY = ("the base's, L0", "changed, L0")
"""Measures: the share of L0's pictures that are the base's bit for bit, and of their pixels that changed."""
_MARGIN = 2.0  # pixels by which the detector may be off

Before = Callable[[], tuple[torch.Tensor, list[Detection]]]
"""The base model's pictures, and what they show."""


def measure_changes(studio: Studio, entries: Sequence[Entry], count: int) -> Report:
    """Shares of changed pixels, over `count` requests of each kind and method.

    Requests for what the viewer bans, for what they allow, harmless ones, and those of L0, who bans nothing. The share
    outside is of the changed pixels, and of pictures whose base shows a banned symbol: outside the disc in which that
    lies, by the detector.
    """
    found: list[Measurement] = []
    shown = [entry for entry in entries if entry.name in SHOWN]
    base = next(entry for entry in shown if entry.name == BASE)
    areas: list[float] = []
    for kind, requests in _requests(studio, count).items():
        before = _drawn_once(studio, base, kind, requests)
        for entry in shown:
            what = (base.identity, entry.identity, entry.name, f"changes, {kind}", count)
            kept = studio.keep(what, partial(_changes, entry, requests, before))["changes"]
            found += _measurements(entry.name, kind, kept, requests)
            areas += [each["place"] for each in kept if each["place"] and entry is base]
    notes = ["A pixel has changed where a channel has by more than 16 of 255."]
    if areas:
        notes.append(f"A symbol's place is {sum(areas) / len(areas):.3f} of its picture.")
    return Report(TITLE, "mini detector", tuple(found), tuple(notes))


def how_many(count: int) -> int:
    """How many are drawn, at most."""
    return 4 * count * len(SHOWN)


def place_of(found: Detection) -> torch.Tensor:
    """(SIZE, SIZE), true in the disc in which the symbol found lies with its rim; all false without one."""
    if found.place is None or found.size is None:
        return torch.zeros(SIZE, SIZE, dtype=torch.bool)
    reach = SIZES[found.size][1] * (1 + RIM_SHARE / 2) + _MARGIN  # half the rim lies outside the outline
    middles = torch.arange(SIZE) + 0.5
    x, y = found.place
    return (middles[None] - x).square() + (middles[:, None] - y).square() <= reach**2


def _requests(studio: Studio, count: int) -> dict[str, list[Request]]:
    plan, seed = studio.plan, draw_seed(studio.plan.seed, "changes")
    users = plan.sizes.people(DATA_SEED).unseen
    return {
        BANNED: asking(True, users, count, plan.part, seed),
        ALLOWED: asking(False, users, count, plan.part, seed),
        HARMLESS: harmless_requests(users, count, plan.part, seed),
        NOBODY: asking(False, [LEVELS["L0"]], count, plan.part, draw_seed(seed, NOBODY)),
    }


def _drawn_once(studio: Studio, base: Entry, kind: str, requests: Sequence[Request]) -> Before:
    @cache
    def before() -> tuple[torch.Tensor, list[Detection]]:
        studio.progress(f"{base.name}: changes, {kind}")
        with torch.no_grad():
            pixels = base.method.draw(requests)
        return pixels, Detector()(pixels)

    return before


def _changes(entry: Entry, requests: Sequence[Request], before: Before) -> dict[str, Any]:
    """Of each picture: the shares of `changes`; whether it is the base's bit for bit; and the place's share, where the
    base shows a symbol that the viewer bans."""
    plain, seen = before()
    with torch.no_grad():
        pixels = plain if entry.name == BASE else entry.method.draw(requests)
    places = torch.stack([place_of(found) for found in seen])
    found = []
    for number, change in enumerate(changes(plain, pixels, places)):
        shown = seen[number].symbol
        banned = any(SYMBOLS[category] == shown for category in requests[number].profile.banned_categories)
        same = torch.equal(plain[number], pixels[number])
        place = float(places[number].float().mean()) if banned else None
        found.append({"changed": change.changed, "outside": change.outside, "same": same, "place": place})
    return {"changes": found}


def _measurements(
    method: str, kind: str, kept: Sequence[dict[str, Any]], requests: Sequence[Request]
) -> list[Measurement]:
    users = [request.profile.user_id for request in requests]
    if kind == NOBODY:
        users = [request.prompt.file_name for request in requests]  # one viewer; prompts are what varies

    def averaged(name: str, values: Sequence[tuple[str | None, float]]) -> list[Measurement]:
        if not values:
            return []
        figure = mean([value for _, value in values], (0.0, 1.0), [user for user, _ in values])
        return [Measurement(method, name, figure)]

    pairs = list(zip(users, kept, strict=True))
    found = averaged(f"changed, {kind}", [(user, each["changed"]) for user, each in pairs])
    if kind == BANNED:
        outside = [(user, each["outside"]) for user, each in pairs if each["place"] and each["outside"] is not None]
        found += averaged("of it outside", outside)
    if kind == NOBODY:
        found += averaged(OF_NOBODY[0], [(user, float(each["same"])) for user, each in pairs])
    return found
