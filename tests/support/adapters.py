"""Small adapters with random weights."""

from pathlib import Path
from typing import Any

import torch

from psa_core import PSAAdapter


def random_adapter(
    widths: tuple[int, ...] = (8, 16, 8),
    cross_attention_dim: int = 12,
    embedding_dim: int = 10,
    seed: int = 0,
    std: float = 0.1,
    **options: Any,
) -> PSAAdapter:
    """An adapter whose every weight is random; a new one's projections are zero."""
    adapter = PSAAdapter(widths, cross_attention_dim, embedding_dim, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return adapter


def published_layout(adapter: PSAAdapter) -> dict[str, dict[str, torch.Tensor]]:
    """The two parts of a published `psa_adapter.bin`."""
    parts: dict[str, dict[str, torch.Tensor]] = {"psa_adapter": {}, "user_proj": {}}
    for key, value in adapter.state_dict().items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value.clone()
    return parts


def save_bin(adapter: PSAAdapter, path: Path, **options: Any) -> Path:
    torch.save(published_layout(adapter), path, **options)
    return path
