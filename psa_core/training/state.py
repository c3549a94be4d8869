"""A run's state on disk: one file, replaced whole, read without running any code."""

from pathlib import Path
from typing import Any

import torch

from ..errors import PSAError
from ..files import atomic_path

_FORMAT = 1


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, text, and lists and dicts of them). A kill leaves the old file or the new."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": _FORMAT, **state}, file)
        except RuntimeError as error:  # torch's own, for the failing write beneath it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def remove_parts(folder: Path) -> None:
    """Delete what a killed run left half-written directly in `folder`."""
    for part in folder.glob(".part-*"):
        part.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Any]:
    """Read a state, tensors on the CPU, by torch's weights-only reader: it builds data and runs no code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the weights-only reader meets a damaged file with almost any exception
        raise PSAError(
            f"The training state {path} is damaged, or tries to run code (nothing of it was run). Delete it to start "
            "this run from its beginning, or choose another run folder."
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise PSAError(f"{path} is not a training state that this version reads. Choose another run folder.")
    return state
