"""Training adapters: Sage folder -> records -> cached tensors -> pairs -> LPPD -> adapter."""

from ..dataset import PairSplit, SageRecord, SageSplit, read_split
from .cache import TensorCache
from .config import PRESETS, TrainConfig
from .denoiser import Denoiser, DiffusersDenoiser, User
from .inputs import ImageEncoder, TextEncoder, encode_users, fill_cache
from .metrics import read_metrics
from .pairs import PairDataset
from .trainer import Progress, StopTraining, Trainer, TrainResult

__all__ = [
    "PRESETS",
    "Denoiser",
    "DiffusersDenoiser",
    "ImageEncoder",
    "PairDataset",
    "PairSplit",
    "Progress",
    "SageRecord",
    "SageSplit",
    "StopTraining",
    "TensorCache",
    "TextEncoder",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "User",
    "encode_users",
    "fill_cache",
    "read_metrics",
    "read_split",
]
