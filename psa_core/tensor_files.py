"""`.safetensors` files: read whole or refused; the same tensors and metadata give the same bytes."""

import errno
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook

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


_LONGEST_HEADER = 16 << 20  # bytes: an entry takes a hundred there, and thousands as objects. SDXL's take 0.4 MB


def open_file(path: Path) -> Any:
    """safetensors' handle on the file, for a `with`; what the header claims is held against the file's length there.

    Raises:
        SafetensorError, OSError: for a file that is missing, truncated, damaged or of another kind, or whose header
            is far longer than any model's.
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(errno.ENOENT, "there is no file", str(path))
    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > _LONGEST_HEADER:
            raise SafetensorError("the header is longer than any model's")
    return safe_open(path, framework="pt")


@contextmanager
def no_larger_than(files: Iterable[Path]) -> Iterator[None]:
    """Within the block, a model that grows beyond what these files hold is not built: its configuration lies.

    It may have twice their tensors and four times their values, since weights are shared, or packed.

    Raises:
        ValueError: out of the block, before the memory is filled; and as `open_file` does.
    """
    tensors = values = 0
    for path in files:
        with open_file(path) as file:
            tensors += 2 * len(file.keys())
            values += 4 * path.stat().st_size
    seen: set[tuple[int, str]] = set()  # a parameter may be put in its place twice

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal values
        if parameter is None or (id(module), name) in seen:
            return
        seen.add((id(module), name))
        values -= parameter.numel()
        if len(seen) > tensors or values < 0:
            raise ValueError("its configuration describes a larger model than its weights are of")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def read_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata.

    Raises:
        PSAError: for a file that is missing, truncated, damaged, or another kind of file.
    """
    try:
        with open_file(path) as file:
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
