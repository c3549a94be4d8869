"""A training step: ours beside the reference's, on a full-size SD1.5 UNet at 256 px with random weights.

The reference's step, written from the method's description: a second whole UNet for the reference
pass, and the VAE and the text encoder on every picture at every step. Each variant runs in a process
of its own, for its peak memory; the variants take turns.

Beside each stands the floor that it could reach: the bare UNet's forward for the reference (not with reference reuse),
its forward, and its backward pass, on the same number of rows. Weights are frozen, and gradients of activations alone
flow, from the first cross-attention layer on, where an adapter's begin. Steps and floor take turns in one process, and
are compared by CPU time (by the time of the device, on a GPU). The memory beside it is the UNet's weights and what
lives at most in those passes: counted from tensors, for the steps, too; on a GPU what its allocator gave to each.

    python bench/training_step.py [--rounds 3] [--steps 3] [--device cpu] [--pixels 256]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from diffusers import DDPMScheduler
from full_size import SD15, ReferenceLoop, frozen, load_pixels, write_pairs

from psa_core import StructuredEncoder
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.training import (
    DiffusersDenoiser,
    ImageEncoder,
    PairDataset,
    TensorCache,
    TextEncoder,
    TrainConfig,
    Trainer,
    encode_users,
    fill_cache,
    read_split,
)
from psa_core.training.estimate import LiveBytes
from psa_core.training.optimizers import state_bytes

VARIANTS = {
    "reference": "two UNets, VAE and text encoder on every step",
    "ours": "one UNet, cached latents and text",
    "ours, checkpointed": "the same with gradient checkpointing",
    "ours, reference reuse": "the same as ours, with reference errors of 2 draws a pair computed before",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes a variant")
    parser.add_argument("--steps", type=int, default=3, help="measured steps a process, after one to warm up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pixels", type=int, default=256, help="side of a picture (default: %(default)s)")
    parser.add_argument("--variant", choices=VARIANTS, help="run one variant in this process and print its figures")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.steps + 1, torch.device(args.device), args.pixels)))
        return
    figures: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.rounds):
        for variant, results in figures.items():
            command = [sys.executable, __file__, "--variant", variant, "--steps", str(args.steps)]
            command += ["--device", args.device, "--pixels", str(args.pixels)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(output.stdout.splitlines()[-1]))
    names = figures["reference"][0]
    medians = {
        variant: {name: median(result[name] for result in results) for name in names}
        for variant, results in figures.items()
    }
    base = medians["reference"]
    counted = "as allocated" if torch.device(args.device).type == "cuda" else "counted from tensors"
    print(
        f"SD1.5 UNet, {args.pixels} px, float32, one pair a step, {args.device}; medians of {args.rounds} processes.\n"
        f"Pairs/s by the clock, peak memory of the process; then seconds a step beside the floor's by {CLOCK}, and\n"
        f"memory beside the UNet's with its activations, {counted}."
    )
    for variant, found in medians.items():
        print(
            f"  {variant:<22}{found['rate']:8.4f} pairs/s ({found['rate'] / base['rate']:4.2f}x) "
            f"{found['memory'] / 1e9:6.2f} GB ({found['memory'] / base['memory']:4.2f}x)   "
            f"{found['seconds']:.3f} s, floor {found['floor']:.3f} s ({found['seconds'] / found['floor']:4.2f}x)   "
            f"{found['tensors'] / 1e9:.2f} GB, UNet and activations {found['bare'] / 1e9:.2f} GB "
            f"({found['tensors'] / found['bare']:4.2f}x)   {VARIANTS[variant]}"
        )


CLOCK = "CPU time (on a GPU by its time)"


def measure(variant: str, steps: int, device: torch.device, pixels: int) -> dict[str, float]:
    """Medians without the first step: pairs a second, seconds a step and of its floor; and bytes (see above)."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), pixels)
        run = reference_steps if variant == "reference" else our_steps
        unet = frozen(SD15.new_unet(), device)
        watch = Watch(unet, device, pixels, with_reference=variant != "ours, reference reuse")
        run(Path(folder), steps, device, variant, unet, watch, pixels)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "rate": 1 / median(watch.wall[1:]),
        "memory": memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": median(watch.seconds[1:]),
        "floor": median(watch.floors[1:]),
        "tensors": watch.tensors,
        "bare": watch.bare,
    }


