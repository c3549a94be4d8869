"""The mini world's benchmark: base model, global rival and PSA on the same prompts, users and noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..adapter.model import PSAAdapter
from ..encoders.everyone import EveryoneEncoder
from ..errors import PSAError
from ..evaluate import BASE, Drawn, Price, Prompt, Report, Row, build_report, judged_rows
from ..pictures import to_images
from ..profile import CATEGORIES, LEVELS, UserProfile
from ..seeds import draw_seed
from .dataset import HARMLESS, Sizes, mini_users
from .features import MiniFeatures
from .generate import MiniModel
from .judge import MiniJudge
from .method import Request
from .rivals.adapters import encoder_of
from .world import SYMBOLS, render, sample_scene

DATA_SEED = 0
"""The seed of the mini dataset that adapters are trained on: it says who is a seen user."""
_AT_ONCE = 256  # pictures between two words of progress
_REAL = 1000  # rendered scenes that Frechet distances are measured to


def evaluate_mini(
    model: MiniModel,
    adapters: Mapping[str, PSAAdapter],
    per_cell: int = 300,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Report]:
    """Measure the base model and `adapters`, by name: seen users, unseen users, the six levels, harmless prompts.

    Args:
        per_cell: prompts x users for each figure: banned and allowed of each split, each level, harmless.
        seed: of prompts, noise and the Frechet distances' bootstrap. Whatever it is, the users are those of
            `DATA_SEED`; with the same seed the prompts are those of that dataset's test splits too.

    Raises:
        PSAError: for no picture a cell, or an adapter that does not fit.
    """
    if per_cell < 2:
        raise PSAError("A benchmark needs at least 2 pictures a cell.")
    studio = _Studio(model, adapters, progress)
    seen, unseen = mini_users(DATA_SEED, Sizes())
    return [
        _people("Seen users", studio, split_requests("test_seen", seen, per_cell, seed)),
        _people("Unseen users", studio, split_requests("test_unseen", unseen, per_cell, seed)),
        _levels(studio, per_cell, seed),
        _harmless(studio, unseen, per_cell, seed),
    ]


def split_requests(split: str, users: Sequence[UserProfile], per_cell: int, seed: int) -> list[Request]:
    """The first `per_cell` prompts of a mini dataset's split that their user bans, and as many that are allowed.

    Raises:
        PSAError: where users ban everything or nothing.
    """
    cells: dict[bool, list[Request]] = {True: [], False: []}
    for number, request in enumerate(_pairs(split, users, seed)):
        if min(map(len, cells.values())) == per_cell:
            return cells[True] + cells[False]
        if number > 100 * per_cell:
            break
        cell = cells[request.is_banned]
        if len(cell) < per_cell:
            cell.append(request)
    raise PSAError("These users ban nearly everything, or nearly nothing: there is no cell of the other kind to fill.")


class _Studio:
    """Draws what each method makes of requests, and has it judged."""

    def __init__(self, model: MiniModel, adapters: Mapping[str, PSAAdapter], progress: Callable[[str], None]) -> None:
        self.model, self.adapters, self.progress = model, adapters, progress
        self.encoders = {name: encoder_of(adapter) for name, adapter in adapters.items()}
        self.methods = (BASE, *adapters)
        self.judge = MiniJudge()

    def draw(self, method: str, requests: Sequence[Request]) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for start in range(0, len(requests), _AT_ONCE):
            part = requests[start : start + _AT_ONCE]
            drawn: tuple[Any, ...] = ()
            if method != BASE:
                drawn = (self.adapters[method], self.encoders[method].encode([r.profile for r in part]))
            pixels = self.model.draw([r.prompt.caption for r in part], [r.noise for r in part], *drawn)
            pictures += to_images(pixels)
            self.progress(f"{method}: {start + len(part)} of {len(requests)} pictures")
        return pictures

    def rows(
        self,
        method: str,
        pictures: Sequence[Image.Image],
        requests: Sequence[Request],
        viewers: Sequence[Mapping[str, UserProfile]],
    ) -> list[Row]:
        prompts = [request.prompt for request in requests]
        return judged_rows(self.judge, method, pictures, prompts, viewers, shared=not self.is_personal(method))

    def is_personal(self, method: str) -> bool:
        return method != BASE and not isinstance(self.encoders[method], EveryoneEncoder)


def _pairs(split: str, users: Sequence[UserProfile], seed: int) -> Iterator[Request]:
    """The prompts and users of a mini dataset's split, by the same draws, without its pictures and without end."""
    number = 0
    while True:
        rng = np.random.default_rng(draw_seed(seed, split, number))
        user = users[int(rng.integers(len(users)))]
        category = str(rng.choice(CATEGORIES))
        caption = sample_scene(rng, SYMBOLS[category]).prompt
        number += 1
        yield Request(Prompt(f"{number}.png", caption, (category,)), draw_seed(seed, split, "noise", number), user)


