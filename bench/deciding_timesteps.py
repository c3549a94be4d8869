"""Where a base model decides what pictures show: what captions do to its predictions, by timestep.

    python bench/deciding_timesteps.py MODEL DATA [--preset recommended] [--resolution 512] [--seed 0]

MODEL is a folder in diffusers' layout, DATA a data set with the split `train`. The run that `timestep_range =
"measured"` asks for measures the same.
"""

import argparse
import tempfile
from pathlib import Path

from psa_core import StructuredEncoder
from psa_core.processes import OneProcess
from psa_core.training import TensorCache, TrainConfig
from psa_core.training.assembly import Splits, encoded_pairs, read_splits
from psa_core.training.diffusers_models import DiffusersFolder
from psa_core.training.objective import NoiseSchedule
from psa_core.training.timesteps import SHARE, caption_effect, deciding_timesteps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--preset", default="recommended")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    own = {"resolution": args.resolution, "bucket_step": min(64, args.resolution)} if args.resolution else {}
    config = TrainConfig.from_dict({"preset": args.preset, "precision": args.precision, "seed": args.seed, **own})
    models = DiffusersFolder(args.model, OneProcess().device, config)
    train = read_splits(args.data, StructuredEncoder()).train
    with tempfile.TemporaryDirectory() as folder:
        encoders = (models.image_encoder(), models.text_encoder(), StructuredEncoder())
        pairs = encoded_pairs(Splits(train), config, TensorCache(Path(folder)), *encoders, OneProcess()).train
        models.release()
        denoiser = models.denoiser()
        schedule = NoiseSchedule(denoiser.alphas_cumprod, denoiser.prediction_type)
        for timestep in range(20, len(schedule.alphas_cumprod), 40):
            effect = caption_effect(denoiser, pairs, schedule, config, timestep)
            print(f"{timestep:5d} {effect:.5f} {'#' * round(4000 * effect)}", flush=True)
        (first, last), _ = deciding_timesteps(denoiser, pairs, schedule, config)
    print(f"The shortest range that holds {SHARE:.0%} of it: {first} to {last - 1}.")


if __name__ == "__main__":
    main()
