"""Drawing pictures of the mini world with a mini base model, for any number of viewers at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..adapter.model import PSAAdapter
from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from ..generate import BaseModel, Painter, Settings
from .base_model import PARTS, tokenize

GUIDANCE, STEPS = 3.0, 12
_SAMPLER = "DPMSolverMultistepScheduler"
AT_ONCE = 32
"""Pictures in one batch."""


class MiniModel:
    """The base model in diffusers, on the CPU in float32, with the sampler that its figures are measured with.

    Raises:
        PSAError: where a part of the model is missing.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        for part in PARTS:
            if not (self.folder / part).is_dir():
                raise PSAError(f"The mini model in {folder} has no '{part}'. Make it with: psa mini train-base.")
        self._painter = Painter(BaseModel.read(self.folder), scheduler=_SAMPLER)

    @property
    def vae(self) -> Any:
        return self._painter.pipe.vae

    @property
    def unet(self) -> Any:
        return self._painter.pipe.unet

    @property
    def tokenizer(self) -> Any:
        return self._painter.pipe.tokenizer

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """The prompts as the UNet reads them: (B, 77, 64)."""
        return self._painter.pipe.text_encoder(tokenize(self.tokenizer, list(prompts))).last_hidden_state

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        adapter: PSAAdapter | None = None,
        users: UserEmbedding | None = None,
        strength: float = 1.0,
        guidance: float = GUIDANCE,
        steps: int = STEPS,
        negatives: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Draw a picture for each prompt: (B, 3, 128, 128) in [0, 1].

        Args:
            seeds: one a prompt; the same seed is the same noise, whatever it is drawn with.
            adapter, users: whose eyes to draw for, a row a prompt; without them the base model draws.
            negatives: a negative prompt a prompt; without them guidance leads away from the empty one.

        Raises:
            PSAError: where there are not as many seeds, users and negative prompts as prompts.
        """
        settings = Settings(steps=steps, guidance=guidance, strength=strength)
        count, uneven = len(prompts), negatives is not None and len(negatives) != len(prompts)
        if len(seeds) != count or uneven or (adapter is not None and (users is None or len(users) != count)):
            raise PSAError("Drawing needs one seed for each prompt; with an adapter one user, with negatives one each.")
        parts = []
        for start in range(0, len(prompts), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            viewers = None if users is None else UserEmbedding(users.vectors[rows], users.encoder_id)
            away = None if negatives is None else negatives[rows]
            parts.append(self._painter.pixels(prompts[rows], seeds[rows], settings, adapter, viewers, away))
        return torch.cat(parts)
