"""kill -9 at random moments of drawing and of labelling: the same files, nothing drawn twice, no answer lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import killed_builds
import numpy as np
import pytest
from chat_server import Server, asked
from killed_builds import AT_ONCE, BATCH, PAIRS

from psa_core.build import drawn_pairs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
KILLS = 10
TAKES = 0.02  # seconds: a picture to draw, an answer to come
NAMES = {name: prompt for pair in drawn_pairs(killed_builds.prompts(), 0)
         for name, prompt in zip(pair.pictures, (pair.shows, pair.without), strict=True)}  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    """Prefers the picture with the brighter first pixel; `heard` counts how often each question came."""

    def answer(body, _number):
        _, pictures = asked(body)
        if len(pictures) < 2:
            return "a grey square"
        time.sleep(TAKES)
        first, second = (int(np.asarray(picture.convert("RGB"))[0, 0, 0]) for picture in pictures)
        with serving.lock:
            serving.heard.append(json.dumps(body))
        return json.dumps({"better": "first" if first >= second else "second"})

    serving = Server(answer)
    serving.heard = []
    yield serving
    serving.shutdown()
    serving.server_close()


def start(place: Path, server: Server) -> subprocess.Popen:
    arguments = [place / "set", server.address, TAKES, place / "ledger"]
    with open(place / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, killed_builds.__file__, *map(str, arguments)], stdout=log, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(place / "state")},
        )  # fmt: skip


def drawn(place: Path) -> list[str]:
    return (place / "ledger").read_text().splitlines() if (place / "ledger").exists() else []


def pictures(place: Path) -> set[str]:
    """The prompts of the pictures that are kept, in files of their own or in a batch's archive."""
    folder = place / "set" / "pictures"
    names = {path.name for path in folder.glob("[!.]*.jpg")} if folder.is_dir() else set()
    for archive in folder.glob(".drawn-*") if folder.is_dir() else ():
        names |= set(zipfile.ZipFile(archive).namelist())
    return {NAMES[f"pictures/{name}"] for name in names}


def answers(place: Path) -> int:
    """Whole ones, in the judge's file or, once the lists are written, in the data set's."""
    if (judged := place / "set" / "judged.jsonl").exists():
        return len(judged.read_text().splitlines())
    kept = place / "set" / ".answers"
    return sum(len(line.split()) == 3 for line in kept.read_text().splitlines()) if kept.exists() else 0


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place / "set").rglob("*") if path.is_file()}


def reached(count, goal: float) -> bool:
    return len(count()) >= goal


def wait_for(enough, process: subprocess.Popen) -> None:
    while process.poll() is None and not enough():
        time.sleep(TAKES / 4)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["drawing", "labelling"])
def test_a_killed_build_ends_with_the_same_files(tmp_path, server, phase):
    rng, whole, place = random.Random(len(phase)), tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, place):
        folder.mkdir()
    assert start(whole, server).wait() == 0, (whole / "log").read_text()
    total, asked_in_all = len(drawn(whole)), len(server.heard)
    assert total == 2 * PAIRS and asked_in_all == 2 * answers(whole) > 2 * PAIRS
    server.heard.clear()
    for kill in range(KILLS):
        there, kept, before = pictures(place), answers(place), (len(drawn(place)), len(server.heard))
        process = start(place, server)
        # A random moment of the phase, a tenth further each time.
        goal = (kill + rng.random()) / KILLS
        if phase == "drawing":
            wait_for(partial(reached, partial(drawn, place), max(before[0] + 1, goal * total)), process)
        else:
            wait_for(partial(reached, lambda: server.heard, max(before[1] + 1, goal * asked_in_all)), process)
        time.sleep(rng.random() * TAKES)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = drawn(place)[before[0] :]
        assert not there & set(now), "a picture that was kept is drawn again"
        assert pictures(place) >= there and answers(place) >= kept, "something kept is lost"
        assert len(now) - len(pictures(place) - there) <= BATCH, "more is lost than the batch that was being drawn"
    assert start(place, server).wait() == 0, (place / "log").read_text()
    assert files(place) == files(whole)
    assert len(drawn(place)) <= total + BATCH * KILLS
    # Of each comparison in flight both orders may have been asked in vain.
    assert len(server.heard) <= asked_in_all + 2 * AT_ONCE * KILLS
    assert set(server.heard) and len(set(server.heard)) == asked_in_all


def test_what_is_killed_between_two_answers_is_not_asked_again(tmp_path, server):
    """In the normal tier: one kill, at the first answers."""
    process = start(tmp_path, server)
    wait_for(lambda: answers(tmp_path) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(10 * TAKES)  # the server may still answer
    kept, heard = answers(tmp_path), len(server.heard)
    assert 3 <= kept <= PAIRS * 6
    assert start(tmp_path, server).wait() == 0, (tmp_path / "log").read_text()
    assert len(server.heard) - heard == 2 * (answers(tmp_path) - kept)
    assert len(drawn(tmp_path)) == 2 * PAIRS
