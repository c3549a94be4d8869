"""Text encoders' weights under the keys of single-file checkpoints, the way that `from_single_file` goes back."""

import re
from typing import Any

import torch

_OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def clip_state_dict(model: Any, prefix: str) -> dict[str, torch.Tensor]:
    """OpenAI's CLIP: SD1.5's only text encoder (`cond_stage_model.`), SDXL's first (`conditioner.embedders.0.`)."""
    items = ((key if key.startswith("text_model.") else f"text_model.{key}", value) for key, value in _items(model))
    return {f"{prefix}transformer.{key}": value for key, value in items}


def open_clip_state_dict(model: Any, prefix: str) -> dict[str, torch.Tensor]:
    """OpenCLIP, of a `CLIPTextModelWithProjection`: SDXL's second text encoder (`conditioner.embedders.1.model.`)."""
    tensors = dict(_items(model))
    found = {"text_projection": tensors.pop("text_projection.weight").T}
    for key in [key for key in tensors if re.search(r"self_attn\.q_proj\.", key)]:
        kind = key.rpartition(".")[2]  # weight or bias
        parts = [tensors.pop(key.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        tensors[key.replace(f"self_attn.q_proj.{kind}", f"attn.in_proj_{kind}")] = torch.cat(parts)
    for key, value in tensors.items():
        for name, original in _OPEN_CLIP.items():
            key = key.replace(name, original)
        found[key] = value
    return {prefix + key: value for key, value in found.items()}


def _items(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(key, value.detach()) for key, value in model.state_dict().items() if not key.endswith("position_ids")]
