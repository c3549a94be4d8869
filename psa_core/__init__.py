"""Personalized Safety Alignment in plain PyTorch; runs with and without ComfyUI."""

from typing import TYPE_CHECKING, Any

from .adapter.files import load_adapter, save_adapter
from .adapter.model import PSAAdapter
from .encoders.embedding import UserEmbedding, load_embedding, save_embedding
from .encoders.structured import StructuredEncoder
from .errors import PSAError
from .profile import LEVELS, UserProfile
from .users import read_users_csv

if TYPE_CHECKING:
    from .training.losses import DPOLoss, dpo_loss

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
    """The loss comes from the room of training, which is entered when it is asked for."""
    if name in ("DPOLoss", "dpo_loss"):
        from .training import losses

        return getattr(losses, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
