"""Preference pairs on disk, in Sage's format and in the compact one."""

from .reading import read_split, split_file
from .sage import SageRecord, SageSplit
from .split import Examples, PairSplit, Scene

__all__ = ["Examples", "PairSplit", "SageRecord", "SageSplit", "Scene", "read_split", "split_file"]
