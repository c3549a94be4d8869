"""Safe Latent Diffusion (arXiv 2211.05105): guidance away from a concept, where the picture moves towards it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..generate import AT_ONCE, STEPS, MiniModel
from ..method import Request
from .prompts import banned_symbols, listed


@dataclass(frozen=True)
class Safety:
    """The paper's hyper-parameters, by its letters; the warm-up as a share of the sampler's steps (there 50)."""

    warmup: float  # delta
    guidance: float  # s_S
    threshold: float  # lambda
    momentum_scale: float  # s_m
    momentum_decay: float  # beta_m


MEDIUM = Safety(10 / 50, 1000.0, 0.01, 0.3, 0.4)
STRONG = Safety(7 / 50, 2000.0, 0.025, 0.5, 0.7)
MAX = Safety(0.0, 5000.0, 1.0, 0.5, 0.7)
"""Published configurations."""


@contextmanager
def safely_guided(unet: Any, concepts: torch.Tensor, safety: Safety, steps: int) -> Iterator[None]:
    """Within the block a pipeline of diffusers with classifier-free guidance draws one batch under SLD.

    The pipeline asks for the predictions (u, t) without and with the prompt and goes on with u + g (t - u). Here the
    UNet sees the concepts as a third set of rows, and t becomes t - gamma, gamma being the paper's safety term: the
    pipeline's own formula is then the paper's eq. 3.

    Args:
        concepts: (B, L, C), a row a picture; that of the empty prompt leaves its picture alone.
        steps: of the sampler, each of which asks once.
    """
    momentum, step = torch.zeros(()), 0

    def widen(_module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        latents, text = args[0], kwargs["encoder_hidden_states"]
        rows = len(concepts)
        latents = torch.cat([latents, latents[:rows]])
        return (latents, *args[1:]), kwargs | {"encoder_hidden_states": torch.cat([text, concepts.to(text)])}

    def guide(_module, _args, output: tuple) -> tuple:
        nonlocal momentum, step
        plain, asked, unsafe = output[0].chunk(3)
        # Eq. 5 and 6, as the authors' code has them: the scale is at most 1, and 0 from the threshold on.
        scale = ((asked - unsafe).abs() * safety.guidance).clamp(max=1)
        scale = scale.masked_fill(asked - unsafe >= safety.threshold, 0.0)
        away = (unsafe - plain) * scale + safety.momentum_scale * momentum  # eq. 4 and 7
        momentum = safety.momentum_decay * momentum + (1 - safety.momentum_decay) * away  # eq. 8
        guided = asked if step < round(safety.warmup * steps) else asked - away
        step += 1
        return (torch.cat([plain, guided]),)

    hooks = [unet.register_forward_pre_hook(widen, with_kwargs=True), unet.register_forward_hook(guide)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class SafeLatentDiffusion:
    """The base model under SLD, the concept being what the viewer bans."""

    knows_viewer = True

    def __init__(self, model: MiniModel, safety: Safety = STRONG, name: str = "SLD") -> None:
        self.name, self._model, self._safety = name, model, safety

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return torch.cat([self._part(requests[n : n + AT_ONCE]) for n in range(0, len(requests), AT_ONCE)])

    def _part(self, requests: Sequence[Request]) -> torch.Tensor:
        concepts = self._model.text([listed(banned_symbols(request.profile)) for request in requests])
        with safely_guided(self._model.unet, concepts, self._safety, STEPS):
            return self._model.draw([r.prompt.caption for r in requests], [r.noise for r in requests])
