"""ESD-u (arXiv 2303.07345): concepts erased from all of the UNet but its cross-attentions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...seeds import draw_seed
from ..base_model import new_scheduler
from ..generate import GUIDANCE, MiniModel
from .erasing import Erased, check_erased
from .weights import weights_changed


@dataclass(frozen=True)
class ESDSettings:
    """The paper's settings, sized for the mini world.

    Attributes:
        rate: Adam's; the paper's 1e-5 is for a model 2,000 times larger.
        batch: pictures a step; the paper has 1.
        sampler_steps: of the sampler that makes the noisy pictures; the paper has 50.
        negative_guidance: eta of eq. 7.
    """

    steps: int = 300
    rate: float = 1e-4
    batch: int = 4
    sampler_steps: int = 12
    negative_guidance: float = 1.0
    seed: int = 0


def train(
    model: MiniModel,
    erased: Sequence[Erased],
    settings: ESDSettings | None = None,
    progress: Callable[[int, int, float], None] = lambda *_: None,
) -> dict[str, torch.Tensor]:
    """The changed weights: a function of the model, the prompts and the settings.

    Each step draws prompts c, has the model as it is now make pictures x_t of them up to a random time t, and moves
    its prediction (eq. 7 of the paper; a neutral prompt other than the empty one is the code's `erase_from`):

        eps'(x_t, c)  ->  eps(x_t, neutral) - eta * (eps(x_t, c) - eps(x_t, neutral))

    Args:
        progress: called with (steps made, of how many, the loss).

    Raises:
        PSAError: where there is nothing to erase.
    """
    erased, settings = check_erased(erased), settings or ESDSettings()
    unet, scheduler = model.unet, new_scheduler()
    own = {name: parameter for name, parameter in unet.named_parameters() if ".attn2." not in name}
    first = {name: parameter.detach().clone() for name, parameter in own.items()}
    texts = model.text([each.prompt for each in erased])
    neutral, empty = model.text([each.neutral for each in erased]), model.text([""])
    with weights_changed(unet, first), torch.enable_grad():  # puts its own weights back
        optimizer = torch.optim.Adam(own.values(), lr=settings.rate)
        unet.requires_grad_(False)
        for parameter in own.values():
            parameter.requires_grad_(True)
        for step in range(settings.steps):
            rng = np.random.default_rng(draw_seed(settings.seed, "esd", step))
            rows = torch.from_numpy(rng.integers(len(erased), size=settings.batch))
            noisy, timestep = _on_the_way(unet, scheduler, texts[rows], empty, rng, settings)
            with torch.no_grad(), weights_changed(unet, first):
                asked, plain = unet(
                    torch.cat([noisy, noisy]), timestep, torch.cat([texts[rows], neutral[rows]])
                ).sample.chunk(2)
            target = plain - settings.negative_guidance * (asked - plain)
            loss = torch.nn.functional.mse_loss(unet(noisy, timestep, texts[rows]).sample, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(step + 1, settings.steps, float(loss.detach()))
        found = {name: parameter.detach().clone() for name, parameter in own.items()}
    unet.requires_grad_(False)
    return found


@torch.no_grad()
def _on_the_way(
    unet: Any, scheduler: Any, texts: torch.Tensor, empty: torch.Tensor, rng: np.random.Generator, settings: ESDSettings
) -> tuple[torch.Tensor, int]:
    """Pictures of the prompts as the model draws them now, up to a step drawn at random, and a time within it."""
    count, side = len(texts), unet.config.sample_size
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    latents = torch.randn(count, unet.config.in_channels, side, side, generator=generator)
    text = torch.cat([empty.expand(count, -1, -1), texts])
    scheduler.set_timesteps(settings.sampler_steps)
    stop = int(rng.integers(settings.sampler_steps))
    for timestep in scheduler.timesteps[:stop]:
        plain, asked = unet(torch.cat([latents, latents]), timestep, text).sample.chunk(2)
        latents = scheduler.step(plain + GUIDANCE * (asked - plain), timestep, latents).prev_sample
    last = int(scheduler.timesteps[stop])
    return latents, int(rng.integers(max(1, last - 1000 // settings.sampler_steps), last + 1))
