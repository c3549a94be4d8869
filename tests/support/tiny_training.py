"""A training task small enough for tests: a Sage folder of coloured squares, the golden UNet, toy encoders.

What is right to prefer depends on the profile: who bans Violence prefers the blue square, everyone else
the red one. So an adapter can only learn it through the embedding.

As a script it proves what a kill does (`kill FOLDER KILLS`), or is `psa train` (`train ...`): see `main`.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from psa_core import StructuredEncoder, UserProfile
from psa_core.commands import train as command
from psa_core.processes import make_accelerator
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
    sealed,
)
from psa_core.training.folder import RunFolder
from psa_core.training.objective import NoiseSchedule

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SIZE = 64
CAPTIONS = ("a quiet street", "a busy market", "a stormy sea")
QUICK = {
    "resolution": SIZE,
    "bucket_step": 16,
    "precision": "fp32",
    "batch_size": 2,
    "effective_batch_size": 4,
    "steps": 30,
    "warmup_steps": 5,
    "learning_rate": 1e-3,
    "save_every": 1,
}


def user(number: int) -> UserProfile:
    """User `number` of the tests: even ones ban Violence, odd ones do not; the other fields vary."""
    rng = random.Random(number)
    others = [category for category in ("Hate", "Shocking", "Sexuality") if rng.random() < 0.5]
    return UserProfile(
        age=rng.randrange(20, 70),
        gender=rng.choice(("male", "female")),
        religion=rng.choice(("None", "Islam", "Buddhism")),
        banned_categories=(*others, *(("Violence",) if number % 2 == 0 else ())),
        user_id=f"{number:07d}",
    )


def square(path: Path, colour: tuple[int, int, int], rng: np.random.Generator, size=(SIZE, SIZE)) -> None:
    pixels = np.array(colour) + rng.normal(0, 12, (size[1], size[0], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_split(folder: Path, name: str, users: range, pairs: int, permute: bool = False) -> Path:
    """A split in Sage's format. `permute` gives the records other users' profiles: the control."""
    split = folder / name
    split.mkdir(parents=True)
    rng = np.random.default_rng(len(name) + users.start)
    numbers = [users[i % len(users)] for i in range(pairs)]
    profiles = rng.permutation(numbers) if permute else numbers
    with open(split / "metadata.jsonl", "w") as file:
        for i, (number, seen_as) in enumerate(zip(numbers, profiles, strict=True)):
            stem = f"user_{number:07d}_Violence_square_{i}"
            square(split / f"{stem}_s.png", (40, 60, 200), rng)
            square(split / f"{stem}_u.png", (200, 60, 40), rng)
            best, worst = ("s", "u") if number % 2 == 0 else ("u", "s")
            record = {
                "file_name": f"{stem}_{best}.png",
                "chosen": f"{stem}_{best}.png",
                "rejected": f"{stem}_{worst}.png",
                "caption": CAPTIONS[i % len(CAPTIONS)],
                "user_data": user(int(seen_as)).to_dict(),
            }
            file.write(json.dumps(record) + "\n")
    return split


def encode_images(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> (B, 4, H/8, W/8): block means, mixed into four channels."""
    mix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.5]])
    return torch.einsum("oc,bchw->bohw", mix, torch.nn.functional.avg_pool2d(pixels, 8))


def encode_texts(captions: list[str], width: int = 64) -> dict[str, torch.Tensor]:
    rows = []
    for caption in captions:
        seed = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:7], "big")
        rows.append(torch.randn(4, width, generator=torch.Generator().manual_seed(seed)))
    return {"text": torch.stack(rows)}


def golden_unet(kind: str = "sd15"):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(json.loads((GOLDEN / kind / "unet_config.json").read_text()))
    unet.load_state_dict(load_file(GOLDEN / kind / "unet.safetensors"))
    return unet.eval()


def write_model(folder: Path, kind: str) -> Path:
    """A small base model in diffusers' folder layout around the golden UNet: `sd15` or `sdxl`."""
    from diffusers import AutoencoderKL, DDPMScheduler

    torch.manual_seed(0)
    golden_unet(kind).save_pretrained(folder / "unet")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, **blocks).save_pretrained(folder / "vae")
    DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").save_pretrained(folder / "scheduler")
    for suffix, width in {"sd15": {"": 64}, "sdxl": {"": 64, "_2": 32}}[kind].items():
        _write_text_encoder(folder, suffix, width)
    return folder


