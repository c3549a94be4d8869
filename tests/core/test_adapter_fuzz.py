"""Whatever an adapter file holds: an adapter or a sentence, at once, and nothing run or written."""

import functools
import itertools
import json
import os
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from adapters import random_adapter, save_bin
from damage import hostile_pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psa_core import PSAError, load_adapter, save_adapter

OPCODES = b"(.0]})tlduseabRcQqrhjKMJGXN\x80\x85\x86\x87\x88\x89\x8a"
NAMES = ("zip.bin", "legacy.bin", "adapter.safetensors")


@functools.cache
def good_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path, adapter = Path(folder, name), random_adapter((4, 4), 6, 5)
        if path.suffix == ".bin":
            save_bin(adapter, path, _use_new_zipfile_serialization=name == "zip.bin")
        else:
            save_adapter(adapter, path)
        return path.read_bytes()


@st.composite
def damaged(draw, name: str) -> bytes:
    """A good file with some bytes changed, taken out, put in, or moved."""
    content = bytearray(good_file(name))
    for _ in range(draw(st.integers(0, 4))):
        if not content:
            break
        place, length = draw(st.integers(0, len(content) - 1)), draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["change", "remove", "insert", "repeat", "cut"]))
        piece = draw(st.binary(min_size=length, max_size=length))
        if kind == "change":
            content[place : place + length] = piece
        elif kind == "remove":
            del content[place : place + length]
        elif kind == "insert":
            content[place:place] = piece
        elif kind == "repeat":
            content[place:place] = content[place : place + 8 * length]
        else:
            del content[place:]
    return bytes(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def other_headers(draw) -> bytes:
    """A `.safetensors` file whose header is JSON with some entry replaced, added or taken out."""
    content = good_file("adapter.safetensors")
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    places = [header, *(entry for entry in header.values())]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places))
        key = draw(st.sampled_from(sorted(place)) | st.text(max_size=9))
        if draw(st.booleans()):
            place[key] = draw(json_values | st.sampled_from([json.dumps("x" * 9), "F64", "I8", [0, 8], [2**62, 2**62]]))
        else:
            place.pop(key, None)
    text = json.dumps(header).encode()
    length = draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    return length.to_bytes(8, "little") + text + content[end:]


files = st.one_of(
    *(st.tuples(st.just(name), damaged(name)) for name in NAMES),
    st.tuples(st.just("adapter.safetensors"), other_headers()),
    st.tuples(st.sampled_from(NAMES), st.binary(max_size=400)),
    st.tuples(st.just("pickle.bin"), st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail + b".")),
    st.tuples(
        st.just("opcodes.bin"),
        st.lists(st.sampled_from(OPCODES), max_size=60).map(bytes),
    ),
)


def adapters_hold(folder, examples: int) -> None:
    marker, numbers = folder / "it-ran", itertools.count()
    (folder / "files").mkdir()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(files)
    def holds(file) -> None:
        next(numbers)
        path = folder / "files" / file[0]
        path.write_bytes(file[1])
        began = time.process_time()
        try:
            load_adapter(path)
        except PSAError as error:
            assert str(error).endswith(".")
        assert time.process_time() - began < 5
        path.unlink()

    tracemalloc.start()
    try:
        holds()
        assert tracemalloc.get_traced_memory()[1] < 500_000_000
    finally:
        tracemalloc.stop()
    (folder / "files" / "hostile.bin").write_bytes(hostile_pickle(marker))
    with pytest.raises(PSAError):
        load_adapter(folder / "files" / "hostile.bin")
    assert next(numbers) >= examples
    assert os.listdir(folder) == ["files"]


@pytest.mark.filterwarnings("ignore")
def test_adapter_files_hold(tmp_path):
    adapters_hold(tmp_path, 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_adapter_files_hold_for_long(tmp_path):
    adapters_hold(tmp_path, 100_000)
