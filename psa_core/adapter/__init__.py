"""The adapter: its maths, its files, and its place in a UNet's attention."""

from .attention import UserKeyValue, user_attention
from .files import load_adapter, save_adapter
from .model import FAMILIES, PSAAdapter, check_strength

__all__ = ["FAMILIES", "PSAAdapter", "UserKeyValue", "check_strength", "load_adapter", "save_adapter", "user_attention"]
