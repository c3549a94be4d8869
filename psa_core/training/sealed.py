"""Sealed files: tensors and plain data in one .safetensors that knows what it stands for and whether it is whole."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..files import atomic_path
from ..json_text import parse_json
from ..tensor_files import open_file, save_file

_ENTRY = "psa"
_DIGEST_HEX = 32
_FAULTS = (SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError)  # a seal may be made by anybody


class SealError(Exception):
    """A sealed file is missing, damaged, or stands for something else. The reader's caller says what to do."""


def write_sealed(path: Path, stands_for: str, data: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write JSON-compatible `data` and `tensors`; whole or not at all, and the same content as the same bytes."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    digests = {name: _digest(name, value) for name, value in plain.items()}
    head = json.dumps({"stands_for": stands_for, "data": data, "digests": digests}, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={_ENTRY: _hash(head.encode()) + head})


def read_sealed(path: Path, stands_for: str, *names: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The data, and all tensors or those of `names` alone, on the CPU. What is read was verified.

    Raises:
        SealError: for a file that is missing, damaged, or was written to stand for something else.
    """
    try:
        with open_file(path) as file:
            entry = (file.metadata() or {}).get(_ENTRY, "")
            seal, text = entry[:_DIGEST_HEX], entry[_DIGEST_HEX:]
            if seal != _hash(text.encode()):
                raise SealError("its header is damaged")
            head = parse_json(text)
            if head["stands_for"] != stands_for:
                raise SealError("it stands for something else")
            tensors = {name: file.get_tensor(name) for name in names or head["digests"]}
        if any(head["digests"][name] != _digest(name, value) for name, value in tensors.items()):
            raise SealError("its values are damaged")
        return head["data"], tensors
    except _FAULTS as error:
        raise SealError("it is missing or damaged") from error


def _digest(name: str, value: torch.Tensor) -> str:
    values = value.reshape(-1).view(torch.uint8).numpy()
    return _hash(f"{name} {value.dtype} {tuple(value.shape)}\n".encode(), values)


def _hash(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_HEX // 2)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