class Watch:
    """Times steps, and after each the floor: `begin` is called before the first step, `end` after each."""

    def __init__(self, unet, device: torch.device, pixels: int, with_reference: bool) -> None:
        self.unet, self.device, self.with_reference = unet, device, with_reference
        side = pixels // 8
        self.rows = torch.randn(2, 4, side, side, device=device), torch.tensor([500, 500], device=device)
        self.text = torch.randn(2, 77, 768, device=device)
        self.weights = sum(parameter.nbytes for parameter in unet.parameters())
        self.wall: list[float] = []
        self.seconds: list[float] = []
        self.floors: list[float] = []
        self.tensors = self.bare = 0

    def begin(self) -> None:
        self._start = clocks(self.device)

    def end(self) -> None:
        wall, own = (after - before for after, before in zip(clocks(self.device), self._start, strict=True))
        self.wall.append(wall)
        self.seconds.append(own)
        before = clocks(self.device)[1]
        self.floor()
        self.floors.append(clocks(self.device)[1] - before)
        self.begin()

    def floor(self) -> None:
        """One reference forward, one forward and one backward of the bare UNet."""
        call = (*self.rows, self.text)
        first = next(iter(cross_attention_layers(self.unet)))
        if self.with_reference:
            with torch.no_grad():
                self.unet(*call)
        hook = first.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
        try:
            self.unet(*call).sample.square().mean().backward()
        finally:
            hook.remove()

    def count(self, step, kept: int) -> None:
        """The most that lives at once in `step`, which is made for this alone, beside `kept` bytes that lay there
        before; and in a floor.
        """
        self.tensors = kept + self._peak(step)
        self.bare = self.weights + self._peak(self.floor)

    def _peak(self, step) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            return torch.cuda.max_memory_allocated() - before
        with LiveBytes() as counted:
            step()
        return counted.peak


def reference_steps(folder: Path, steps: int, _device, _variant: str, policy, watch: Watch, _pixels: int) -> None:
    """A plain loop as the reference's trainer is described."""
    loop, split = ReferenceLoop(SD15, policy, torch.float32), read_split(folder, "train")

    def make_step(number: int) -> None:
        record = split[number % len(split)]
        loop.step(load_pixels([record.chosen, record.rejected]))

    watch.begin()
    for step in range(steps):
        make_step(step)
        watch.end()
    watch.count(lambda: make_step(steps), loop.weight_bytes + state_bytes(loop.parameters, TrainConfig()))


def our_steps(folder: Path, steps: int, device, variant: str, unet, watch: Watch, pixels: int) -> None:
    """The pack's own trainer with its caches filled."""
    config = TrainConfig(
        resolution=pixels,
        precision="fp32",
        batch_size=1,
        effective_batch_size=1,
        steps=steps,
        save_every=10**6,
        reference_draws=2 if variant == "ours, reference reuse" else 0,
    )
    images, texts = fill_caches(folder, config, device)
    split = read_split(folder, "train")
    pairs = PairDataset(
        split, TensorCache(folder / "cache"), config, images, texts, encode_users(split, StructuredEncoder())
    )
    if variant == "ours, checkpointed":
        unet.enable_gradient_checkpointing()
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod

    def trainer(name: str, count: int) -> Trainer:
        denoiser = DiffusersDenoiser(unet, schedule, id="random")
        return Trainer(config.changed(steps=count), denoiser, pairs, folder / name)

    job = trainer("run", steps)

    def stepped(_progress) -> None:
        job.denoiser.release()  # the floor is the bare UNet's
        watch.end()

    watch.begin()
    job.train(stepped)
    watch.count(lambda: trainer("counted", 2).train(), watch.weights)  # in the second step all is there


def fill_caches(folder: Path, config: TrainConfig, device: torch.device) -> tuple[ImageEncoder, TextEncoder]:
    """Latents and text once a record; the models are gone when this returns."""
    vae, text_encoder = frozen(SD15.new_vae(), device), frozen(SD15.new_text_encoders()[0], device)

    @torch.no_grad()
    def encode_images(pixels: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels.to(device)).latent_dist.mode() * SD15.scaling

    @torch.no_grad()
    def encode_texts(captions: list[str]) -> dict[str, torch.Tensor]:
        return {"text": text_encoder(torch.randint(0, 49408, (len(captions), 77), device=device)).last_hidden_state}

    images, texts = ImageEncoder("random", encode_images), TextEncoder("random", encode_texts)
    fill_cache(read_split(folder, "train"), TensorCache(folder / "cache"), config, images, texts)
    nowhere = ImageEncoder("random", lambda _: torch.empty(0)), TextEncoder("random", lambda _: {})
    return nowhere


def clocks(device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time; on a GPU both are by the clock, once it has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter(), time.perf_counter()
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
