"""Torch files read without torch: what is in them, and nothing that runs, hangs or swells."""

import io
import os
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from damage import Touch, cuts, flipped, hostile_pickle
from golden import GOLDEN

from psa_core.errors import PSAError
from psa_core.torch_files import read_torch_file

FORMATS = {"zip": True, "legacy": False}


def content() -> dict:
    """A training state's kinds of content: an optimizer's, a module's, views, an empty tensor, plain values."""
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(12.0).view(3, 4)
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "views": [shared, shared.T, shared[1:, 2]],
        "kinds": [torch.ones(2, dtype=t) for t in (torch.half, torch.bfloat16, torch.double, torch.bool, torch.long)],
        "empty": (torch.empty(0, 3), [], {}, ()),
        "plain": [1, -(2**40), 2.5, float("inf"), True, None, "a text", 2**40],
        "ordered": OrderedDict(a=1),
    }


def save(value, path: Path, kind: str = "zip") -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[kind])
    return path


def assert_same(one, other) -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other) and type(one) is torch.Tensor
    elif isinstance(one, dict):
        assert type(one) is dict and list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert type(one) is type(other) and len(one) == len(other)
        for part, other_part in zip(one, other, strict=True):
            assert_same(part, other_part)
    else:
        assert type(one) is type(other) and one == other


def refused(path: Path) -> None:
    with pytest.raises(PSAError, match="nothing of it was run"):
        read_torch_file(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_what_torch_wrote(tmp_path, kind):
    value = content()
    assert_same(read_torch_file(save(value, tmp_path / "a.pt", kind)), value)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_reads_published_adapters_as_torch_does(kind):
    path = GOLDEN / kind / "psa_adapter.bin"
    assert_same(read_torch_file(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_gives_a_sentence_or_the_same_structure(tmp_path, kind):
    whole = save(content(), tmp_path / "whole.pt", kind).read_bytes()
    path = tmp_path / "damaged.pt"
    for size in cuts(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)
    for damaged in flipped(whole, 1000, seed=3):
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except PSAError as error:
            assert "damaged" in str(error)


def test_a_changed_weight_in_an_archive_is_noticed(tmp_path):
    path = save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    whole = path.read_bytes()
    start = whole.index(bytes(4000))
    for place in random.Random(0).sample(range(start, start + 4000), 40):
        path.write_bytes(whole[:place] + b"\1" + whole[place + 1 :])
        refused(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_code_runs_and_nothing_unknown_comes_out(tmp_path, kind):
    marker = tmp_path / "ran"
    for payload in (Touch(marker), os.getcwd, object, torch.float32, torch.Size([2]), {1, 2}, b"bytes", 1j):
        refused(save({"payload": payload}, tmp_path / "bad.pt", kind))
    (tmp_path / "bare.pt").write_bytes(hostile_pickle(marker))
    refused(tmp_path / "bare.pt")
    assert not marker.exists()


def archive(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    """A torch archive around a hand-written pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        for name, data in records.items():
            file.writestr(f"a/data/{name[1:]}", data)
    return path


def tensor(sizes: tuple[int, ...], strides: tuple[int, ...], count: int = 4, start: int = 0) -> bytes:
    """Instructions for a tensor of float32 in record 0."""

    def number(value) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (sizes, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(start) + shape + b"\x89)tR"


def test_hand_written_archives(tmp_path):
    path = tmp_path / "a.pt"
    values = torch.arange(4.0)
    record = values.numpy().tobytes()
    assert_same(read_torch_file(archive(path, tensor((2, 2), (2, 1)), _0=record)), values.view(2, 2))
    many = tensor((1,) * 40, (1,) * 40)
    for program in (
        tensor((5,), (1,)),  # beyond its storage
        tensor((10**9, 10**9), (0, 0)),  # one value, shown 10^18 times
        tensor((2,), (-1,), start=1),
        tensor((4,), (1,), count=10**12),
        tensor((-4,), (1,)),
        tensor((2,), (1,), start=10**15),
        tensor((2,), (10**15,)),
        many,
        b"(K\x01K\x02",  # a mark that is never closed
        b"t",
        b"",
        b"K\x01K\x02",
        b"}]K\x01s",  # a list as a key
        b"ctorch\nFloatStorage\n",  # a name as a result
        b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R",
        b"]q\x00h\x00a",  # a list that holds itself
        b"K\x01" + b"\x85" * 1000,  # deep
        b"]" + b"q\x00]h\x00ah\x00a" * 60,  # 2^60 values in 400 bytes
        b"X\xff\xff\xff\xffabc",
        b"I" + b"9" * 5000 + b"\n",
        b"c" + b"a" * 100_000,
        b"N" * 3_000_000,
    ):
        refused(archive(path, program, _0=record))
    refused(archive(path, b"N", zipfile.ZIP_DEFLATED, _0=bytes(50_000_000)))
    with zipfile.ZipFile(path, "w") as file:  # which of two?
        file.writestr("a/data.pkl", b"\x80\x02N.")
        file.writestr("b/data.pkl", b"\x80\x02N.")
    refused(path)


def test_legacy_lengths_are_bounded_by_the_file(tmp_path):
    path = save({"a": torch.zeros(100)}, tmp_path / "a.pt", "legacy")
    whole = path.read_bytes()
    for wrong in (struct.pack("<q", 10**12), struct.pack("<q", -1), struct.pack("<q", 99)):
        path.write_bytes(whole.replace(struct.pack("<q", 100), wrong))
        refused(path)


def test_what_is_no_torch_file(tmp_path):
    for data in (b"", b"P", b"PK", b"PK\x03\x04" + bytes(100), b"hello", bytes(1000), b"\x80\x02N."):
        (tmp_path / "a.pt").write_bytes(data)
        refused(tmp_path / "a.pt")
    with pytest.raises(PSAError):
        read_torch_file(tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "no pickle")
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    refused(tmp_path / "a.pt")
