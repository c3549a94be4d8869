"""Tensors computed once and kept on disk, under the hash of everything they depend on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..errors import PSAError
from .sealed import SealError, read_sealed, write_sealed

_LAYOUT = "v2"  # of the entries: others lie in another folder, and are not met


def cache_key(*parts: Any) -> str:
    """32 hex digits that stand for JSON-compatible `parts`; nothing of them can be read from it."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


class TensorCache:
    """A folder of memory-mapped .safetensors files, one an entry, each sealed with its key.

    An entry is written whole or not at all and never changes, so an interrupt loses at most the
    entry at work, processes can share a folder, and no index is held in memory.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def put(self, key: str, tensors: dict[str, torch.Tensor]) -> None:
        write_sealed(self._path(key), key, None, tensors)

    def get(self, key: str, *names: str) -> dict[str, torch.Tensor]:
        """The entry's tensors, or those of `names` alone.

        Raises:
            PSAError: for an entry that is missing or damaged, or another's in its place.
        """
        path = self._path(key)
        try:
            return read_sealed(path, key, *names)[1]
        except SealError as error:
            raise PSAError(
                f"The cache entry {path} is not what was written there: {error}. Delete it if it is there, and start "
                "again: it is computed anew."
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / _LAYOUT / key[:2] / f"{key}.safetensors"
