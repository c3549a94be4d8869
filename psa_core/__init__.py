"""Personalized Safety Alignment in plain PyTorch; runs with and without ComfyUI."""

from .adapter import PSAAdapter
from .adapter_files import load_adapter, save_adapter
from .embedding import UserEmbedding, load_embedding, save_embedding
from .encoders.structured import StructuredEncoder
from .errors import PSAError
from .losses import DPOLoss, dpo_loss
from .profile import LEVELS, UserProfile, read_users_csv

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
