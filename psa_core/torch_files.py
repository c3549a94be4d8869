"""Torch's own files (`torch.save`), read without `torch.load`: tensors and plain containers, and no code.

Such a file is a pickle that names its tensors' storages, and the storages. PyTorch up to 2.5.1 may run code from
one even under `weights_only`, so nothing here calls its loader, nor `pickle`: a pickle is a list of instructions
for a stack machine, and the machine below knows those that build data. A name it may look up is an entry in a
table of ours, never an import.
"""

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import PSAError

_MOST_INSTRUCTIONS = 1_000_000  # a state of SDXL's 70 layers takes some 50,000
_MOST_VALUES = 1_000_000  # in the result with shared parts counted each time: a few bytes can share a lot
_DEEPEST = 32
_LONGEST_NAME = 100
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files from before PyTorch 1.6
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_PLAIN = (str, int, float, bool, type(None), torch.Tensor)
_STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch.storage UntypedStorage": torch.uint8,  # of the types below
}
_UNTYPED = {f"torch {name}": getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2")}
_FAULTS = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, OSError, EOFError, MemoryError)

_Storage = Callable[[str, torch.dtype, int], torch.Tensor]


def read_torch_file(path: Path | str) -> Any:
    """What `torch.save` wrote: dicts, lists, tuples, text, numbers and tensors (on the CPU), and nothing else.

    Both formats are read, the zip archive (its checksums are verified) and the older one. An OrderedDict becomes a
    dict, a Parameter a tensor.

    Raises:
        PSAError: for a file that is truncated or damaged, or holds anything else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            result = _read_zip(file, size) if file.read(2) == b"PK" else _read_legacy(file, size)
        _check_plain(result)
    except (*_FAULTS, struct.error, zipfile.BadZipFile) as error:
        raise PSAError(
            f"{path.name} cannot be read as plain weights: it is truncated, damaged, or tries to run code (nothing "
            "of it was run). Copy or download it again, or ask its author for a .safetensors file."
        ) from error
    return result


def _read_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not plain or sum(entry.file_size for entry in entries) > size:
            raise ValueError("records that are larger than the file")
        records = {entry.filename: bytearray(archive.read(entry)) for entry in entries}  # checks their CRCs
    (name,) = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    root = name.removesuffix("data.pkl")
    if records.get(f"{root}byteorder", b"little") != b"little":
        raise ValueError("big-endian storages")

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        return _as_tensor(records[f"{root}data/{key}"], dtype, count)

    return _Machine(io.BytesIO(records[name]), storage).run()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Three headers, the object, the storages' keys, then each storage: its length and its values."""
    file.seek(0)
    buffers: dict[str, tuple[bytearray, torch.dtype]] = {}
    left = size

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        nonlocal left
        if key not in buffers:
            left -= count * dtype.itemsize
            if count < 0 or left < 0:
                raise ValueError("storages that are larger than the file")
            buffers[key] = bytearray(count * dtype.itemsize), dtype  # filled below
        return _as_tensor(buffers[key][0], dtype, count)

    header = [_Machine(file, _no_storage).run() for _ in range(3)]
    if header[:2] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL] or header[2]["little_endian"] is not True:
        raise ValueError("not a torch file")
    result = _Machine(file, storage).run()
    keys = _Machine(file, _no_storage).run()
    if sorted(keys) != sorted(buffers):
        raise ValueError("other storages than the object names")
    for key in keys:
        buffer, dtype = buffers[key]
        if struct.unpack("<q", _exactly(file, 8))[0] * dtype.itemsize != len(buffer):
            raise ValueError("a storage of another length")
        buffer[:] = _exactly(file, len(buffer))
    return result


def _no_storage(_key: str, _dtype: torch.dtype, _count: int) -> torch.Tensor:
    raise ValueError("a tensor in a header")


