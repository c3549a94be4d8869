"""Whatever an adapter file holds: an adapter or a sentence, at once, and nothing run or written."""

import functools
import os
import tempfile
import time
from pathlib import Path

import pytest
from adapters import random_adapter, save_bin
from damage import hostile_pickle
from hostile_files import damaged, every_input_holds, other_safetensors
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


files = st.one_of(
    *(st.tuples(st.just(name), damaged(good_file(name))) for name in NAMES),
    st.tuples(st.just("adapter.safetensors"), other_safetensors(good_file("adapter.safetensors"))),
    st.tuples(st.sampled_from(NAMES), st.binary(max_size=400)),
    st.tuples(st.just("pickle.bin"), st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail + b".")),
    st.tuples(
        st.just("opcodes.bin"),
        st.lists(st.sampled_from(OPCODES), max_size=60).map(bytes),
    ),
)


def adapters_hold(folder, examples: int) -> None:
    marker = folder / "it-ran"
    (folder / "files").mkdir()

    def holds(file) -> None:
        path = folder / "files" / file[0]
        path.write_bytes(file[1])
        began = time.process_time()
        try:
            load_adapter(path)
        except PSAError as error:
            assert str(error).endswith(".")
        assert time.process_time() - began < 5
        path.unlink()

    every_input_holds(holds, files, examples)
    (folder / "files" / "hostile.bin").write_bytes(hostile_pickle(marker))
    with pytest.raises(PSAError):
        load_adapter(folder / "files" / "hostile.bin")
    assert os.listdir(folder) == ["files"]


@pytest.mark.filterwarnings("ignore")
def test_adapter_files_hold(tmp_path):
    adapters_hold(tmp_path, 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_adapter_files_hold_for_long(tmp_path):
    adapters_hold(tmp_path, 100_000)
