"""Preference pairs of the mini world, on disk as Sage's are, for the reader and trainer that read Sage.

A pair's prompt names a symbol, implies it, or has a mood that tends to bring it. One picture shows the symbol; the
other is the same scene without it. The safe one is chosen where the user bans the symbol's category, else the other.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PSAError
from ..files import atomic_path
from ..pictures import write_picture
from ..profile import UserProfile
from ..seeds import draw_seed
from .claim import claimed
from .people import People, mini_people
from .requests import sample_asking
from .world import SYMBOLS, Scene, Way, render, sample_scene

HARMLESS = "harmless"
WORLD = 2
"""The edition of the world that is written here. Of the first one, everything that was written is read as before."""
_WAYS: dict[Way, float] = {"named": 0.4, "implied": 0.4, "unasked": 0.2}
_TEST_WAYS: dict[Way, float] = {"named": 0.25, "implied": 0.25, "implied anew": 0.25, "unasked": 0.25}
_QUALITY = 95  # of the JPEGs, whose colours stay at full resolution


@dataclass(frozen=True)
class Sizes:
    """How many users, and pairs a split."""

    seen_users: int = 600
    unseen_users: int = 150
    train: int = 3000
    val: int = 256
    test_seen: int = 500
    test_unseen: int = 500
    harmless: int = 400
    held_out_users: int = 100
    test_held_out: int = 500

    def people(self, seed: int, ban_all: bool = False) -> People:
        """The users of a dataset of this seed."""
        return mini_people(seed, self.seen_users, self.unseen_users, self.held_out_users, ban_all)

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise PSAError("A mini dataset needs at least 1 user of each kind and 1 pair a split.")


def write_dataset(
    folder: Path | str,
    seed: int = 0,
    sizes: Sizes | None = None,
    ban_all: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the splits `train`, `val`, `test_seen`, `test_unseen`, `test_held_out`, and `harmless`.

    `harmless` has prompts without a symbol, for the trainer's anchor: its chosen pictures follow them,
    its rejected ones show other scenes. Users of `test_unseen` are in no other split, and nobody elsewhere bans just
    what a user of `test_held_out` does. `train` and `harmless`, `val`, and the tests share no prompt; only the tests
    have phrases that are said to be unseen. What was stopped goes on.

    Args:
        folder: made here; it must hold nothing, or the unfinished part of this very dataset.
        ban_all: ban every category for everyone, so that the safe picture is always the chosen one.
        progress: called with (pairs written, of how many).

    Raises:
        PSAError: where the folder holds something, or cannot be written.
    """
    folder, sizes = Path(folder), sizes or Sizes()
    what = json.dumps({"world": WORLD, "seed": seed, "sizes": vars(sizes), "ban_all": ban_all})
    with claimed(folder, what, "writing a data set into"):
        _write_splits(folder, seed, sizes, ban_all, progress or (lambda _done, _total: None))


def _write_splits(folder: Path, seed: int, sizes: Sizes, ban_all: bool, progress: Callable[[int, int], None]) -> None:
    people = sizes.people(seed, ban_all)
    splits = {
        "train": (people.seen, sizes.train),
        "val": (people.seen, sizes.val),
        "test_seen": (people.seen, sizes.test_seen),
        "test_unseen": (people.unseen, sizes.test_unseen),
        "test_held_out": (people.held_out, sizes.test_held_out),
        HARMLESS: (people.seen, sizes.harmless),
    }
    total, done = sum(count for _, count in splits.values()), 0
    for name, (users, count) in splits.items():
        split = folder / name
        if (split / "metadata.jsonl").is_file():  # written last
            done += count
            continue
        lines = []
        try:
            split.mkdir(exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng(draw_seed(seed, name, number))
                user = users[int(rng.integers(len(users)))]
                pair = _harmless_pair(split, rng, user, number) if name == HARMLESS else _pair(split, rng, user, number)
                lines.append(json.dumps(pair))
                done += 1
                progress(done, total)
        except OSError as error:
            raise PSAError(f"Pictures cannot be written to {split}: {error.strerror or error}.") from error
        with atomic_path(split / "metadata.jsonl") as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pair(split: Path, rng: np.random.Generator, user: UserProfile, number: int) -> dict[str, Any]:
    is_test = split.name.startswith("test")
    shares = _TEST_WAYS if is_test else _WAYS
    way: Way = str(rng.choice(list(shares), p=list(shares.values())))  # type: ignore[assignment]
    category, scene, caption = sample_asking(rng, way, "test" if is_test else split.name)
    stem = f"user_{user.user_id}_{category}_{SYMBOLS[category]}_{number}"
    safe = _write(split / f"{stem}_s.jpg", scene.without_symbol())
    unsafe = _write(split / f"{stem}_u.jpg", scene)
    chosen, rejected = (safe, unsafe) if category in user.banned_categories else (unsafe, safe)
    return _record(chosen, rejected, caption, user) | {"caption_without": scene.place}


def _harmless_pair(split: Path, rng: np.random.Generator, user: UserProfile, number: int) -> dict[str, Any]:
    scene, other = sample_scene(rng, part="train"), sample_scene(rng, part="train")
    chosen = _write(split / f"harmless_{number}_a.jpg", scene)
    return _record(chosen, _write(split / f"harmless_{number}_b.jpg", other), scene.prompt, user)


def _record(chosen: str, rejected: str, caption: str, user: UserProfile) -> dict[str, Any]:
    return {
        "file_name": chosen,
        "chosen": chosen,
        "rejected": rejected,
        "caption": caption,
        "user_data": user.to_dict(),
    }


def _write(path: Path, scene: Scene) -> str:
    """Not atomic: a picture counts only once the split's metadata, written last, names it."""
    write_picture(render(scene), path, quality=_QUALITY, subsampling=0)
    return path.name
