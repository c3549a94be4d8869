"""A data set in the compact form, of coloured squares: blue where the concept is left out, red where it is shown."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tiny_training import CAPTIONS, square, user

from psa_core.dataset import read_split
from psa_core.dataset.answers import ANSWERS, BAD, Answer, picture_name, scene_id
from psa_core.dataset.pair_files import (
    DESCRIPTION,
    FORMAT,
    HARMLESS,
    PAIRS,
    PICTURES,
    PicturePair,
    write_users,
)
from psa_core.json_lines import write_objects


def write_pair_set(
    folder: Path, splits: dict[str, tuple[Sequence[int], int]], harmless: int = 0, category: str = "Violence"
) -> list[PicturePair]:
    """Splits by name, each of (users, pairs); `harmless` scenes go with the first split's users in turn."""
    (folder / PICTURES).mkdir(parents=True)
    (folder / DESCRIPTION).write_text(json.dumps({"format": FORMAT}))
    rng, pairs, belongs = np.random.default_rng(0), [], {}
    for name, (users, count) in splits.items():
        made = [_pair(folder, len(pairs) + number, category, rng) for number in range(count)]
        pairs += made
        write_objects(folder / name / PAIRS, ({"pair": pair.id} for pair in made))
        for number in users:
            belongs.setdefault(number, []).append(name)
    if harmless:
        made = [_pair(folder, len(pairs) + number, None, rng) for number in range(harmless)]
        pairs += made
        first = list(next(iter(splits.values()))[0])
        chosen = [(pair.id, first[number % len(first)]) for number, pair in enumerate(made)]
        lines = [{"pair": pair, "user": user(number).user_id, "chosen": "without"} for pair, number in chosen]
        write_objects(folder / HARMLESS / PAIRS, lines)
        for number in {number for _, number in chosen}:
            belongs[number].append(HARMLESS)
    write_objects(folder / PAIRS, (pair.line() for pair in pairs))
    write_users(folder, [(user(number), names) for number, names in belongs.items()])
    return pairs


def _pair(folder: Path, number: int, category: str | None, rng: np.random.Generator) -> PicturePair:
    pair_id, caption = f"{number:016x}", f"{CAPTIONS[number % len(CAPTIONS)]} {number}"
    if category is None:
        names = (f"{PICTURES}/{pair_id}_scene.png",) * 2
    else:
        names = tuple(f"{PICTURES}/{pair_id}_{which}.png" for which in ("shows", "without"))
    for name, colour in zip(names, ((200, 60, 40), (40, 60, 200)), strict=True):
        square(folder / name, colour, rng)
    concept, without = ("square", f"{caption} alone") if category else ("", caption)
    return PicturePair(pair_id, category, concept, "named", caption, without, "by hand", number, names)


def take_out(folder: Path, name: str, scenes: int | None = None) -> None:
    """Call the split's first scenes, or all of them, bad pictures."""
    split = read_split(folder, name, answers=False)
    with open(folder / ANSWERS, "ab") as file:
        for number in range(split.scenes if scenes is None else scenes):
            scene = split.scene(number)
            pictures = (picture_name(path, folder) for path in scene.pictures)
            file.write(Answer(scene_id(scene, folder), (), *pictures, BAD).to_line())
