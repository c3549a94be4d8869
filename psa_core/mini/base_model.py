"""The mini world's latent diffusion model: its parts, and their training from a fixed seed.

A folder in diffusers' Stable Diffusion layout: any diffusers tool loads it, and so does the trainer.
Noise schedule and prediction type are SD1.5's, so that samplers made for it draw right.
"""

import itertools
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn

from ..errors import PSAError
from ..files import atomic_path
from ..json_text import parse_json
from ..model_folder import KIND_KEY, fingerprint, load_part
from ..seeds import draw_seed
from ..tensor_files import read_file, save_file
from ..training.average import WeightAverage
from ..training.optimizers import apply_gradients
from ..training.state import load_state, save_state
from .claim import claimed
from .phrases import BRINGS, CHANCE, MOODS, PHRASES
from .vae_weights import LATENT_SCALE, standardise_latents, start_as_blur
from .world import BACKGROUNDS, COLOURS, SHAPES, SIZE, SYMBOLS, render, sample_scene

TEXT_WIDTH = 64
MAX_TOKENS = 77  # SD1.5's, though the longest prompt of the world has 23
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SEED = 0

VAE_STEPS, VAE_BATCH, VAE_RATE = 1500, 16, 1.2e-3
VAE_SCENES, SCENES = 2048, 12288
VAE_CROP = 64  # pixels: a quarter of a picture, and a quarter of the work
UNET_STEPS, UNET_BATCH, UNET_RATE = 4000, 48, 1.5e-3
FURTHER_STEPS, FURTHER_RATE = 1800, 8e-4  # from another edition's model
SYMBOL_SHARE, MOOD_SHARE = 0.65, 0.12  # of the scenes: those that ask for a symbol, and those with a mood
NAMED_SHARE = 0.4  # of the times that a symbol is asked for; else a phrase implies it
CAPTION_DROPOUT = 0.1
_KL_WEIGHT, _MIN_SNR = 0.0001, 5.0
_SAVE_EVERY = 100
_STATE, _LATENTS = "psa mini base model, 1", "psa mini latents, 1"  # the kinds of the files of a training
_LAST = "model_index.json"  # of what is written
_START, _END = "<|startoftext|>", "<|endoftext|>"
_BLOCKS = {"vae": (32, 32, 64, 64), "unet": (64, 64, 64)}
# Eight channels a group: a norm over one channel alone forgets its level, and with it the colours.
_GROUPS = {"vae": 4, "unet": 8}

Say = Callable[[str], None]
_log = logging.getLogger(__name__)


def words() -> list[str]:
    """Every word of the world's prompts."""
    phrases = [word for phrases in PHRASES.values() for phrase in phrases for word in phrase.split()]
    known = ["a", "an", "with", "and", *BACKGROUNDS, *COLOURS, *SHAPES, *SYMBOLS.values(), *BRINGS, *phrases]
    return list(dict.fromkeys(known))


def new_vae() -> Any:
    from diffusers import AutoencoderKL

    channels = _BLOCKS["vae"]
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=_GROUPS["vae"],
        sample_size=SIZE,
        scaling_factor=LATENT_SCALE,
    )


def new_unet() -> Any:
    from diffusers import UNet2DConditionModel

    channels = _BLOCKS["unet"]
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=channels,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        transformer_layers_per_block=(1, 2, 2),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=_GROUPS["unet"],
    )


def new_text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens = len(_vocabulary()[0])
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        )
    )


def write_tokenizer(folder: Path) -> None:
    """CLIP's byte-pair tokenizer over the world's words: one token each; other words fall into letters."""
    vocabulary, merges = _vocabulary()
    files = {
        "vocab.json": json.dumps({token: number for number, token in enumerate(vocabulary)}, indent=0),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "tokenizer_config.json": json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": MAX_TOKENS,
                "bos_token": _START,
                "eos_token": _END,
                "unk_token": _END,
                "pad_token": _END,
            },
            indent=1,
        ),
    }
    for name, text in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def load_tokenizer(folder: Path | str) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")


def new_scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


def train_base(
    folder: Path | str,
    seed: int = SEED,
    unet_steps: int | None = None,
    report: Say = _log.info,
    start: Path | str | None = None,
) -> None:
    """Train VAE, text encoder and UNet, and write the model to `folder`; a stopped run goes on where it was.

    Until it is done its state lies in `folder`/training. The folder must hold nothing, or a part of this very model.

    Args:
        unet_steps: of UNet and text encoder (default: `UNET_STEPS`, and `FURTHER_STEPS` from a start).
        start: a base model to go on from, such as the first edition's: its VAE is kept, and of its text encoder the
            words that both have.

    Raises:
        PSAError: for a folder that holds something, that another process trains in or that cannot be written, or a
            start that is no mini base model.
    """
    folder = Path(folder)
    work = folder / "training"
    steps = unet_steps or (UNET_STEPS if start is None else FURTHER_STEPS)
    what = {"base": 1, "seed": seed, "steps": steps, "start": start and fingerprint(Path(start), list(PARTS))}
    with claimed(folder, json.dumps(what), "training a base model in"):
        if not (folder / _LAST).is_file():
            _train_in(folder, work, seed, steps, report, start)
        shutil.rmtree(work, ignore_errors=True)


