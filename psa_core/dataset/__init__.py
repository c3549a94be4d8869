"""Preference pairs on disk, in Sage's format."""

from .sage import SageRecord, SageSplit, read_split

__all__ = ["SageRecord", "SageSplit", "read_split"]
