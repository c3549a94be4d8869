"""Measuring what a method draws: shares, win rates and distances, each with its bootstrap interval."""

from .figures import Figure, WinRate, frechet_distance, frechet_rise, share, win_rate

__all__ = ["Figure", "WinRate", "frechet_distance", "frechet_rise", "share", "win_rate"]