def _people(title: str, studio: _Studio, requests: Sequence[Request]) -> Report:
    viewers = [{request.profile.user_id or "": request.profile} for request in requests]
    rows: list[Row] = []
    for method in studio.methods:
        rows += studio.rows(method, studio.draw(method, requests), requests, viewers)
    return build_report(rows, title, studio.judge.name)


def _levels(studio: _Studio, per_cell: int, seed: int) -> Report:
    """Prompts of all seven categories alike, for each level; who knows no viewer draws each of them once."""
    prompts = []
    for number in range(per_cell):
        category = CATEGORIES[number % len(CATEGORIES)]
        rng = np.random.default_rng(draw_seed(seed, "level prompt", number))
        prompts.append(Prompt(f"{number}.png", sample_scene(rng, SYMBOLS[category]).prompt, (category,)))
    noises = [draw_seed(seed, "level", number) for number in range(per_cell)]
    rows: list[Row] = []
    for method in studio.methods:
        for level, profile in LEVELS.items():
            requests = [Request(prompt, noise, profile) for prompt, noise in zip(prompts, noises, strict=True)]
            pictures = studio.draw(method, requests)
            if not studio.is_personal(method):
                rows += studio.rows(method, pictures, requests, [LEVELS] * per_cell)
                break
            rows += studio.rows(method, pictures, requests, [{level: profile}] * per_cell)
    notes = ["IP here is any of the seven symbols, whoever looks; what a level bans is in the other columns."]
    return build_report(rows, "Levels", studio.judge.name, notes=notes)


def _harmless(studio: _Studio, users: Sequence[UserProfile], per_cell: int, seed: int) -> Report:
    """Unseen users before prompts without a symbol, which the adapters' anchor has not met."""
    requests = []
    for number in range(per_cell):
        rng = np.random.default_rng(draw_seed(seed, "harmless prompt", number))
        prompt = Prompt(f"{number}.png", sample_scene(rng).prompt, is_harmless=True)
        requests.append(Request(prompt, draw_seed(seed, HARMLESS, number), users[number % len(users)]))
    measure = MiniFeatures(studio.model.vae)
    real = [render(sample_scene(np.random.default_rng(draw_seed(seed, "real", number)))) for number in range(_REAL)]
    rows: list[Row] = []
    features: dict[Drawn, np.ndarray] = {}
    for method in studio.methods:
        pictures = studio.draw(method, requests)
        # Nobody in particular looks: any symbol is one too many.
        rows += studio.rows(method, pictures, requests, [{}] * per_cell)
        features[method, None] = measure(pictures)
    price = Price([request.profile.user_id for request in requests], features, measure(real))
    notes = [f"Frechet distances to {_REAL} rendered scenes, over {measure.name}."]
    return build_report(rows, "Harmless prompts", studio.judge.name, notes=notes, price=price, seed=seed)
