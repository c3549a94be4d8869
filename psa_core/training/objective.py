"""The objective: LPPD, and the terms that keep it honest.

LPPD sees only the difference of two errors, so both can grow while it falls, until pictures turn to
noise. Two terms look at the errors themselves:

- winner term: `winner_weight * mean(|n - eps(x_w)|^2 - |n - eps_ref(x_w)|^2)`. Its gradient is that of
  the plain denoising loss on the chosen picture (as `rpo_alpha` adds the chosen text's likelihood in
  TRL's DPO); the reference's share only makes the number readable: 0 at the start.
- anchor term: `anchor_weight * mean |eps(x_a, c_a, u_a) - eps_ref(x_a, c_a)|^2` over anchor rows: the
  pair's prompt for the empty profile (the unconditional row becomes neutral) and harmless pictures. Its
  timesteps are the whole schedule's: an adapter acts in every step of a sampler, also in those outside
  `timestep_range`, where the preference teaches it nothing and it would drift.
"""

from dataclasses import dataclass

import torch

from ..errors import PSAError
from .losses import preference_loss

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; 0 turns one off. The defaults are plain LPPD as published."""

    beta: float = 5000.0
    winner_weight: float = 0.0
    anchor_weight: float = 0.0

    def __call__(
        self, errors: torch.Tensor, reference_errors: torch.Tensor, anchor_error: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of B pairs, and what it was made of.

        Args:
            errors: (2B,) the policy's mean squared errors, the chosen rows first, with gradients.
            reference_errors: (2B,) the reference's.
            anchor_error: mean squared distance of the anchor rows to the reference's prediction.

        Returns:
            The scalar loss, and detached scalars by metric name.
        """
        winner, loser = errors.chunk(2)
        reference_winner, reference_loser = reference_errors.detach().chunk(2)
        preference, difference = preference_loss(errors, reference_errors, self.beta)
        gap = (winner - reference_winner).mean()
        loss = preference
        if self.winner_weight:
            loss = loss + self.winner_weight * gap
        if self.anchor_weight and anchor_error is not None:
            loss = loss + self.anchor_weight * anchor_error
        metrics = {
            "loss": loss,
            "preference_loss": preference,
            "accuracy": (difference < 0).float().mean(),
            "winner_error": winner.mean(),
            "loser_error": loser.mean(),
            "reference_winner_error": reference_winner.mean(),
            "reference_loser_error": reference_loser.mean(),
            "winner_gap": gap,
        }
        if anchor_error is not None:
            metrics["anchor_error"] = anchor_error
        return loss, {name: value.detach().float() for name, value in metrics.items()}


class NoiseSchedule:
    """The base model's noise schedule: noisy latents, targets and timestep draws.

    Args:
        alphas_cumprod: (T,) as in diffusers' schedulers.
        prediction_type: `epsilon` or `v_prediction`, what the model predicts.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, prediction_type: str = "epsilon") -> None:
        if prediction_type not in PREDICTION_TYPES:
            raise PSAError(
                f"The model predicts '{prediction_type}'; training knows {' and '.join(PREDICTION_TYPES)} models."
            )
        self.alphas_cumprod = alphas_cumprod.detach().double().cpu()
        if not ((self.alphas_cumprod >= 0) & (self.alphas_cumprod <= 1)).all():
            raise PSAError("The model's noise schedule is damaged: its shares of signal (alphas_cumprod) leave [0, 1].")
        self.prediction_type = prediction_type

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        signal, spread = self._scales(timesteps, latents)
        return signal * latents + spread * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if self.prediction_type == "epsilon":
            return noise
        signal, spread = self._scales(timesteps, latents)
        return signal * noise - spread * latents

    def timestep_table(self, sampling: str, first: int, last: int, gamma: float) -> torch.Tensor:
        """Cumulative probabilities (T,) of timesteps in [first, last).

        `min-snr` draws in proportion to the weight of arXiv 2303.09556: min(SNR, gamma) / SNR for noise
        prediction, min(SNR, gamma) / (SNR + 1) for velocity; `uniform` draws evenly. Where a schedule ends in
        noise alone (SNR 0), the first is its limit, 1.

        Raises:
            PSAError: for a range outside the schedule, or one without a timestep that has a weight.
        """
        count = len(self.alphas_cumprod)
        if not 0 <= first < last <= count:
            raise PSAError(f"timestep_range must lie in [0, {count}], the model's timesteps.")
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        weights = torch.ones_like(snr)
        if sampling == "min-snr":
            noise_weights = (gamma / snr).clamp(max=1)
            weights = noise_weights if self.prediction_type == "epsilon" else noise_weights * self.alphas_cumprod
        weights[:first] = 0
        weights[last:] = 0
        if not weights.any():
            raise PSAError("timestep_range holds only timesteps without noise, which min-snr never draws. Widen it.")
        return (weights / weights.sum()).cumsum(0)

    def _scales(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alphas = self.alphas_cumprod[timesteps.cpu()].view(-1, *[1] * (like.ndim - 1))
        return alphas.sqrt().to(like), (1 - alphas).sqrt().to(like)


def draw_timesteps(table: torch.Tensor, when: torch.Tensor) -> torch.Tensor:
    """Timesteps (B,) for draws `when` (B,) in [0, 1) from a cumulative table."""
    drawn = torch.searchsorted(table, when.double() * table[-1], right=True)
    return drawn.minimum(torch.searchsorted(table, table[-1]))  # rounding must not leave the range
