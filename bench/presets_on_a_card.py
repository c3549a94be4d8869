"""What the training presets take on one GPU: memory, pairs a second, an evening's pairs; the reference's loop beside.

SD1.5 at 512 px and SDXL at 1024 px, at full size with random weights. A preset is trained as `psa train` does it: a
model folder is read, pictures and captions are encoded into the cache, the timesteps are measured where they are to be,
and steps are made. Each runs in a process of its own. `recommended` is given no more than a card of CARD GiB has, less
one GiB for the driver and a desktop; if it does not fit, it ends there. The loops of the reference's description take
its settings: passes of as many pairs, checkpointing for SDXL, an optimizer step in four.

    python bench/presets_on_a_card.py CARD [--steps 4] [--only recommended ...]

Figures are those of the GPU that it ran on: on a card that is slower, pairs a second are fewer. Rates are medians of
steps after the first; steps of more than 32 pairs are cut to 32 at most.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from full_size import SD15, SDXL, Family, ReferenceLoop, frozen, load_pixels, write_model, write_pairs

from psa_core import StructuredEncoder
from psa_core.processes import make_accelerator
from psa_core.training import TrainConfig, read_split
from psa_core.training.assembly import folder_trainer, read_splits

EVENING = 6  # hours
GIB = 1 << 30
REFERENCE = "reference's loop"
FAMILIES = {"sd15": SD15, "sdxl": SDXL}
RUNS = {
    "sd15": (REFERENCE, "published", "recommended"),
    "sdxl": (REFERENCE, "published-sdxl", "recommended-sdxl"),
}
MOST_PAIRS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card", metavar="CARD", type=float, help="GiB of memory that `recommended` is to do with")
    parser.add_argument("--steps", type=int, default=4, help="of each, the first to warm up (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=sorted({name for names in RUNS.values() for name in names}))
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # family, name, folder: one of them, in this process
    args = parser.parse_args()
    if args.run:
        family, name, folder = args.run
        measure = reference if name == REFERENCE else preset
        print(json.dumps(measure(FAMILIES[family], name, Path(folder), args.steps, args.card)))
        return
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, bf16, medians of {args.steps - 1} steps.")
    for family, all_names in RUNS.items():
        names = [name for name in all_names if not args.only or name in args.only]
        if not names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder) / "data", FAMILIES[family].pixels)
            write_model(FAMILIES[family], Path(folder) / "model", torch.bfloat16, torch.device("cuda"))
            torch.cuda.empty_cache()
            for name in names:
                command = [sys.executable, __file__, str(args.card), "--run", family, name, folder]
                command += ["--steps", str(args.steps)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"  {FAMILIES[family].name} {name}: did not run to its end", flush=True)
                else:
                    print(shown(FAMILIES[family], name, json.loads(done.stdout.splitlines()[-1])), flush=True)


def shown(family: Family, name: str, found: dict) -> str:
    evening = found["rate"] * EVENING * 3600
    lines = [
        f"  {family.name} {family.pixels} px, {name}: {found['at_once']} pairs at a time, {found['rate']:.2f} pairs/s; "
        f"memory {found['memory'] / 1e9:.2f} GB of tensors at most, {found['reserved'] / 1e9:.2f} GB held for them",
        f"    {EVENING} hours: {evening:,.0f} pairs",
    ]
    if "pairs" in found:
        lines[1] += f"; the preset's {found['pairs']:,.0f} pairs take {found['pairs'] / found['rate'] / 3600:.2f} hours"
        lines.append(f"    while encoding: {found['encoding'] / 1e9:.2f} GB of tensors at most")
        lines += [f"    said before: {sentence}" for sentence in found["said"]]
    return "\n".join(lines)


def preset(_family: Family, name: str, folder: Path, steps: int, card: float) -> dict:
    """A run of the preset, cut to a few steps."""
    config = TrainConfig.from_dict({"preset": name})
    whole = config.steps * config.effective_batch_size
    fewer = min(config.effective_batch_size, MOST_PAIRS // config.batch_size * config.batch_size)
    config = config.changed(steps=steps, effective_batch_size=fewer)
    if name.startswith("recommended"):
        torch.cuda.set_per_process_memory_fraction((card - 1) * GIB / torch.cuda.mem_get_info()[1])
    encoder = StructuredEncoder()
    splits = read_splits(folder / "data", encoder)
    places = (folder / f"cache-{name}", folder / f"run-{name}")
    trainer = folder_trainer(config, folder / "model", splits, encoder, *places, make_accelerator())
    encoding = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ends: list[float] = []
    said: list[str] = []

    def note(_progress) -> None:
        torch.cuda.synchronize()
        ends.append(time.perf_counter())

    trainer.train(note, announce=said.append)
    seconds = median(after - before for before, after in pairwise(ends))
    return {
        "rate": config.effective_batch_size / seconds,
        "at_once": config.batch_size,
        "pairs": whole,
        "encoding": encoding,
        "said": said[:1],
        **peaks(),
    }


def reference(family: Family, _name: str, folder: Path, steps: int, _card: float) -> dict:
    """As many optimizer steps of the reference's loop; its pictures lie in memory."""
    device, passes = torch.device("cuda"), 4
    with device:
        unet = frozen(family.new_unet(), device, torch.bfloat16)
        if family.checkpointing:
            unet.enable_gradient_checkpointing()
        loop = ReferenceLoop(family, unet, torch.bfloat16, passes)
    split = read_split(folder / "data", "train")
    records = [split[number % len(split)] for number in range(family.at_once)]
    pixels = load_pixels([record.chosen for record in records] + [record.rejected for record in records])
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(passes):
            loop.step(pixels)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"rate": passes * family.at_once / median(seconds[1:]), "at_once": family.at_once, **peaks()}


def peaks() -> dict[str, int]:
    return {"memory": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


if __name__ == "__main__":
    main()
