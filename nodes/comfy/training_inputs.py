"""ComfyUI's CLIP and VAE as what fills the training cache. Both stay under ComfyUI's memory manager."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...psa_core.errors import PSAError
from ...psa_core.training import ImageEncoder, TextEncoder
from .attn2 import cross_attention_sites
from .denoiser import has_size_vector, weights_id


def image_encoder(vae: Any, model: ModelPatcher) -> ImageEncoder:
    """The VAE's encoder, its latents scaled as `model` samples them."""
    latent_format = model.get_model_object("latent_format")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        latents = vae.encode((pixels.movedim(1, -1) + 1) / 2)
        if latents.ndim != 4 or latents.shape[1] != latent_format.latent_channels:
            raise PSAError("This VAE belongs to another kind of model. Connect the one of the MODEL to train on.")
        return latent_format.process_in(latents)

    format_name = type(latent_format).__name__
    return ImageEncoder(f"comfyui-{format_name}-{vae.vae_dtype}-{weights_id(vae.first_stage_model)}", encode)


def text_encoder(clip: Any, model: ModelPatcher) -> TextEncoder:
    """The text encoders, for plain captions: no weights in parentheses, and the first 77 tokens of a long one."""
    with_pooled = has_size_vector(model.model)
    context_dim = cross_attention_sites(model.model.diffusion_model)[0].context_dim

    def encode(captions: list[str]) -> dict[str, torch.Tensor]:
        encoded = [_encode_caption(clip, caption) for caption in captions]
        text = torch.cat([cond for cond, _ in encoded]).float()
        if text.shape[-1] != context_dim or (with_pooled and encoded[0][1] is None):
            raise PSAError("This CLIP belongs to another kind of model. Connect the one of the MODEL to train on.")
        return {"text": text} | ({"pooled": torch.cat([p for _, p in encoded]).float()} if with_pooled else {})

    clip.load_model()  # with its LoRAs, which count
    options = f"{clip.layer_idx}-{sorted(clip.tokenizer_options.items())}"
    return TextEncoder(f"comfyui-{options}-{with_pooled}-{weights_id(clip.cond_stage_model)}", encode)


def _encode_caption(clip: Any, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    plain = caption.replace("(", "\\(").replace(")", "\\)")
    tokens = {name: chunks[:1] for name, chunks in clip.tokenize(plain).items()}
    return clip.encode_from_tokens(tokens, return_pooled=True)
