"""What a run shows while it goes: a picture by the base model beside one for a user of the training set."""

import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy.samplers import calculate_sigmas
from latent_preview import Latent2RGBPreviewer
from PIL import Image

from ...psa_core.adapter.model import PSAAdapter
from ...psa_core.training import PairDataset, User
from .denoiser import ComfyDenoiser

LABELS = ("base model", "for a training user")
_STEPS, _GUIDANCE, _SEED = 12, 6.0, 0


class Preview:
    """Draws the first training pair's caption through the denoiser that trains, so that nothing is loaded or moved.

    The pictures are ComfyUI's own latent previews: an eighth of full size, and no VAE.
    """

    def __init__(self, denoiser: ComfyDenoiser, pairs: PairDataset, latent_format) -> None:
        self._denoiser = denoiser
        item = pairs[0, _SEED, 0]
        self._noise = torch.randn(item["latents"].shape[1:], generator=torch.Generator().manual_seed(_SEED))[None]
        self._embedding = pairs.users[pairs.user_ids[0]][None]
        texts = [pairs.cache.get(key) for key in (pairs.empty_text, pairs.text_keys[0].decode())]
        conditioning = {name: torch.stack([text[name] for text in texts]) for name in texts[0]}
        conditioning["sizes"] = item["sizes"][:1].repeat(2, 1)
        self._conditioning = {name: value.to(denoiser.device) for name, value in conditioning.items()}
        bias = getattr(latent_format, "latent_rgb_factors_bias", None)
        self._decoder = Latent2RGBPreviewer(latent_format.latent_rgb_factors, bias)

    @torch.no_grad()
    def draw(self, adapter: PSAAdapter) -> list[Image.Image]:
        """The pictures of `LABELS`."""
        tokens = adapter.guidance_tokens(self._embedding)
        try:
            latents = [self._sample(user) for user in (None, User(adapter, tokens))]
        finally:
            self._denoiser.release()
        return [self._decoder.decode_latent_to_preview(latent) for latent in latents]

    def _sample(self, user: User | None) -> torch.Tensor:
        sampling = self._denoiser.model_sampling

        def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            rows, timesteps = sampling.calculate_input(sigma, x).repeat(2, 1, 1, 1), sampling.timestep(sigma).repeat(2)
            unconditional, conditional = self._denoiser(rows, timesteps, self._conditioning, user).chunk(2)
            guided = unconditional + _GUIDANCE * (conditional - unconditional)
            return sampling.calculate_denoised(sigma, guided, x)

        sigmas = calculate_sigmas(sampling, "normal", _STEPS).to(self._denoiser.device)
        noise = self._noise.to(self._denoiser.device, copy=True)
        start = sampling.noise_scaling(sigmas[:1], noise, torch.zeros_like(noise), max_denoise=True)
        return sample_euler(denoised, start, sigmas, disable=True)
