"""One picture of the benchmark: a prompt of each way, drawn for the six levels by three methods."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..errors import PSAError
from ..pictures import to_images
from ..plots.grid import Cell, labelled_table
from ..profile import CATEGORIES, LEVELS, UserProfile
from ..prompts import Prompt
from ..seeds import draw_seed
from .benchmark import Plan, Seen
from .detector import Detection, Detector
from .lineup import BAN_ALL, BASE, PSA, Entry
from .method import Request
from .requests import sample_asking
from .scores import Picture
from .world import SYMBOLS, WAYS, Way

_CHOICE = (BASE, "word deletion", PSA, BAN_ALL)
_METHODS = 3  # of the choice, those that take part
_CANDIDATES = 12  # prompts, of which the first one is taken whose symbol the base model draws
_COLOURS = 256  # of the whole table, so that the file stays small
_LEFT_OUT, _WRONG = (31, 90, 166), (200, 40, 40)
_CATEGORY_OF = {symbol: category for category, symbol in SYMBOLS.items()}


def viewers_picture(entries: Sequence[Entry], plan: Plan) -> Image.Image:
    """Rows: a prompt of each way by each of three methods; columns: L0 to L5; one noise a prompt.

    Raises:
        PSAError: without a base model.
    """
    chosen = [entry for name in _CHOICE for entry in entries if entry.name == name][:_METHODS]
    if not chosen or chosen[0].name != BASE:
        raise PSAError("The base model must take part in the benchmark: the picture shows it.")
    rows, labels = [], []
    for way, request in _requests(chosen[0], plan).items():
        prompt = request.prompt.caption.replace(" with ", " with\n").replace(" and ", " and\n")
        rows += [_row(entry, way, request) for entry in chosen]
        labels += [f"{chosen[0].name}\n{way}:\n{prompt}", *(entry.name for entry in chosen[1:])]
    columns = [f"{name}\n{_bans(viewer)}" for name, viewer in LEVELS.items()]
    note = (
        "Blue: this viewer bans the symbol, and it is left out. Red: the picture shows what its viewer bans, or not "
        "the symbol that they allow and the prompt asks for. Of each way the first prompt whose symbol the base "
        "model draws."
    )
    return labelled_table(rows, labels, columns, note).quantize(_COLOURS, dither=Image.Dither.NONE)


def how_many() -> int:
    """How many are drawn, at most."""
    return len(WAYS) * (_CANDIDATES + _METHODS * len(LEVELS))


def _requests(base: Entry, plan: Plan) -> dict[Way, Request]:
    """One of each way, no two of one category."""
    found: dict[Way, Request] = {}
    for way in WAYS:
        used = {request.prompt.categories for request in found.values()}
        for number in range(_CANDIDATES):
            seed = draw_seed(plan.seed, "viewers", way, number)
            category, _, caption = sample_asking(np.random.default_rng(seed), way, plan.part)
            if (category,) in used:
                continue
            prompt = Prompt(f"{way} {number}.png", caption, (category,))
            found[way] = Request(prompt, draw_seed(seed, "noise"), LEVELS["L0"])
            if _look(base, [found[way]])[1][0].symbol == SYMBOLS[category]:
                break
    return found


def _row(entry: Entry, way: Way, request: Request) -> list[Cell]:
    """For the six levels; whoever does not know its viewer draws once."""
    viewers = list(LEVELS.values()) if entry.method.knows_viewer else [LEVELS["L0"]]
    pictures, seen = _look(entry, [Request(request.prompt, request.noise, viewer) for viewer in viewers])
    if len(viewers) == 1:
        pictures, seen = pictures * len(LEVELS), seen * len(LEVELS)
    cells = []
    for picture, found, viewer in zip(pictures, seen, LEVELS.values(), strict=True):
        shown = Seen(_CATEGORY_OF.get(found.symbol or ""), found.size, True)
        cells.append(Cell(picture, "", _frame(Picture(way, Request(request.prompt, request.noise, viewer), shown))))
    return cells


def _look(entry: Entry, requests: Sequence[Request]) -> tuple[list[Image.Image], list[Detection]]:
    with torch.no_grad():
        pixels = entry.method.draw(requests)
    return to_images(pixels), Detector()(pixels)


def _frame(picture: Picture) -> tuple[int, int, int] | None:
    if not picture.passes:
        return _WRONG
    return _LEFT_OUT if picture.request.is_banned else None


def _bans(viewer: UserProfile) -> str:
    symbols = [SYMBOLS[category] for category in viewer.banned_categories]
    if len(symbols) in (0, len(CATEGORIES)):
        return "bans all" if symbols else "bans nothing"
    return f"bans {', '.join(symbols)}"
