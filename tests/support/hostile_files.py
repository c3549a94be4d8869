"""Strategies for files that are damaged or made to harm, and the test that whatever reads them holds."""

import itertools
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psa_core import PSAError

_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_watched: list[tuple[Path, list[str]]] = []

TEXTS = st.text(st.characters(codec=None), max_size=9)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from([10**400, -1, 2**63, "\0", "../x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
NESTED = st.sampled_from(
    [b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"{" * 100_000, b"\xef\xbb\xbf{}", b"\0" * 99]
)


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A good file with some bytes changed, taken out, put in, or moved."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        if not changed:
            break
        place, length = draw(st.integers(0, len(changed) - 1)), draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["change", "remove", "insert", "repeat", "cut"]))
        piece = draw(st.binary(min_size=length, max_size=length))
        if kind == "change":
            changed[place : place + length] = piece
        elif kind == "remove":
            del changed[place : place + length]
        elif kind == "insert":
            changed[place:place] = piece
        elif kind == "repeat":
            changed[place:place] = changed[place : place + 8 * length]
        else:
            del changed[place:]
    return bytes(changed)


@st.composite
def other_json(draw, data: dict) -> bytes:
    """JSON with some entry, at any depth, replaced, added or taken out."""
    data = json.loads(json.dumps(data))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_dicts(data)))
        key = draw((st.sampled_from(sorted(place)) if place else st.nothing()) | TEXTS)
        if draw(st.booleans()):
            place[key] = draw(JSON_VALUES)
        else:
            place.pop(key, None)
    return json.dumps(data).encode()


@st.composite
def other_safetensors(draw, content: bytes) -> bytes:
    """A `.safetensors` file whose header is JSON with some entry replaced, added or taken out."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = draw(other_json(json.loads(content[8:end])))
    length = draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    return length.to_bytes(8, "little") + text + content[end:]


def hostile(content: bytes, ending: str) -> st.SearchStrategy[bytes]:
    """Files in the place of a good one with this ending."""
    kinds = [damaged(content), st.binary(max_size=300), NESTED]
    if ending == ".safetensors":
        kinds += [other_safetensors(content)] * 2
    elif ending in (".json", ".jsonl"):
        first = content.lstrip().splitlines()[0] if ending == ".jsonl" else content
        kinds += [other_json(json.loads(first))] * 2
    return st.one_of(kinds)


def reading_holds(
    path: Path, files: st.SearchStrategy[bytes], read: Callable[[Path], object], examples: int, also: tuple = ()
) -> None:
    """Whatever lies at `path`: `read` returns or raises PSAError (or `also`), in 5 s and 1 GB, and does nothing else.

    It starts no program, writes nothing outside the path's folder, and its sentences fit any terminal.
    """
    numbers = itertools.count()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(files)
    def holds(content: bytes) -> None:
        next(numbers)
        path.write_bytes(content)
        began = time.process_time()
        try:
            read(path)
        except PSAError as error:
            str(error).encode()
        except also:
            pass
        assert time.process_time() - began < 5

    done: list[str] = []
    _watched.append((path.parent, done))
    tracemalloc.start()
    try:
        holds()
        assert tracemalloc.get_traced_memory()[1] < 1_000_000_000
    finally:
        tracemalloc.stop()
        _watched.pop()
    assert next(numbers) >= examples or examples > 1000
    assert not done


def _dicts(value: object) -> list[dict]:
    if isinstance(value, list):
        return [found for part in value for found in _dicts(part)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for part in value.values() for found in _dicts(part))]


def _watch(event: str, arguments: tuple) -> None:
    if not _watched:
        return
    folder, done = _watched[-1]
    if event in _PROGRAMS:
        done.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & _WRITING:
        path = os.fsdecode(arguments[0])
        if not Path(os.path.abspath(path)).is_relative_to(folder) and path != os.devnull and ".hypothesis" not in path:
            done.append(f"wrote {path}")


sys.addaudithook(_watch)