def _train_in(folder: Path, work: Path, seed: int, steps: int, report: Say, start: Path | str | None) -> None:
    work.mkdir(exist_ok=True)
    vae = _train_vae(work, seed, report) if start is None else load_part(Path(start), "vae", torch.float32).eval()
    write_tokenizer(folder / "tokenizer")
    learning = nn.ModuleList(_new_models(seed) if start is None else _models_of(Path(start), folder, seed))
    rate = UNET_RATE if start is None else FURTHER_RATE
    unet, text_encoder = _train_unet(work, vae, learning, load_tokenizer(folder), seed, steps, rate, report)
    try:
        _write_model(folder, {"vae": vae, "unet": unet, "text_encoder": text_encoder})
    except (OSError, SafetensorError) as error:
        raise PSAError(
            f"The model cannot be written to {folder}: {getattr(error, 'strerror', None) or error}. Make room and "
            "start again: its training is kept."
        ) from error


def _write_model(folder: Path, models: Mapping[str, Any]) -> None:
    for name, model in models.items():
        model.half().save_pretrained(folder / name)
        _forget_place(folder / name / "config.json")
    _prefix_keys(folder / "text_encoder" / "model.safetensors", "text_model.")
    new_scheduler().save_pretrained(folder / "scheduler")
    write_model_index(folder)


