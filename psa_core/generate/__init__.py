"""Drawing prompt files with Stable Diffusion pipelines, for any number of viewers, in any number of processes."""

from .painter import BaseModel, Painter, Settings
from .run import Embed, Picture, Record, draw_missing, embed_with, is_whole, plan, prompts_id

__all__ = [
    "BaseModel",
    "Embed",
    "Painter",
    "Picture",
    "Record",
    "Settings",
    "draw_missing",
    "embed_with",
    "is_whole",
    "plan",
    "prompts_id",
]
