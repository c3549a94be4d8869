"""Personalized Safety Alignment in plain PyTorch; runs with and without ComfyUI."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter.files import load_adapter, save_adapter
    from .adapter.model import PSAAdapter
    from .encoders.embedding import UserEmbedding, load_embedding, save_embedding
    from .encoders.structured import StructuredEncoder
    from .errors import PSAError
    from .profile import LEVELS, UserProfile
    from .training.losses import DPOLoss, dpo_loss
    from .users import read_users_csv

# Where each name lives. They are imported when they are asked for: a command can then be interrupted from its first
# moment on, and whoever needs one room does not wait for the others.
_HOMES = {
    "LEVELS": "profile",
    "DPOLoss": "training.losses",
    "PSAAdapter": "adapter.model",
    "PSAError": "errors",
    "StructuredEncoder": "encoders.structured",
    "UserEmbedding": "encoders.embedding",
    "UserProfile": "profile",
    "dpo_loss": "training.losses",
    "load_adapter": "adapter.files",
    "load_embedding": "encoders.embedding",
    "read_users_csv": "users",
    "save_adapter": "adapter.files",
    "save_embedding": "encoders.embedding",
}

__all__ = [
    "LEVELS",
    "DPOLoss",
    "PSAAdapter",
    "PSAError",
    "StructuredEncoder",
    "UserEmbedding",
    "UserProfile",
    "dpo_loss",
    "load_adapter",
    "load_embedding",
    "read_users_csv",
    "save_adapter",
    "save_embedding",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
