"""A build that can be killed: `FOLDER ADDRESS SECONDS LEDGER`, with a stub for the model and a judge at the address; or
`FOLDER rewrite STARTED`, whose lists are written anew until it is killed.

Each picture takes a moment to draw, and is written into the ledger once it is drawn, each in a line of its own.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from psa_core.build import Drawing, Said, build_dataset, drawn_pairs, plan
from psa_core.concepts.pairs import PromptPair
from psa_core.judges.vision_language import VisionLanguageJudge
from psa_core.population import sample_users

PAIRS, BATCH, AT_ONCE = 12, 3, 2


class SlowDrawer:
    """Draws noise that follows from prompt and seed."""

    def __init__(self, seconds: float, ledger: Path) -> None:
        self._seconds = seconds
        self._ledger = os.open(ledger, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def draw(self, prompts, seeds):
        pictures = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            time.sleep(self._seconds)
            rng = np.random.default_rng([seed, len(prompt)])
            pictures.append(Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)))
            os.write(self._ledger, f"{prompt}\n".encode())
        return pictures


def prompts() -> list[PromptPair]:
    scenes = [f"scene {number}" for number in range(PAIRS)]
    return [PromptPair("Hate", "thing", f"{scene} with a thing", scene, "named", "by hand") for scene in scenes]


def build(folder: Path, address: str, seconds: float, ledger: Path) -> None:
    users = sample_users(6, 2)
    planned = plan(drawn_pairs(prompts(), 0), users, 0)
    drawing = Drawing({"model": "stub"}, lambda: SlowDrawer(seconds, ledger), BATCH)
    judge = VisionLanguageJudge(address, "m", wait=0, at_once=AT_ONCE)
    build_dataset(folder, planned, users, 0, drawing, judge=judge, labels="judge")


def rewrite(folder: Path, turns: int | None, started: Path | None = None) -> None:
    """Build a data set, and write its lists anew, for other users, so many times or for ever."""
    turn = 0
    while turns is None or turn < turns:
        users = sample_users(6 - 2 * (turn % 2), 2)
        planned = plan(drawn_pairs(prompts(), 0), users, 0)
        drawing = Drawing({"model": "stub"}, lambda: SlowDrawer(0, folder.with_name("ledger")), BATCH)
        build_dataset(folder, planned, users, 0, drawing, Said("CC0-1.0" if turn % 2 else "CC-BY-4.0"))
        turn += 1
        if started is not None:
            started.touch()


if __name__ == "__main__":
    if sys.argv[2] == "rewrite":
        rewrite(Path(sys.argv[1]), None, Path(sys.argv[3]))
    else:
        build(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
