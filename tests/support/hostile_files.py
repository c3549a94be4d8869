"""Strategies for files that are damaged or made to harm, and the test that whatever reads them holds."""

import itertools
import json
import math
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from psa_core import PSAError

_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AT_ONCE = 2000
_FORGET_PEAK = Path("/proc/self/clear_refs")
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
_CLAIMS = ("F64", "I8", "F4", "F8_E4M3", [0, 8], [0, 2**62], [2**62, 0], [2**62, 2**62], [], [1] * 99)
NESTED = st.sampled_from(
    [b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"{" * 100_000, b"\xef\xbb\xbf{}", b"\0" * 99]
)
_NUMBERS = (0, -1, 2**31, 2**63, 10**400, -0.0, 0.5, 1e308, 5e-324, math.nan, math.inf, -math.inf)
# One draw for all of an input: Hypothesis takes several times as long for a draw as what reads the file. What fails is
# named whole.
_RANDOM = st.binary(min_size=8, max_size=8).map(random.Random)


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A good file with some bytes changed, taken out, put in, or moved."""
    rng, changed = draw(_RANDOM), bytearray(content)
    for _ in range(rng.randint(0, 4)):
        if not changed:
            break
        place, length = rng.randrange(len(changed)), rng.randint(0, 12)
        kind = rng.choice(["change", "remove", "insert", "repeat", "cut"])
        piece = rng.choice([rng.randbytes(length), bytes(length), b"\xff" * length])
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


def _text(rng: random.Random) -> str:
    """Of any code points, half surrogate pairs among them."""
    return "".join(chr(rng.randrange(rng.choice([0x80, 0x100, 0x10000, 0x110000]))) for _ in range(rng.randint(0, 9)))


def _value(rng: random.Random, depth: int = 2) -> Any:
    """What JSON can hold, as `JSON_VALUES`."""
    kind = rng.randrange(7 if depth else 5)
    if kind < 2:
        return rng.choice([None, True, False] if kind else _NUMBERS)
    if kind < 4:
        size = rng.getrandbits(rng.choice([4, 8, 32, 64, 200]))
        return rng.choice([size, -size, struct.unpack("d", rng.randbytes(8))[0]])
    if kind == 4:
        return rng.choice(["\0", "../x", _text(rng), _text(rng)])
    parts = [_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    return parts if kind == 5 else {_text(rng): part for part in parts}


def _claim(rng: random.Random) -> Any:
    return rng.choice([*_CLAIMS, _value(rng), _value(rng), _value(rng)])


@st.composite
def other_json(draw, data: dict, value: Callable[[random.Random], Any] = _value) -> bytes:
    """JSON with some entry, at any depth, replaced, added or taken out."""
    rng, data = draw(_RANDOM), json.loads(json.dumps(data))
    for _ in range(rng.randint(1, 3)):
        place = rng.choice(dicts_in(data))
        key = rng.choice([*sorted(place), *sorted(place), _text(rng)])
        if rng.random() < 0.5:
            place[key] = value(rng)
        else:
            place.pop(key, None)
    return json.dumps(data).encode()


@st.composite
def other_safetensors(draw, content: bytes) -> bytes:
    """A `.safetensors` file whose header is JSON with some entry replaced, added or taken out."""
    end = 8 + int.from_bytes(content[:8], "little")
    text, rng = draw(other_json(json.loads(content[8:end]), _claim)), draw(_RANDOM)
    length = rng.choice([len(text), rng.getrandbits(rng.choice([8, 16, 32, 64]))])
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

    It starts no program, writes nothing outside the path's folder, and its sentences fit any terminal. The memory is
    what the process has in use at most, measured where the system is Linux.
    """

    def holds(content: bytes) -> None:
        _put(path, content)
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
    try:
        every_input_holds(holds, files, examples)
    finally:
        _watched.pop()
    assert not done, done


def _put(path: Path, content: bytes) -> None:
    """In place: where a file is emptied first, some file systems wait for the disk when it is closed."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(content)
        file.truncate()


@contextmanager
def at_once() -> Iterator[None]:
    """The test fails where the block waits for 5 seconds, whatever it catches. Not on Windows."""

    def fail(*_: Any) -> None:
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(5)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def every_input_holds(
    holds: Callable[[Any], None], files: st.SearchStrategy, examples: int, process: int | str = "self"
) -> None:
    """Call `holds` with so many inputs, some at a time: Hypothesis keeps 12 kB for each that it has drawn.

    The process (a number, or this one) takes at most 1 GB more for them.
    """
    numbers = itertools.count()
    for begin in range(0, examples, _AT_ONCE):

        @seed(begin)
        @settings(
            max_examples=min(_AT_ONCE, examples - begin),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(files)
        def hold(content: Any) -> None:
            next(numbers)
            holds(content)

        resting = _resident(process, "VmRSS", forget_peak=True)
        hold()
        assert _resident(process, "VmHWM") - resting < 1_000_000_000
    assert next(numbers) >= examples or examples > 1000


def _resident(process: int | str, name: str, forget_peak: bool = False) -> int:
    """The memory in use, or its peak, in bytes; 0 where the system does not say."""
    try:
        if forget_peak:
            Path(f"/proc/{process}/clear_refs").write_text("5")
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def dicts_in(value: object) -> list[dict]:
    """All dicts in it, at any depth."""
    if isinstance(value, list):
        return [found for part in value for found in dicts_in(part)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for part in value.values() for found in dicts_in(part))]


def _watch(event: str, arguments: tuple) -> None:
    if not _watched:
        return
    folder, done = _watched[-1]
    if event in _PROGRAMS:
        done.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & _WRITING:
        path = os.fsdecode(arguments[0])
        ours = any(part in path for part in (".hypothesis", "__pycache__")) or path in (os.devnull, str(_FORGET_PEAK))
        if not ours and not Path(os.path.abspath(path)).is_relative_to(folder):
            done.append(f"wrote {path}")


sys.addaudithook(_watch)
