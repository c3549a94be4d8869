"""ComfyUI's CLIP and VAE as what fills the training cache. Both stay under ComfyUI's memory manager."""

from functools import partial
from typing import Any

import torch
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer
from comfy.model_patcher import ModelPatcher

from ...psa_core.errors import PSAError
from ...psa_core.training import ImageEncoder, TextEncoder
from .denoiser import has_size_vector, replaced
from .weights import weights_id


def image_encoder(vae: Any, model: ModelPatcher, whole: bool = False) -> ImageEncoder:
    """The VAE's encoder, its latents scaled as `model` samples them, in float32; `whole` as of `weights_id`."""
    latent_format = model.get_model_object("latent_format")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        latents = vae.encode((pixels.movedim(1, -1) + 1) / 2)
        if latents.ndim != 4 or latents.shape[1] != latent_format.latent_channels:
            raise PSAError("This VAE belongs to another kind of model. Connect the one of the MODEL to train on.")
        return latent_format.process_in(latents.float())

    def sample(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        def drawn(moments: torch.Tensor) -> tuple[torch.Tensor, None]:
            mean, log_variance = moments.float().chunk(2, 1)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            return mean + (log_variance.clamp(-30, 20) / 2).exp() * noise, None

        with replaced([vae.first_stage_model.regularization], "forward", lambda _: drawn):
            # One at a time: ComfyUI cuts batches by the memory that is free, and noise must not depend on that.
            return torch.cat([encode(each) for each in pixels.split(1)])

    posterior = isinstance(getattr(vae.first_stage_model, "regularization", None), DiagonalGaussianRegularizer)
    weights = weights_id(vae.patcher, vae.first_stage_model, whole)
    name = f"comfyui-{type(latent_format).__name__}-{vae.vae_dtype}-{weights}"
    return ImageEncoder(name, encode, sample if posterior else None)


def text_encoder(clip: Any, model: ModelPatcher, context_dim: int, whole: bool = False) -> TextEncoder:
    """The text encoders, for captions as `encoded_texts` reads them; `whole` as of `weights_id`."""
    options = f"{clip.layer_idx}-{sorted(clip.tokenizer_options.items())}"
    weights = weights_id(clip.patcher, clip.cond_stage_model, whole)
    encode = partial(encoded_texts, clip, model, context_dim)
    return TextEncoder(f"comfyui-{options}-{has_size_vector(model.model)}-{weights}", encode)


def encoded_texts(
    clip: Any, model: ModelPatcher, context_dim: int, captions: list[str], are_typed: bool = False
) -> dict[str, torch.Tensor]:
    """Plain captions encoded, a row each: no weights in parentheses, and the first 77 tokens of a long one.

    A caption is a stranger's text, in which `embedding:name` is a word as others, and opens no file of that name
    here. Where somebody at this machine typed it (`are_typed`), it does, as in CLIP Text Encode.

    Raises:
        PSAError: for a CLIP of another kind of model.
    """
    with_pooled = has_size_vector(model.model)
    tokenizers = [each for each in vars(clip.tokenizer).values() if hasattr(each, "embedding_directory")]
    with replaced([] if are_typed else tokenizers, "embedding_directory", lambda _: None):
        encoded = [_encode_caption(clip, caption) for caption in captions]
    text = torch.cat([cond for cond, _ in encoded]).float()
    if text.shape[-1] != context_dim or (with_pooled and encoded[0][1] is None):
        raise PSAError("This CLIP belongs to another kind of model. Connect the one of the MODEL to train on.")
    pooled = [each for _, each in encoded if each is not None]
    return {"text": text} | ({"pooled": torch.cat(pooled).float()} if with_pooled else {})


def _encode_caption(clip: Any, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    plain = caption.replace("(", "\\(").replace(")", "\\)")
    tokens = {name: chunks[:1] for name, chunks in clip.tokenize(plain).items()}
    return clip.encode_from_tokens(tokens, return_pooled=True)
