"""A training step: ours beside the reference's, on a full-size SD1.5 UNet at 256 px with random weights.

The reference's step, written from the method's description: a second whole UNet for the reference
pass, and the VAE and the text encoder on every picture at every step. Each variant runs in a process
of its own, for its peak memory; the variants take turns.

    python bench/training_step.py [--rounds 3] [--steps 3] [--device cpu]
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from psa_core import LEVELS, PSAAdapter, StructuredEncoder, dpo_loss
from psa_core.diffusers_unet import cross_attention_layers, psa_applied
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

PIXELS, LEARNING_RATE, PAIRS = 256, 5e-6, 8
VARIANTS = {
    "reference": "two UNets, VAE and text encoder on every step",
    "ours": "one UNet, cached latents and text",
    "ours, checkpointed": "the same with gradient checkpointing",
    "ours, reference reuse": "the same as ours, with reference errors of 2 draws a pair computed before",
}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes a variant")
    parser.add_argument("--steps", type=int, default=3, help="measured steps a process, after one to warm up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", choices=VARIANTS, help="run one variant in this process and print its figures")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.steps + 1, torch.device(args.device))))
        return
    figures: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.rounds):
        for variant, results in figures.items():
            command = [sys.executable, __file__, "--variant", variant, "--steps", str(args.steps)]
            output = subprocess.run([*command, "--device", args.device], check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(output.stdout.splitlines()[-1]))
    medians = {
        variant: [median(result[name] for result in results) for name in ("rate", "memory")]
        for variant, results in figures.items()
    }
    base_rate, base_memory = medians["reference"]
    print(f"SD1.5 UNet, {PIXELS} px, float32, one pair a step, {args.device}; medians of {args.rounds} processes")
    for variant, (rate, memory) in medians.items():
        print(
            f"  {variant:<22}{rate:8.4f} pairs/s ({rate / base_rate:4.2f}x) {memory / 1e9:7.2f} GB peak "
            f"({memory / base_memory:4.2f}x)   {VARIANTS[variant]}"
        )


def measure(variant: str, steps: int, device: torch.device) -> dict[str, float]:
    """Pairs a second without the first step, and the peak bytes of this process (of the GPU, on one)."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder))
        run = reference_steps if variant == "reference" else our_steps
        ends = run(Path(folder), steps, device, variant)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    return {"rate": 1 / median(np.diff(ends)), "memory": memory}


def reference_steps(folder: Path, steps: int, device: torch.device, _variant: str) -> list[float]:
    """When each step ended, of a plain loop as the reference's trainer is described."""
    policy = frozen(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8), device)
    reference = copy.deepcopy(policy)
    vae, text_encoder = frozen(AutoencoderKL(**SD15_VAE), device), frozen(CLIPTextModel(CLIP_L), device)
    adapter = new_adapter(policy).to(device)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LEARNING_RATE)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    embedding = StructuredEncoder().encode([LEVELS["L5"]]).vectors.to(device)
    split = read_split(folder, "train")
    ends = []
    for step in range(steps):
        record = split[step % len(split)]
        pixels = torch.stack([load_pixels(path) for path in (record.chosen, record.rejected)]).to(device)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * 0.18215
            text = text_encoder(torch.randint(0, 49408, (2, 77), device=device)).last_hidden_state
        noise = torch.randn_like(latents[:1]).repeat(2, 1, 1, 1)
        timesteps = torch.randint(0, 1000, (1,), device=device).repeat(2)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.no_grad():
            reference_prediction = reference(noisy, timesteps, text).sample
        with psa_applied(policy, adapter, adapter.user_tokens(embedding)):
            prediction = policy(noisy, timesteps, text).sample
            dpo_loss(prediction, reference_prediction, noise).loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(now(device))
    return ends


def our_steps(folder: Path, steps: int, device: torch.device, variant: str) -> list[float]:
    """When each step ended, of the pack's own trainer with its caches filled."""
    config = TrainConfig(
        resolution=PIXELS,
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
    unet = frozen(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8), device)
    if variant == "ours, checkpointed":
        unet.enable_gradient_checkpointing()
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    ends: list[float] = []
    trainer = Trainer(config, DiffusersDenoiser(unet, schedule, id="random"), pairs, folder / "run")
    trainer.train(lambda _progress: ends.append(now(device)))
    return ends


def fill_caches(folder: Path, config: TrainConfig, device: torch.device) -> tuple[ImageEncoder, TextEncoder]:
    """Latents and text once a record; the models are gone when this returns."""
    vae, text_encoder = frozen(AutoencoderKL(**SD15_VAE), device), frozen(CLIPTextModel(CLIP_L), device)

    @torch.no_grad()
    def encode_images(pixels: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels.to(device)).latent_dist.mode() * 0.18215

    @torch.no_grad()
    def encode_texts(captions: list[str]) -> dict[str, torch.Tensor]:
        return {"text": text_encoder(torch.randint(0, 49408, (len(captions), 77), device=device)).last_hidden_state}

    images, texts = ImageEncoder("random", encode_images), TextEncoder("random", encode_texts)
    fill_cache(read_split(folder, "train"), TensorCache(folder / "cache"), config, images, texts)
    nowhere = ImageEncoder("random", lambda _: torch.empty(0)), TextEncoder("random", lambda _: {})
    return nowhere


CLIP_L = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
)


def new_adapter(unet: UNet2DConditionModel) -> PSAAdapter:
    return PSAAdapter([layer.to_q.out_features for layer in cross_attention_layers(unet)], 768, StructuredEncoder.dim)


def frozen(model, device: torch.device):
    return model.to(device).eval().requires_grad_(False)


def load_pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32).copy()).permute(2, 0, 1) / 127.5 - 1


def write_pairs(folder: Path) -> None:
    """`PAIRS` pairs of noise pictures in Sage's format."""
    split = folder / "train"
    split.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(PAIRS):
        names = [f"{number}_{kind}.png" for kind in "su"]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)).save(split / name)
        record = {"chosen": names[0], "rejected": names[1], "caption": f"picture {number}"}
        lines.append(json.dumps(record | {"user_data": LEVELS["L5"].to_dict()}))
    (split / "metadata.jsonl").write_text("\n".join(lines))


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
