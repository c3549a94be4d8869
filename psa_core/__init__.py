"""Personalized Safety Alignment in plain PyTorch; runs with and without ComfyUI."""

from .adapter.files import load_adapter, save_adapter
from .adapter.model import PSAAdapter
from .encoders.embedding import UserEmbedding, load_embedding, save_embedding
from .encoders.structured import StructuredEncoder
from .errors import PSAError
from .profile import LEVELS, UserProfile
from .training.losses import DPOLoss, dpo_loss
from .users import read_users_csv

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
