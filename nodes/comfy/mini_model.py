"""PSA Mini's model as ComfyUI's own objects: what stock loaders would give, if they knew its sizes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import folder_paths
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models import SD15
from comfy.supported_models_base import ClipTarget
from comfy.utils import unet_to_diffusers

from .mini_layout import read_part, text_weights, tokenizer_folder, unet_arguments, vae_arguments

# It costs nothing at this size, and every machine draws the same.
_DTYPE = torch.float32


class _MiniConfig(SD15):
    """SD1.5's schedule, latents and kind of prediction; but not its 8 heads."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}


def is_mini(model: ModelPatcher) -> bool:
    """Whether `load_model` made it."""
    return isinstance(model.model.model_config, _MiniConfig)


def load_model(folder: Path) -> ModelPatcher:
    """The UNet of a mini model in diffusers' layout."""
    config, tensors = read_part(folder, "unet")
    model_config = _MiniConfig(unet_arguments(config))
    model_config.set_inference_dtype(_DTYPE, None)
    model = model_config.get_model({}).to(model_management.unet_offload_device())
    keys = unet_to_diffusers(model_config.unet_config)
    model.diffusion_model.load_state_dict({keys[key]: value for key, value in tensors.items()})
    _set_groups(model.diffusion_model, config["norm_num_groups"])
    return ModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


def load_clip(folder: Path) -> CLIP:
    """The text encoder and the tokenizer."""
    config, tensors = read_part(folder, "text_encoder")
    length, width = config["max_position_embeddings"], config["hidden_size"]
    tokenizer = partial(SDTokenizer, str(tokenizer_folder(folder)), length, embedding_size=width)
    clip = CLIP(
        ClipTarget(
            partial(SD1Tokenizer, tokenizer=tokenizer), partial(SD1ClipModel, clip_model=partial(_TextEncoder, config))
        ),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"dtype": _DTYPE},
    )
    # CLIP's projection of the pooled text, which SD1.5 does not use, is not among the weights.
    clip.load_sd({**text_weights(tensors), "text_projection.weight": torch.eye(width)})
    return clip


class _TextEncoder(SDClipModel):
    """SD1.5's kind of text encoder, of another size and vocabulary."""

    def __init__(self, config: Mapping[str, Any], device: Any, dtype: torch.dtype, model_options: dict) -> None:
        super().__init__(
            device=device,
            max_length=config["max_position_embeddings"],
            textmodel_json_config=dict(config),
            dtype=dtype,
            special_tokens={name: config[f"{key}_token_id"] for name, key in _SPECIAL_TOKENS.items()},
            return_projected_pooled=False,
            model_options=model_options,
        )
        # ComfyUI makes room for CLIP's 49,408 tokens, whatever the config says.
        tokens = self.operations.Embedding(config["vocab_size"], config["hidden_size"], device=device, dtype=dtype)
        self.transformer.set_input_embeddings(tokens)
        self.freeze()


_SPECIAL_TOKENS = {"start": "bos", "end": "eos", "pad": "pad"}


def load_vae(folder: Path) -> VAE:
    """The VAE."""
    config, tensors = read_part(folder, "vae")
    vae = VAE(sd=tensors, config={"params": vae_arguments(config)}, dtype=_DTYPE)
    _set_groups(vae.first_stage_model, config["norm_num_groups"])
    return vae


def _set_groups(model: torch.nn.Module, groups: int) -> None:
    """Give every group norm `groups` groups: ComfyUI builds SD models with 32, which no config changes."""
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups
