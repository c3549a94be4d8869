"""Drawing pictures of the mini world with a mini base model, for any number of viewers at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..adapter.model import PSAAdapter
from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from ..generate import BaseModel, Painter, Settings
from .base_model import PARTS

GUIDANCE, STEPS = 3.0, 12
_SAMPLER = "DPMSolverMultistepScheduler"
_AT_ONCE = 32


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
        settings = Settings(steps=steps, guidance=guidance, strength=strength)
        if len(seeds) != len(prompts) or (adapter is not None and (users is None or len(users) != len(prompts))):
            raise PSAError("Drawing needs one seed, and with an adapter one user, for each prompt.")
        parts = []
        for start in range(0, len(prompts), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            viewers = None if users is None else UserEmbedding(users.vectors[rows], users.encoder_id)
            parts.append(self._painter.pixels(prompts[rows], seeds[rows], settings, adapter, viewers))
        return torch.cat(parts)
