"""What `kill -9` does to a command: run whole, then killed again and again and started anew, and both compared.

As a script: `FOLDER COMMAND KILLS`, where COMMAND is one of `COMMANDS`. Each attempt is a process of its own, forked so
that libraries are imported once. It dies at a random moment of the time that the whole command takes, or just
before or after it gives a file its name. Before all that it is told to stop once, and leaves no half file.
"""

import csv
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import small_world
import torch
from PIL import Image
from tiny_training import QUICK, user, write_model, write_split

from psa_core.cli import main
from psa_core.concepts.pairs import PromptPair, write_prompt_pairs
from psa_core.mini import BASE_MODEL, PSA_ADAPTER
from psa_core.mini.whole import PARTS
from psa_core.mini.world import COLOURS

USERS = 12
NOTHING_FURTHER = [word for part in ("viewers", "pairs", "changes", "guarded") for word in (f"--{part}", "0")]


def train(place: Path) -> list[str]:
    write_model(place / "model", "sd15")
    for name, pairs in (("train", 8), ("val", 4)):
        write_split(place / "data", name, range(4), pairs)
    training = {**QUICK, "resolution": 128, "bucket_step": 64, "evaluate_every": 2, "warmup_steps": 1, "steps": 5}
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**training, "reference_draws": 1}.items())
    (place / "run.toml").write_text(
        f'model = "model"\ndata = "data"\noutput = "out"\nheld_out = ["val"]\n[training]\n{values}\n'
    )
    return ["train", "--config", "run.toml"]


def encode(place: Path) -> list[str]:
    _write_users(place / "users.csv")
    return ["encode", "--users", "users.csv", "-o", "out/"]


def generate(place: Path) -> list[str]:
    _write_prompts(place / "prompts.csv")
    who = ["--adapter", PSA_ADAPTER, "--levels", "L0", "L5"]
    return ["generate", "prompts.csv", "--model", str(BASE_MODEL), "--out", "out", "--steps", "4", *map(str, who)]


def evaluate(place: Path) -> list[str]:
    prompts = _write_prompts(place / "prompts.csv")
    rng = np.random.default_rng(0)
    for method in ("base", "psa"):
        (place / method).mkdir()
        for name in prompts:
            pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(place / method / name)
    methods = ["--method", "base=base", "--method", "psa=psa"]
    return ["evaluate", *methods, "--prompts", "prompts.csv", "--harmless", "--judge", "mini", "-o", "out/results.json"]


def mini_dataset(place: Path) -> list[str]:
    sizes = {"seen-users": 9, "unseen-users": 5, "train": 30, "val": 9, "test-seen": 9, "test-unseen": 9, "harmless": 9}
    return ["mini", "dataset", "out", *(f"--{name}={value}" for name, value in sizes.items())]


def mini_train_adapter(place: Path) -> list[str]:
    assert main(["mini", "dataset", str(place / "data"), *mini_dataset(place)[3:]]) == 0
    options = ["--steps", "3", "-o", "out/adapter.safetensors"]
    return ["mini", "train-adapter", "psa", "data", "out/run", *options]


def build_dataset(place: Path) -> list[str]:
    """Nine pairs and a scene, in batches of three pictures."""
    scenes = [
        f"a {where} with a {colour} circle" for where in ("sea", "meadow", "snow") for colour in list(COLOURS)[:3]
    ]
    pairs = [PromptPair("Hate", "arrow", f"{scene} and an arrow", scene, "named", "by hand") for scene in scenes]
    scene = "a sea with a green square"
    write_prompt_pairs(place / "prompts.jsonl", [*pairs, PromptPair(None, "", scene, scene, "named", "by hand")])
    how = ["--model", str(BASE_MODEL), "--count", "6", "--steps", "2", "--batch-size", "3", "--form", "sage"]
    return ["build-dataset", "prompts.jsonl", "out", *how]


def build_labels(place: Path) -> list[str]:
    """The same, and a judge says who prefers which."""
    return [*build_dataset(place), "--judge", "mini", "--labels", "judge"]


def mini_train_base(_place: Path) -> list[str]:
    small_world.shrink()
    return ["mini", "train-base", "out", "--steps", "4"]


def mini_evaluate(_place: Path) -> list[str]:
    small_world.shrink()
    return ["mini", "evaluate", "--alone", "--work", "out/work", *small_world.FEW, "-o", "out/results.json"]


def mini_benchmark(_place: Path) -> list[str]:
    small_world.shrink()
    return [
        "mini",
        "benchmark",
        "out/work",
        "--without",
        *PARTS,
        *small_world.FEW,
        *NOTHING_FURTHER,
        "-o",
        "out/r.json",
    ]


def mini_ablate(_place: Path) -> list[str]:
    small_world.shrink()
    return ["mini", "ablate", "out/work", "--only", "the recipe", "1 token", "--per-cell", "2", "-o", "out/page.md"]


def dataset_check(place: Path) -> list[str]:
    write_split(place / "data", "train", range(4), 40)
    return ["dataset", "check", "data", "--json", "out.json", "--picture", "out.png"]


def users(_place: Path) -> list[str]:
    return ["users", "out.csv", "--count", "400", "--picture", "out.png"]


def prompts(_place: Path) -> list[str]:
    return ["prompts", "placeholders", "out.jsonl", "--pairs", "30", "--harmless", "30"]


