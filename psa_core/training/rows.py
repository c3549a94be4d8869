"""From a batch of pairs to what the model is asked: its rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .config import TrainConfig
from .denoiser import Denoiser
from .losses import row_errors
from .objective import NoiseSchedule, Objective, draw_timesteps


@dataclass(frozen=True)
class Rows:
    """Rows of the model: the B chosen of a batch, the B rejected (`pairs` = 2B), then the anchor's B where it is on."""

    pairs: int
    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Mapping[str, torch.Tensor]
    embeddings: torch.Tensor

    def __len__(self) -> int:
        return len(self.noisy)

    @torch.no_grad()
    def reference(self, denoiser: Denoiser, start: int = 0) -> torch.Tensor:
        """The base model's prediction for the rows from `start` on; it is not run where there are none."""
        if start == len(self):
            return self.noisy[start:]
        conditioning = {name: value[start:] for name, value in self.conditioning.items()}
        return denoiser(self.noisy[start:], self.timesteps[start:], conditioning, None)


class RowMaker:
    """Makes the rows of a batch: draws timesteps, and adds the noise that a pair shares."""

    def __init__(self, schedule: NoiseSchedule, config: TrainConfig, device: torch.device) -> None:
        assert not isinstance(config.timestep_range, str), "a measured range is settled before rows are made"
        self._schedule, self._device = schedule, device
        self._timesteps = schedule.timestep_table(
            config.timestep_sampling, *config.timestep_range, config.min_snr_gamma
        )
        # The preference is learned where content is decided; what must stay, must stay at every timestep.
        self._anchor_timesteps = schedule.timestep_table("uniform", 0, len(schedule.alphas_cumprod), 0.0)

    def rows(self, batch: Mapping[str, Any], anchored: bool = True) -> Rows:
        """The rows of a collated batch, on the device; with `anchored` the anchor's, too, where the batch has them."""
        batch = self._on_device(batch)
        latents = [batch["latents"][:, 0], batch["latents"][:, 1]]
        sizes = [batch["sizes"][:, 0], batch["sizes"][:, 1]]
        when = batch["when"].cpu()
        drawn = [draw_timesteps(self._timesteps, when)] * 2
        conditioning, embeddings = [batch["conditioning"]] * 2, [batch["embedding"]] * 2
        if anchored and "anchor_latents" in batch:
            latents.append(batch["anchor_latents"])
            sizes.append(batch["anchor_sizes"])
            drawn.append(draw_timesteps(self._anchor_timesteps, when))
            conditioning.append(batch["anchor_conditioning"])
            embeddings.append(batch["anchor_embedding"])
        clean = torch.cat(latents)
        noise = batch["noise"].repeat(len(latents), *[1] * (clean.ndim - 1))
        timesteps = torch.cat(drawn).to(clean.device)
        return Rows(
            pairs=2 * len(batch["noise"]),
            noisy=self._schedule.noisy(clean, noise, timesteps),
            target=self._schedule.target(clean, noise, timesteps),
            timesteps=timesteps,
            conditioning={
                **{name: torch.cat([part[name] for part in conditioning]) for name in conditioning[0]},
                "sizes": torch.cat(sizes),
            },
            embeddings=torch.cat(embeddings),
        )

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._on_device(part) for name, part in value.items()}
        return value.to(self._device)


def batch_loss(
    batch: Mapping[str, Any],
    policy: Callable[..., torch.Tensor],
    rows: RowMaker,
    denoiser: Denoiser,
    objective: Objective,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The objective of a batch: the reference pass without gradients, then the policy's, over the same rows.

    Rows whose `reference_errors` the batch brings need no reference pass.
    """
    asked, known = rows.rows(batch), batch.get("reference_errors")
    pairs, start = asked.pairs, 0 if known is None else asked.pairs
    reference = asked.reference(denoiser, start)
    prediction = policy(asked.noisy, asked.timesteps, asked.conditioning, asked.embeddings)
    errors = row_errors(prediction[:pairs], asked.target[:pairs])
    if known is not None:
        reference_errors = torch.cat([known[:, 0], known[:, 1]]).to(errors.device)
    else:
        reference_errors = row_errors(reference[:pairs], asked.target[:pairs])
    anchor = None
    if len(asked) > pairs:
        anchor = row_errors(prediction[pairs:], reference[pairs - start :]).mean()
    return objective(errors, reference_errors, anchor)
