"""Reusing reference errors: what it gains in speed and costs in quality, on the tests' small task.

A task of seconds: 24 pairs of 64 px squares by 24 users, the golden SD1.5-like UNet (0.2 M parameters)
trained on them. Each pair is seen 33 times, with new noise every time or with one of 2 or 8 fixed
draws. Held-out figures are over 24 pairs each of seen and unseen users; all are means over seeds. Speed
is by CPU time of one core, for a step and for the whole run, which holds the pass that computes the
reference errors.

    python bench/reference_reuse.py [--seeds 3]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from tiny_training import trained_denoiser, trainer, write_split

from psa_core.training import DiffusersDenoiser, read_metrics

DRAWS = (0, 2, 8)
TERMS = {
    "published": {},
    "all three": {"beta": 1000.0, "winner_weight": 1000.0, "anchor_weight": 1000.0, "standardise": True},
}
USERS, STRANGERS = range(24), range(100, 124)
PAIRS, STEPS, LEARNING_RATE = 24, 200, 3e-4
SPLITS = ("val", "test_unseen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for name, users, pairs in (("train", USERS, PAIRS), ("val", USERS, 24), ("test_unseen", STRANGERS, 24)):
            write_split(data, name, users, pairs)
        base = trained_denoiser(data)
        print(f"{STEPS} steps of 4 pairs, learning rate {LEARNING_RATE:g}, means over {args.seeds} seeds")
        print(f"{'':24}{'examples/s':>32}{'seen users':>16}{'unseen users':>16}{'error on':>10}")
        print(
            f"{'terms':16}{'draws':>8}{'a step':>16}{'whole run':>16}"
            + f"{'loss':>9}{'acc.':>7}" * 2
            + f"{'chosen':>10}"
        )
        for terms, settings in TERMS.items():
            results: dict[int, dict[str, float]] = {}
            for draws in DRAWS:
                runs = [run(data, base, seed, settings, draws) for seed in range(args.seeds)]
                results[draws] = figures = {name: mean(one[name] for one in runs) for name in runs[0]}
                speed = [
                    f"{figures[name]:.1f} ({figures[name] / results[0][name]:.2f}x)" for name in ("step", "whole run")
                ]
                held_out = [f"{figures[f'{s}/preference_loss']:9.3f}{figures[f'{s}/accuracy']:7.2f}" for s in SPLITS]
                rise = figures["test_unseen/winner_error"] / figures["test_unseen/reference_winner_error"]
                print(
                    f"{terms:16}{draws or 'new':>8}{speed[0]:>16}{speed[1]:>16}{''.join(held_out)}{rise:9.2f}x",
                    flush=True,
                )


def run(data: Path, base: DiffusersDenoiser, seed: int, terms: dict[str, float], draws: int) -> dict[str, float]:
    """One run's speed and its held-out figures at the end."""
    ends: list[float] = []
    settings = {**terms, "steps": STEPS, "seed": seed, "reference_draws": draws}
    with tempfile.TemporaryDirectory() as folder:
        job = trainer(
            data,
            Path(folder),
            SPLITS,
            base,
            **settings,
            learning_rate=LEARNING_RATE,
            evaluate_every=STEPS,
            save_every=STEPS,
        )
        start = time.process_time()
        job.train(lambda _progress: ends.append(time.process_time()))
        last = read_metrics(folder)[-1]
    examples = job.config.effective_batch_size
    return {
        "step": examples / median(np.diff(ends)),
        "whole run": examples * (STEPS - 1) / (ends[-2] - start),  # the last step evaluates, too
        **{name: value for name, value in last.items() if name.startswith(SPLITS)},
    }


if __name__ == "__main__":
    main()
