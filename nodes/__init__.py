"""Thin ComfyUI nodes over `psa_core`, one file a family."""

from .adapter import LoadAdapter, SaveAdapter
from .apply import Apply
from .audience import Audience, MixViewers
from .build import BuildDataset
from .comfy.faults import reported
from .compare import Compare
from .concepts import Concepts
from .dataset import CheckDataset, LoadDataset
from .effect import LoadEffect, SaveEffect
from .embedding import Encode, LoadEmbedding, LoadEncoder
from .evaluate import Evaluate
from .grid import LabelGrid
from .guard import PictureGuard
from .mini import LoadMini
from .profile import LoadProfile, SaveProfile, UserProfile
from .train import Train
from .user_space import UserSpace

NODES = [
    reported(node)
    for node in (
        UserProfile,
        LoadProfile,
        SaveProfile,
        LoadEncoder,
        Encode,
        LoadEmbedding,
        LoadAdapter,
        SaveAdapter,
        Apply,
        Audience,
        MixViewers,
        LoadEffect,
        SaveEffect,
        LabelGrid,
        LoadMini,
        UserSpace,
        Concepts,
        BuildDataset,
        LoadDataset,
        CheckDataset,
        Train,
        Evaluate,
        PictureGuard,
        Compare,
    )
]
