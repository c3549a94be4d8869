"""Drawing pictures of the mini world with a mini base model, for any number of viewers at once."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ..adapter.model import PSAAdapter
from ..diffusers_unet import psa_applied
from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from .base_model import LATENT_SCALE, PARTS, load_tokenizer, tokenize

GUIDANCE, STEPS = 3.0, 12
_AT_ONCE = 32


class MiniModel:
    """The base model in diffusers, on the CPU in float32.

    Raises:
        PSAError: where a part of the model is missing.
    """

    def __init__(self, folder: Path | str) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        self.folder = Path(folder)
        for part in PARTS:
            if not (self.folder / part).is_dir():
                raise PSAError(f"The mini model in {folder} has no '{part}'. Make it with: psa mini train-base.")
        self.unet: Any = UNet2DConditionModel.from_pretrained(self.folder / "unet").float().eval()
        self.vae: Any = AutoencoderKL.from_pretrained(self.folder / "vae").float().eval()
        self.text_encoder: Any = CLIPTextModel.from_pretrained(self.folder / "text_encoder").float().eval()
        self.tokenizer = load_tokenizer(self.folder)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        adapter: PSAAdapter | None = None,
        users: UserEmbedding | None = None,
        strength: float = 1.0,
        guidance: float = GUIDANCE,
        steps: int = STEPS,
    ) -> torch.Tensor:
        """Draw a picture for each prompt: (B, 3, 128, 128) in [0, 1].

        Args:
            seeds: one a prompt; the same seed is the same noise, whatever it is drawn with.
            adapter, users: whose eyes to draw for, a row a prompt; without them the base model draws.

        Raises:
            PSAError: where there are not as many seeds and users as prompts.
        """
        if len(seeds) != len(prompts) or (adapter is not None and (users is None or len(users) != len(prompts))):
            raise PSAError("Drawing needs one seed, and with an adapter one user, for each prompt.")
        pictures = []
        for start in range(0, len(prompts), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            applied: Any = nullcontext()
            if adapter is not None and users is not None:
                tokens = adapter.guidance_tokens(UserEmbedding(users.vectors[rows], users.encoder_id))
                applied = psa_applied(self.unet, adapter, tokens, strength)
            with applied:
                latents = self._sample(list(prompts[rows]), seeds[rows], guidance, steps)
            pictures.append(self.vae.decode(latents / LATENT_SCALE).sample)
        return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1)

    def _sample(self, prompts: list[str], seeds: Sequence[int], guidance: float, steps: int) -> torch.Tensor:
        from diffusers import DPMSolverMultistepScheduler

        scheduler: Any = DPMSolverMultistepScheduler.from_pretrained(self.folder / "scheduler")
        scheduler.set_timesteps(steps)
        text = self.text_encoder(tokenize(self.tokenizer, ["", *prompts])).last_hidden_state
        text = torch.cat([text[:1].expand(len(prompts), -1, -1), text[1:]])
        shape = (4, self.unet.config.sample_size, self.unet.config.sample_size)
        noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latents = torch.stack(noises) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            without, with_text = self.unet(latents.repeat(2, 1, 1, 1), timestep, text).sample.chunk(2)
            latents = scheduler.step(without + guidance * (with_text - without), timestep, latents).prev_sample
        return latents
