"""What a training run will take, said before its first step."""

import time
from datetime import timedelta

import torch

from ...psa_core.training import PairDataset, TrainConfig
from .denoiser import ComfyDenoiser

_QUICK = 2.0  # seconds; a pass that takes no longer is timed again, once everything is in place
_PASSES = 5  # that a row takes: the reference's, the adapter's, that again, and a backward pass, which is worth two
_BYTES = 16  # for each of the adapter's numbers: itself, its gradient, and the optimizer's two


def estimate(denoiser: ComfyDenoiser, pairs: PairDataset, config: TrainConfig, steps: int) -> str:
    """In words: `steps` more steps, of how many pairs, about how long, and about how much memory."""
    seconds = _pass_seconds(denoiser, pairs)
    rows = config.effective_batch_size * (3 if pairs.anchored else 2)
    left = timedelta(seconds=round(steps * rows * _PASSES * seconds))
    needs = (denoiser.weight_bytes + _BYTES * _adapter_size(denoiser, pairs.users.shape[1], config.num_tokens)) / 2**30
    return (
        f"{steps} steps of {config.effective_batch_size} pairs each, out of {len(pairs)}; about {left} if nothing else "
        f"runs; about {needs:.1f} GB of memory for model, adapter and optimizer, and more for the pictures"
    )


def _adapter_size(denoiser: ComfyDenoiser, embedding_dim: int, num_tokens: int) -> int:
    context = denoiser.cross_attention_dim
    per_width = context * (2 if num_tokens > 1 else 1)  # with one token attention to it is 1, and it needs no key
    return embedding_dim * num_tokens * context + per_width * sum(denoiser.layer_widths)


@torch.no_grad()
def _pass_seconds(denoiser: ComfyDenoiser, pairs: PairDataset) -> float:
    """Of one row through the model."""
    item = pairs[0, 0, 0]
    conditioning = {name: value[None].to(denoiser.device) for name, value in item["conditioning"].items()}
    conditioning["sizes"] = item["sizes"][:1].to(denoiser.device)
    rows, timesteps = item["latents"][:1].to(denoiser.device), torch.tensor([500], device=denoiser.device)
    try:
        for _ in range(2):
            began = time.monotonic()
            denoiser(rows, timesteps, conditioning, None).sum().item()  # a device is waited for
            seconds = time.monotonic() - began
            if seconds > _QUICK:
                break
    finally:
        denoiser.release()
    return seconds