def convert(_place: Path) -> list[str]:
    return ["convert", str(PSA_ADAPTER), "out.safetensors", "--dtype", "float16", "--force"]


def effect(_place: Path) -> list[str]:
    return ["effect", str(PSA_ADAPTER), "--level", "L5", "-o", "out.safetensors", "--force"]


def mini_train_classifier(_place: Path) -> list[str]:
    return ["mini", "train-classifier", "out.safetensors", "--steps", "2", "--force"]


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "train": train,
    "encode": encode,
    "generate": generate,
    "evaluate": evaluate,
    "build-dataset": build_dataset,
    "build-dataset labels": build_labels,
    "mini dataset": mini_dataset,
    "mini train-adapter": mini_train_adapter,
    "mini train-classifier": mini_train_classifier,
    "mini train-base": mini_train_base,
    "mini evaluate": mini_evaluate,
    "mini benchmark": mini_benchmark,
    "mini ablate": mini_ablate,
    "dataset check": dataset_check,
    "users": users,
    "prompts": prompts,
    "convert": convert,
    "effect": effect,
}

DRAWING = ("train", "generate", "build-dataset", "build-dataset labels", "mini train-adapter", "mini train-base",
           "mini evaluate", "mini benchmark", "mini ablate")  # fmt: skip
"""What needs diffusers, whose import takes longer than most of them."""


def _write_users(path: Path) -> None:
    rows = [user(number).to_dict() for number in range(USERS)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _write_prompts(path: Path) -> list[str]:
    names = [f"{number}.png" for number in range(USERS)]
    captions = ("a desert with a red circle", "a sea with a blue square and a star")
    path.write_text(
        "file_name,caption\n" + "".join(f"{name},{captions[number % 2]}\n" for number, name in enumerate(names))
    )
    return names


def run() -> None:
    place, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    if name in DRAWING:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline  # noqa: F401
    os.chdir(place)
    arguments, rng = COMMANDS[name](place), random.Random(len(name))
    began, given = time.monotonic(), set(place.rglob("*"))
    code, files = _attempt(arguments, None, 0)
    seconds, whole = time.monotonic() - began, written(place, given)
    assert code == 0 and whole, f"{name} failed: {code}"
    _clear(place, given)
    code, _ = _attempt(arguments, rng.random() * seconds, 0, signal.SIGTERM)
    assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), f"told to stop, it ends with {code}"
    assert not [*place.rglob(".part-*")], "told to stop, it leaves half a file"
    _clear(place, given)
    killed = 0
    while killed < kills:
        moment, at_file = (rng.random() * seconds, 0) if killed % 2 else (None, rng.randint(1, max(2, files)))
        code, _ = _attempt(arguments, moment, at_file)
        if code == -signal.SIGKILL:
            killed += 1
            print(f"killed after {moment:.2f} s" if moment else f"killed at file {at_file / 2}", flush=True)
        else:
            _compare(code, whole, written(place, given))
            _clear(place, given)
    code, _ = _attempt(arguments, None, 0)
    _compare(code, whole, written(place, given))
    print(f"{name}: {killed} kills, {len(whole)} files the same")


def _compare(code: int, whole: dict[str, bytes], again: dict[str, bytes]) -> None:
    assert code == 0, f"a killed command does not go on: {code}"
    assert again.keys() == whole.keys(), sorted(again.keys() ^ whole.keys())
    assert again == whole, [name for name in whole if again[name] != whole[name]]


def written(place: Path, given: set[Path]) -> dict[str, bytes]:
    """All that a command has written, beside what it was given; of the metrics, all but how long it took."""
    return {
        path.relative_to(place).as_posix(): _untimed(path) if path.name == "metrics.jsonl" else path.read_bytes()
        for path in sorted(set(place.rglob("*")) - given)
        if path.is_file() and path.name != "log"
    }


def _clear(place: Path, given: set[Path]) -> None:
    for path in sorted(set(place.rglob("*")) - given, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _untimed(path: Path) -> bytes:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    timed = ("examples_per_second", "eta_seconds", "check")
    return json.dumps([{key: value for key, value in row.items() if key not in timed} for row in rows]).encode()


def _attempt(
    arguments: list[str], moment: float | None, at_file: int, how: signal.Signals = signal.SIGKILL
) -> tuple[int, int]:
    """(exit code, how many files got their names), of a process that is killed after `moment` or at half a file."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        log = os.open("log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _die_at_file(at_file, write)
        code = main(arguments)
        sys.stdout.flush()
        os._exit(code)
    os.close(write)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, how)
    _, status = os.waitpid(child, 0)
    with open(read, "rb") as pipe:
        named = len(pipe.read())
    return os.waitstatus_to_exitcode(status), named


def _die_at_file(halves: int, pipe: int) -> None:
    """Tell of each file that gets its name, or one more; die before (an odd number of halves) or after one does."""
    count = [0]

    def counting(naming: Callable[..., None]) -> Callable[..., None]:
        def counted(*paths) -> None:
            count[0] += 1
            if count[0] == halves:
                os.kill(os.getpid(), signal.SIGKILL)
            naming(*paths)
            os.write(pipe, b".")
            count[0] += 1
            if count[0] == halves:
                os.kill(os.getpid(), signal.SIGKILL)

        return counted

    os.replace, os.link = counting(os.replace), counting(os.link)


if __name__ == "__main__":
    run()
