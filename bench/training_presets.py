"""What each term that keeps training honest does, and what all of them do together, on the tests' small task.

A task of seconds: 48 pairs of 64 px squares by 24 users (blue is right for those who ban Violence, red
for the others), the golden SD1.5-like UNet (0.2 M parameters) trained on them. Everything is
measured on 24 users that training has not seen; all are means over seeds.

    python bench/training_presets.py [--steps 150] [--seeds 2]
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from tiny_training import trained_denoiser, trainer, write_split
from torch.utils.data import default_collate

from psa_core import PSAAdapter
from psa_core.training import DiffusersDenoiser, Trainer, User, read_metrics
from psa_core.training.objective import NoiseSchedule

ALL_THREE = {"beta": 1000.0, "winner_weight": 1000.0, "anchor_weight": 1000.0, "timestep_range": (50, 1000)}
VARIANTS = {
    "published": {},
    "  beta 1000": {"beta": 1000.0},
    "  + winner term": {"beta": 1000.0, "winner_weight": 1000.0},
    "  + anchor term": {"beta": 1000.0, "anchor_weight": 1000.0},
    "  + standardised": {"beta": 1000.0, "standardise": True},
    "all three": {**ALL_THREE, "standardise": True},
    "  not standardised": ALL_THREE,
}
COLUMNS = {
    "accuracy": "implicit accuracy: share of pairs whose chosen picture gained",
    "chosen": "error on chosen pictures, as a share of the base model's",
    "rejected": "error on rejected pictures, likewise",
    "nobody": "what the empty profile changes in a prediction, likewise",
}
USERS, STRANGERS = range(24), range(100, 124)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for name, users, pairs in (("train", USERS, 48), ("test_unseen", STRANGERS, 24)):
            write_split(data, name, users, pairs)
        base = trained_denoiser(data)
        print(f"{args.steps} steps of 4 pairs, means over {args.seeds} seeds")
        print("\n".join(f"  {name}: {meaning}" for name, meaning in COLUMNS.items()))
        for rate in (1e-4, 1e-3):
            print(f"{f'learning rate {rate:g}':20}" + "".join(f"{name:>10}" for name in COLUMNS))
            for variant, settings in VARIANTS.items():
                results = [
                    run(data, base, args.steps, seed, learning_rate=rate, **settings) for seed in range(args.seeds)
                ]
                figures = "".join(f"{mean(result[name] for result in results):10.2f}" for name in COLUMNS)
                print(f"{variant:20}{figures}", flush=True)


def run(data: Path, base: DiffusersDenoiser, steps: int, seed: int, **settings) -> dict[str, float]:
    """The columns' figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        job = trainer(
            data, Path(folder), ("test_unseen",), base, steps=steps, seed=seed, evaluate_every=steps, **settings
        )
        adapter = job.train().adapter
        last = read_metrics(folder)[-1]
    figures = {name.removeprefix("test_unseen/"): value for name, value in last.items()}
    return {
        "accuracy": figures["accuracy"],
        "chosen": figures["winner_error"] / figures["reference_winner_error"],
        "rejected": figures["loser_error"] / figures["reference_loser_error"],
        "nobody": change_for_nobody(job, adapter) / figures["reference_winner_error"],
    }


@torch.no_grad()
def change_for_nobody(job: Trainer, adapter: PSAAdapter) -> float:
    """Mean squared distance of predictions for the empty profile from the base model's, at even timesteps."""
    pairs = job.held_out["test_unseen"]
    items = default_collate([pairs[i, i, 0] for i in range(len(pairs))])
    timesteps = torch.linspace(0, 999, len(pairs)).long()
    schedule = NoiseSchedule(job.denoiser.alphas_cumprod, job.denoiser.prediction_type)
    noisy = schedule.noisy(items["latents"][:, 0], items["noise"], timesteps)
    user = User(adapter, adapter.uncond_tokens(len(pairs)))
    predictions = [job.denoiser(noisy, timesteps, items["conditioning"], who) for who in (user, None)]
    return float((predictions[0] - predictions[1]).square().mean())


if __name__ == "__main__":
    main()
