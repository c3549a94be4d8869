"""A state on disk: one sealed file, replaced whole, read without running any code.

A state is nested: dicts, lists and tuples of tensors, numbers and text. It is written as JSON, in which a tensor is
named, and the tensors.
"""

from pathlib import Path
from typing import Any

import torch

from ..errors import PSAError
from ..torch_files import read_torch_file
from .sealed import SealError, read_sealed, write_sealed


def save_state(path: Path, kind: str, state: dict[str, Any]) -> None:
    """Write a state of this `kind` (what it is of, and its layout). A kill leaves the old file or the new."""
    tensors: dict[str, torch.Tensor] = {}
    write_sealed(path, kind, _packed(state, "", tensors), tensors)


def load_state(path: Path, kind: str) -> dict[str, Any]:
    """Read a state of this `kind`, tensors on the CPU.

    Raises:
        PSAError: for a file that is missing, damaged, or of another kind.
    """
    try:
        data, tensors = read_sealed(path, kind)
        # Copies: what is read lies in the file's memory map, and a state is trained on.
        state = _unpacked(data, {name: value.clone() for name, value in tensors.items()})
        if isinstance(state, dict):
            return state
        fault = "it holds no state"
    except SealError as error:
        fault = str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fault = "it holds no state"
    raise PSAError(f"The state {path} cannot be used: {fault}. Put a copy of it back, or choose another folder.")


def load_old_state(path: Path) -> dict[str, Any]:
    """Read a `state.pt` of an earlier version, a torch file.

    Raises:
        PSAError: for a file that is damaged, or is something else.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or type(state.get("format")) is not int or state["format"] != 1:
        raise PSAError(f"{path} is not a training state that this version reads. Choose another run folder.")
    return state


def _packed(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for `value`: a container as its kind and its parts, so that no key or tuple changes its type."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _packed(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        parts = [_packed(part, f"{name}/{number}", tensors) for number, part in enumerate(value)]
        return {type(value).__name__: parts}
    return value


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "tensor":
        return tensors[parts]
    if kind == "dict":
        return {key: _unpacked(part, tensors) for key, part in parts}
    made = [_unpacked(part, tensors) for part in parts]
    return tuple(made) if kind == "tuple" else made