def _as_tensor(buffer: bytearray, dtype: torch.dtype, count: int) -> torch.Tensor:
    """`count` values as a flat tensor over `buffer`."""
    if not 0 <= count * dtype.itemsize <= len(buffer):
        raise ValueError("a storage that is larger than its record")
    return torch.frombuffer(buffer, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _exactly(stream: Any, count: int) -> bytes:
    if count > _LONGEST_NAME:  # reading takes the memory first, and finds out then
        here = stream.tell()
        if count > stream.seek(0, os.SEEK_END) - here:
            raise EOFError
        stream.seek(here)
    data = stream.read(count) if count >= 0 else b""
    if len(data) != count:
        raise EOFError
    return data


def _check_plain(result: Any) -> None:
    """Refuse what is no plain data, goes round in a circle, or unfolds to more than a file can hold."""
    pending, seen = [(result, 0)], 0
    while pending:
        value, depth = pending.pop()
        seen += 1
        if seen > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError("too large a structure")
        if type(value) is dict:
            pending += ((part, depth + 1) for part in value.values())
        elif type(value) in (list, tuple):
            pending += ((part, depth + 1) for part in value)
        elif not isinstance(value, _PLAIN):
            raise ValueError("neither a tensor nor plain data")


class _Machine:
    """Runs the next pickle of `stream`; `storage` gives a flat tensor for (key, dtype, number of values)."""

    def __init__(self, stream: BinaryIO, storage: _Storage) -> None:
        self._stream, self._storage = stream, storage
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks beneath each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MOST_INSTRUCTIONS):
            code = _exactly(self._stream, 1)
            if code == b".":
                (result,) = self._stack
                return result
            self._do(code)
        raise ValueError("too many instructions")

    def _do(self, code: bytes) -> None:
        stack = self._stack
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _NUMBERS:
            stack.append(self._number(_NUMBERS[code]))
        elif code in b"}])":
            stack.append({b"}": {}, b"]": [], b")": ()}[code])
        elif code == b"X":
            stack.append(_exactly(self._stream, self._number("<I")).decode())
        elif code == b"\x8a":
            stack.append(int.from_bytes(_exactly(self._stream, self._number("<B")), "little", signed=True))
        elif code in b"qr":
            self._memo[self._number("<B" if code == b"q" else "<I")] = stack[-1]
        elif code in b"hj":
            stack.append(self._memo[self._number("<B" if code == b"h" else "<I")])
        elif code == b"(":
            self._marked.append(stack)
            self._stack = []
        elif code in b"\x85\x86\x87":
            self._stack.append(tuple(self._pop(code[0] - 0x84)))
        elif code == b"t":
            parts = self._pop_marked()
            self._stack.append(tuple(parts))
        elif code in b"ae":
            parts = self._pop(1) if code == b"a" else self._pop_marked()
            self._top(list).extend(parts)
        elif code in b"su":
            parts = self._pop(2) if code == b"s" else self._pop_marked()
            self._top(dict).update(zip(map(_checked_key, parts[::2]), parts[1::2], strict=True))
        elif code == b"c":
            stack.append(_Name(f"{self._line()} {self._line()}"))
        elif code == b"Q":
            stack.append(self._stored(*stack.pop()))
        elif code == b"R":
            name, arguments = self._pop(2)
            self._stack.append(_built(name, arguments))
        elif code == b"b":  # what an OrderedDict carries beside its items: a state_dict's version numbers
            self._pop(1)
            self._top(dict)
        elif code != b"\x80" or self._number("<B") != 2:
            raise ValueError("an instruction that builds no plain data")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, _exactly(self._stream, struct.calcsize(form)))[0]

    def _line(self) -> str:
        line = self._stream.readline(_LONGEST_NAME)
        if not line.endswith(b"\n"):
            raise ValueError("too long a name")
        return line[:-1].decode()

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("an empty stack")
        parts = self._stack[-count:]
        del self._stack[-count:]
        return parts

    def _pop_marked(self) -> list[Any]:
        parts, self._stack = self._stack, self._marked.pop()
        return parts

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError("items for what takes none")
        return self._stack[-1]

    def _stored(self, kind: str, storage: Any, key: str, _device: str, count: int, view: None = None) -> torch.Tensor:
        known = isinstance(storage, _Name) and storage.text in _STORAGES
        if kind != "storage" or not known or type(key) is not str or type(count) is not int or view is not None:
            raise ValueError("not a storage")
        return self._storage(key, _STORAGES[storage.text], count)


@dataclass(frozen=True)
class _Name:
    """What an instruction refers to by name: never imported, and never part of a result."""

    text: str


def _checked_key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise ValueError("a key that is neither text nor a number")
    return key


def _built(name: Any, arguments: Any) -> Any:
    """What the few known names make of their arguments."""
    match name, arguments:
        case _Name("collections OrderedDict"), ():
            return {}
        case _Name("torch._utils _rebuild_parameter"), (torch.Tensor() as tensor, *_):
            return tensor
        case _Name("torch._utils _rebuild_tensor_v3"), (torch.Tensor() as flat, *shape, grad, hooks, _Name(kind)):
            if kind not in _UNTYPED:
                raise ValueError("an unknown type of numbers")
            return _built(_Name("torch._utils _rebuild_tensor_v2"), (flat.view(_UNTYPED[kind]), *shape, grad, hooks))
        case _Name("torch._utils _rebuild_tensor_v2"), (
            torch.Tensor() as flat,
            start,
            tuple(sizes),
            tuple(strides),
            *_,
        ):
            numbers = (start, *sizes, *strides)
            if len(numbers) > 2 * _DEEPEST or any(type(number) is not int or number < 0 for number in numbers):
                raise ValueError("a shape that is none")
            if math.prod(sizes) > flat.numel():
                raise ValueError("a tensor that is larger than its storage")
            return flat.as_strided(sizes, strides, start)
    raise ValueError("a call")
