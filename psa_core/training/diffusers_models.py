"""Base models in diffusers' folder layout, SD1.5 and SDXL: the denoiser and the two encoders."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import PSAError
from ..model_folder import fingerprint, load_part, placed, scheduler_config
from .config import TrainConfig
from .denoiser import DiffusersDenoiser
from .inputs import ImageEncoder, TextEncoder

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class DiffusersFolder:
    """A local model folder with `unet`, `vae`, `scheduler`, `text_encoder`, `tokenizer`; SDXL's has a second pair.

    Models are loaded when they are first used. `release` frees the VAE and the text encoders, which
    training does not need once the cache is filled.

    Raises:
        PSAError: naming the part that is missing.
    """

    def __init__(self, folder: Path | str, device: torch.device, config: TrainConfig) -> None:
        self.folder, self.device, self.config = Path(folder), device, config
        self.is_sdxl = (self.folder / "text_encoder_2").is_dir()
        text = ["text_encoder", "tokenizer"] + (["text_encoder_2", "tokenizer_2"] if self.is_sdxl else [])
        for part in ("unet", "vae", "scheduler", *text):
            if not (self.folder / part).is_dir():
                raise PSAError(
                    f"The model folder {self.folder} has no '{part}'. Give a base model in diffusers layout, "
                    "such as a local copy of stable-diffusion-v1-5."
                )
        self._text_parts = text
        self._loaded: dict[str, Any] = {}

    def denoiser(self) -> DiffusersDenoiser:
        from diffusers import DDPMScheduler

        dtype = _DTYPES[self.config.precision]
        unet = self._load("unet", dtype)
        if self.config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        scheduler = DDPMScheduler.from_config(scheduler_config(self.folder))
        return DiffusersDenoiser(
            unet,
            scheduler.alphas_cumprod,
            scheduler.config["prediction_type"],
            dtype if dtype != torch.float32 else None,
            fingerprint(self.folder, ["unet", "scheduler"]),
        )

    def image_encoder(self) -> ImageEncoder:
        return ImageEncoder(f"vae-{fingerprint(self.folder, ['vae'])}", self._encode_images, self._sample_images)

    def text_encoder(self) -> TextEncoder:
        weights = fingerprint(self.folder, self._text_parts)
        return TextEncoder(f"text-{weights}", self._encode_texts, self.config.precision)

    def release(self) -> None:
        self._loaded.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        posterior, scale = self._posterior(pixels)
        return posterior.mode() * scale

    @torch.no_grad()
    def _sample_images(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        posterior, scale = self._posterior(pixels)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        return (posterior.mean + posterior.std * noise) * scale

    def _posterior(self, pixels: torch.Tensor) -> tuple[Any, float]:
        """The VAE's posterior over latents, and the factor that scales them."""
        vae = self._once("vae", lambda: self._load("vae", torch.float32))
        return vae.encode(pixels.to(self.device)).latent_dist, vae.config.scaling_factor

    @torch.no_grad()
    def _encode_texts(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """SD1.5: the last hidden state. SDXL: both encoders' penultimate ones side by side, and the second's pooled."""
        first = self._once("text", lambda: self._text_model("text_encoder", "tokenizer"))
        if not self.is_sdxl:
            return {"text": self._run_text(first, captions, hidden_states=False).last_hidden_state}
        second = self._once("text_2", lambda: self._text_model("text_encoder_2", "tokenizer_2"))
        outputs = [self._run_text(model, captions, hidden_states=True) for model in (first, second)]
        text = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return {"text": text, "pooled": outputs[1].text_embeds}

    def _run_text(self, pair: tuple[Any, Any], captions: list[str], hidden_states: bool) -> Any:
        tokenizer, model = pair
        length = tokenizer.model_max_length
        tokens = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return model(tokens.input_ids.to(self.device), output_hidden_states=hidden_states)

    def _text_model(self, encoder: str, tokenizer: str) -> tuple[Any, Any]:
        dtype = _DTYPES[self.config.precision]
        return load_part(self.folder, tokenizer, dtype), self._load(encoder, dtype)

    def _load(self, part: str, dtype: torch.dtype) -> Any:
        return placed(load_part(self.folder, part, dtype), self.device).eval().requires_grad_(False)

    def _once(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]
