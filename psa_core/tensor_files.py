"""`.safetensors` files: read whole or refused; the same tensors and metadata give the same bytes."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .errors import PSAError
from .files import printable

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata.

    Raises:
        PSAError: for a file that is missing, truncated, damaged, or another kind of file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PSAError(
            f"{printable(path.name)} is not a whole .safetensors file: it is truncated or damaged. Copy, download or "
            "make it again."
        ) from error


def save_file(tensors: Mapping[str, torch.Tensor], path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """As `safetensors.torch.save_file`, which writes the metadata in another order each time.

    The layout (https://github.com/huggingface/safetensors#format): the header's length, the header as JSON, the
    values. Wide types come first, so that all values are aligned.
    """
    keys = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for key in keys:
        begin, end = end, end + tensors[key].nbytes
        shape = list(tensors[key].shape)
        header[key] = {"dtype": _DTYPES[tensors[key].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            file.write(_little_endian(tensors[key]))


def content_digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """A hash (hex) of all that a file holds, so that a changed bit is noticed."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _little_endian(tensor: torch.Tensor) -> memoryview:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    if sys.byteorder == "big":
        values = values.view(torch.uint8).reshape(-1, values.itemsize).flip(1).reshape(-1)
    return values.view(torch.uint8).numpy().data