def _train_vae(work: Path, seed: int, report: Say) -> Any:
    """L1 and a little Kullback-Leibler divergence, on crops; then latents get zero mean and unit spread."""
    torch.manual_seed(draw_seed(seed, "vae"))
    vae = new_vae()
    pictures: torch.Tensor = scenes(seed, VAE_SCENES)[0]
    start_as_blur(vae, pictures[:64].float() / 127.5 - 1)

    def loss(step: int, rng: torch.Generator) -> torch.Tensor:
        side = VAE_CROP if step < 0.9 * VAE_STEPS else SIZE
        count = VAE_BATCH if side < SIZE else VAE_BATCH // 2
        rows = torch.randint(len(pictures), (count,), generator=rng)
        y, x = (8 * torch.randint((SIZE - side) // 8 + 1, (2,), generator=rng)).tolist()
        pixels = pictures[rows, :, y : y + side, x : x + side].float() / 127.5 - 1
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return F.l1_loss(decoded, pixels) + _KL_WEIGHT * posterior.kl().sum() / posterior.mean.numel()

    data_seed = draw_seed(seed, "vae data")
    _optimise(work / "vae.safetensors", nn.ModuleList([vae]), loss, VAE_STEPS, VAE_RATE, data_seed, report)
    standardise_latents(vae, pictures[: VAE_SCENES // 2])
    return vae.eval().requires_grad_(False)


def _new_models(seed: int) -> list[nn.Module]:
    torch.manual_seed(draw_seed(seed, "unet"))
    return [new_unet(), new_text_encoder()]


@torch.no_grad()
def _models_of(start: Path, folder: Path, seed: int) -> list[nn.Module]:
    """UNet and text encoder of another mini model; words that it lacks begin as in a new one."""
    _, text_encoder = _new_models(seed)
    unet, before = (load_part(start, part, torch.float32) for part in ("unet", "text_encoder"))
    own, other = (load_tokenizer(place).get_vocab() for place in (folder, start))
    state, theirs = text_encoder.state_dict(), before.state_dict()
    (name,) = (name for name in state if name.endswith("token_embedding.weight"))
    shared = [word for word in own if word in other]
    embedding = state[name].clone()
    embedding[[own[word] for word in shared]] = theirs[name][[other[word] for word in shared]]
    text_encoder.load_state_dict({**theirs, name: embedding})
    return [unet.train().requires_grad_(True), text_encoder]


def _train_unet(
    work: Path, vae: Any, models: nn.ModuleList, tokenizer: Any, seed: int, steps: int, rate: float, report: Say
) -> tuple[nn.Module, nn.Module]:
    """Noise prediction under min-SNR weights (arXiv 2303.09556), with the text encoder learning along."""
    unet, text_encoder = models
    pictures, captions = scenes(seed, SCENES)
    latents = _latents(work / "latents.safetensors", vae, pictures)
    tokens = tokenize(tokenizer, [*itertools.chain(*captions), ""])
    counts = torch.tensor([len(same) for same in captions])
    firsts = counts.cumsum(0) - counts
    alphas = new_scheduler().alphas_cumprod

    def loss(step: int, rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (UNET_BATCH,), generator=rng)
        implied = torch.rand(UNET_BATCH, generator=rng) >= NAMED_SHARE
        which = (1 + torch.rand(UNET_BATCH, generator=rng) * (counts[rows] - 1)).long() * (implied & (counts[rows] > 1))
        dropped = torch.rand(UNET_BATCH, generator=rng) < CAPTION_DROPOUT
        asked = torch.where(dropped, len(tokens) - 1, firsts[rows] + which)
        timesteps = torch.randint(len(alphas), (UNET_BATCH,), generator=rng)
        noise = torch.randn(latents[rows].shape, generator=rng)
        share = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latents[rows] + (1 - share).sqrt() * noise
        text = text_encoder(tokens[asked]).last_hidden_state
        errors = (unet(noisy, timesteps, text).sample - noise).square().mean((1, 2, 3))
        return (errors * (_MIN_SNR * (1 - share) / share).clamp(max=1).flatten()).mean()

    _optimise(work / "unet.safetensors", models, loss, steps, rate, draw_seed(seed, "unet data"), report, averaged=True)
    return unet.eval(), text_encoder.eval()


def tokenize(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """(B, 77) token numbers."""
    return tokenizer(
        prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def scenes(seed: int, count: int) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
    """`count` training scenes: pictures (count, 3, 128, 128) uint8, and the captions that fit each: by name first, then
    every phrase that implies its symbol."""
    pictures, captions = [], []
    for number in range(count):
        rng = np.random.default_rng(draw_seed(seed, "scene", number))
        kind, symbol = rng.random(), str(rng.choice(list(SYMBOLS.values())))
        if kind < SYMBOL_SHARE:
            scene = sample_scene(rng, symbol)
            captions.append((scene.prompt, *map(scene.implied, PHRASES[symbol])))
        else:
            mood = MOODS[symbol] if kind < SYMBOL_SHARE + MOOD_SHARE else None
            scene = sample_scene(rng, symbol if mood and rng.random() < CHANCE else None, mood=mood)
            captions.append((scene.prompt,))
        pictures.append(np.asarray(render(scene)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), captions


@torch.no_grad()
def _latents(path: Path, vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    if path.is_file():
        return load_state(path, _LATENTS)["latents"].contiguous(memory_format=torch.channels_last)
    latents = torch.cat([vae.encode(part.float() / 127.5 - 1).latent_dist.mode() for part in pictures.split(64)])
    latents = (latents * LATENT_SCALE).contiguous(memory_format=torch.channels_last)  # a file knows no layout
    save_state(path, _LATENTS, {"latents": latents})
    return latents


def _optimise(
    path: Path,
    models: nn.ModuleList,
    loss: Callable[[int, torch.Generator], torch.Tensor],
    steps: int,
    rate: float,
    seed: int,
    report: Say,
    averaged: bool = False,
) -> None:
    """AdamW, warm-up and cosine; `averaged` leaves an exponential average of the weights."""
    parameters = list(models.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)
    average, start = WeightAverage(parameters) if averaged else None, 0
    if path.is_file():
        state = load_state(path, _STATE)
        models.load_state_dict(state["models"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        if average:
            average.restore(state["average"])
    recent = 0.0
    for step in range(start, steps):
        value = loss(step, torch.Generator().manual_seed(draw_seed(seed, step)))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        factor = min((step + 1) / 50, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        apply_gradients(optimizer, parameters, rate * factor, 1.0)
        if average:
            average.update(min(0.998, step / (step + 1)))
        recent += float(value.detach())
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
            report(f"{path.stem}: step {step + 1} of {steps}, loss {recent / ((step % _SAVE_EVERY) + 1):.4f}")
            recent = 0.0
            state = {"models": models.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(path, _STATE, state | {"average": average.values if average else []})
    if average:
        average.put()


def _forget_place(config: Path) -> None:
    """A model that goes on from another's folder must not name that folder: it is its maker's business."""
    told = parse_json(config.read_text(encoding="utf-8"))
    told.pop("_name_or_path", None)
    with atomic_path(config) as temporary:
        temporary.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _prefix_keys(path: Path, prefix: str) -> None:
    """Give weights the keys that every version of transformers reads: version 5 leaves the prefix out."""
    tensors, _ = read_file(path)
    with atomic_path(path) as temporary:
        save_file(
            {prefix + key.removeprefix(prefix): value for key, value in tensors.items()}, temporary, {"format": "pt"}
        )


def write_model_index(folder: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        KIND_KEY: "mini",
        **{part: [None, None] for part in ("feature_extractor", "image_encoder", "safety_checker")},
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    with atomic_path(folder / _LAST) as temporary:
        temporary.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _vocabulary() -> tuple[list[str], list[str]]:
    """(tokens, merges): letters, then every piece on the way from letters to a whole word."""
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), ",", ",</w>", ".", ".</w>"]
    merges: list[tuple[str, str]] = []
    for word in words():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            # The encoder always takes the oldest merge that fits; a new one comes only where none does.
            pairs = list(itertools.pairwise(pieces))
            pair = next((merge for merge in merges if merge in pairs), pairs[0])
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            place = pairs.index(pair)
            pieces[place : place + 2] = ["".join(pair)]
    return [*tokens, _START, _END], [" ".join(pair) for pair in merges]