def _write_text_encoder(folder: Path, suffix: str, width: int) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    letters = [chr(ord("a") + i) for i in range(26)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ab", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = folder / f"tokenizer{suffix}"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\na b\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"})
    )
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=words.index("<|startoftext|>"),
        eos_token_id=words.index("<|endoftext|>"),
    )
    model = (CLIPTextModelWithProjection if suffix else CLIPTextModel)(config)
    model.save_pretrained(folder / f"text_encoder{suffix}")


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def denoiser(prediction_type: str = "epsilon") -> DiffusersDenoiser:
    return DiffusersDenoiser(golden_unet(), alphas_cumprod(), prediction_type, id="golden")


def trained_denoiser(data: Path, steps: int = 600) -> DiffusersDenoiser:
    """The golden UNet as a base model of the squares: trained on the split `train`, both pictures of a pair.

    With random weights any adapter lowers the error; only a trained base shows what an adapter spoils.
    """
    pairs = dataset(data, "train", TrainConfig.from_dict(QUICK))
    latents = torch.cat([pairs[i, 0, 0]["latents"] for i in range(len(pairs))])
    texts, schedule = encode_texts(list(CAPTIONS))["text"], NoiseSchedule(alphas_cumprod())
    unet, generator = golden_unet(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    for _ in range(steps):
        rows, text_rows = (torch.randint(len(of), (16,), generator=generator) for of in (latents, texts))
        noise = torch.randn(latents[rows].shape, generator=generator)
        timesteps = torch.randint(1000, (16,), generator=generator)
        prediction = unet(schedule.noisy(latents[rows], noise, timesteps), timesteps, texts[text_rows]).sample
        (prediction - noise).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return DiffusersDenoiser(unet, alphas_cumprod(), id="golden, trained")


def encoders(text_width: int = 64) -> tuple[ImageEncoder, TextEncoder]:
    return ImageEncoder("toy-vae", encode_images), TextEncoder(
        "toy-text", lambda texts: encode_texts(texts, text_width)
    )


def dataset(folder: Path, name: str, config: TrainConfig, **options) -> PairDataset:
    split, cache = read_split(folder, name), TensorCache(folder / "cache")
    images, texts = encoders()
    fill_cache(split, cache, config, images, texts)
    return PairDataset(split, cache, config, images, texts, encode_users(split, StructuredEncoder()), **options)


def trainer(
    folder: Path,
    run: Path,
    held_out: tuple[str, ...] = (),
    base: DiffusersDenoiser | None = None,
    key: bytes | None = None,
    **settings,
) -> Trainer:
    config = TrainConfig.from_dict({**QUICK, **settings})
    held = {name: dataset(folder, name, config, held_out=True) for name in held_out}
    return Trainer(config, base or denoiser(), dataset(folder, "train", config), run, held, key=key)


def main() -> None:
    """`train --config run.toml`: the command, for `accelerate launch`.

    `kill FOLDER KILLS`: train into FOLDER/whole without an interrupt, then into FOLDER/killed with that
    many kills -9, a third of them while a state is half written, resuming after each. Each attempt is a
    forked process, so that libraries are imported once.
    """
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        sys.exit(command.run(parser.parse_args(sys.argv[2:])))
    folder = Path(sys.argv[2])
    settings = json.loads(os.environ.get("TINY_SETTINGS", "{}"))
    held_out = tuple(settings.pop("held_out", ()))
    denoiser()  # imports what the children need
    make_accelerator()
    _attempt(folder, "whole", held_out, settings, None)
    rng = random.Random(5)
    for number in range(int(sys.argv[3])):
        _attempt(folder, "killed", held_out, settings, (rng, number % 3 == 0))
        print(f"killed at step {_saved_step(folder / 'killed')}", flush=True)
    _attempt(folder, "killed", held_out, settings, None)


def _attempt(folder: Path, run: str, held_out: tuple[str, ...], settings: dict, kill) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if kill and kill[1]:
            _save_slowly(write, after=2)
        job = trainer(folder / "data", folder / run, held_out, **settings)
        job.train(lambda _: None if kill and kill[1] else os.write(write, b"s") and None)
        os._exit(0)
    os.close(write)
    if kill is None:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"the run '{run}' failed: {status}")
        return
    rng, while_saving = kill
    for _ in range(1 if while_saving else rng.randrange(1, 4)):
        os.read(read, 1)
    if not while_saving:
        time.sleep(rng.random() * 0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)


def _save_slowly(pipe: int, after: int) -> None:
    """The `after`-th state of this process is written by half, tells the parent, and waits to be killed."""
    whole_save, count = sealed.save_file, 0

    def half_save(tensors, path, **options) -> None:
        nonlocal count
        count += 1
        whole_save(tensors, path, **options)
        if count == after:
            os.truncate(path, Path(path).stat().st_size // 2)
            os.write(pipe, b"s")
            time.sleep(60)

    sealed.save_file = half_save


def _saved_step(run: Path) -> int:
    state = RunFolder(run).load()
    return state["step"] if state else 0


if __name__ == "__main__":
    main()
