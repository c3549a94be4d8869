"""Files are written whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from permissions import permissions_bind
from safetensors import SafetensorError

from psa_core import PSAError
from psa_core.files import NameTakenError, atomic_path, existing_file, sweep_parts, temporary_folder

KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from psa_core.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "die" else sys.stdin.read()
"""


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")], ids=str)
def test_a_failed_write_is_a_sentence(tmp_path, error):
    with pytest.raises(PSAError, match=r"a\.txt"), atomic_path(tmp_path / "a.txt"):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, PSAError("why"), ZeroDivisionError], ids=str)
def test_whatever_ends_the_block_early_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error if isinstance(error, type) else type(error)), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize(("mode", "umask", "expected"), [(None, 0o022, 0o644), (None, 0o007, 0o660), (0o600, 0, 0o600)])
@pytest.mark.parametrize("replaced", [False, True], ids=["written in place", "written by renaming"])
def test_permissions(tmp_path, mode, umask, expected, replaced):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.txt", mode) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == expected  # before the first byte too
            if replaced:
                temporary.unlink()
            temporary.write_text("whole")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == expected


@pytest.mark.parametrize(
    "name", ["folder", "file/a.txt", "a\0b", "x" * 300, "x." + "y" * 300, "a\ud800.txt"], ids=lambda n: ascii(n[:10])
)
def test_a_path_that_cannot_be_written_is_a_sentence(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(PSAError) as refusal, atomic_path(f"{tmp_path}/{name}") as temporary:
        temporary.write_text("whole")
    str(refusal.value).encode()  # a terminal can show it
    with pytest.raises(PSAError) as refusal:
        existing_file(f"{tmp_path}/{name}/", "test file")
    str(refusal.value).encode()
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


@permissions_bind
def test_a_file_closed_to_reading_is_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(PSAError, match="may not be read"):
        existing_file(tmp_path / "a.txt", "test file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PSAError, match="no test file"):
        existing_file(tmp_path / "pipe", "test file")


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_a_sentence(path):
    with pytest.raises(PSAError), atomic_path(path):
        pass


def test_of_many_writers_of_a_new_file_one_succeeds(tmp_path):
    path = tmp_path / "a.txt"

    def write(number: int) -> bool:
        try:
            with atomic_path(path, replace=False) as temporary:
                temporary.write_text(str(number))
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        succeeded = [number for number, done in enumerate(threads.map(write, range(64))) if done]
    assert path.read_text() == str(*succeeded)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_system_without_links_has_one_winner_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with atomic_path(tmp_path / "a.txt", replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(NameTakenError), atomic_path(tmp_path / "a.txt", replace=False) as temporary:
        temporary.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


def writer(path, ending: str, *within: str) -> tuple[subprocess.Popen, str]:
    """A process in the middle of writing `path`, and the name of its temporary file."""
    process = subprocess.Popen(
        [*within, sys.executable, "-c", KILLED_IN_THE_MIDDLE, path, ending],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_parts_of_the_dead_are_swept_and_of_the_living_kept(tmp_path):
    living, kept = writer(tmp_path / "living.json", "wait")  # first, for a process's first write sweeps
    try:
        dead, left = writer(tmp_path / "dead.json", "die")
        assert dead.wait() == -signal.SIGKILL
        assert sorted(os.listdir(tmp_path)) == sorted([left, kept])
        with atomic_path(tmp_path / "mine.json") as temporary:
            sweep_parts(tmp_path)
            assert sorted(os.listdir(tmp_path)) == sorted([kept, temporary.name])
    finally:
        living.communicate()
    assert sorted(os.listdir(tmp_path)) == ["living.json", "mine.json"]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="this system does not say when a process began")
def test_another_process_of_the_same_number_does_not_keep_a_part(tmp_path):
    with atomic_path(tmp_path / "a.json") as temporary:
        name = temporary.name
    _, host, pid, start, token = name.removesuffix(".json").split("-")
    (tmp_path / f".part-{host}-{pid}-{int(start) - 1}-{token}.json").touch()
    sweep_parts(tmp_path)
    assert os.listdir(tmp_path) == ["a.json"]


UNSHARED = ["unshare", "--pid", "--fork", "--mount-proc"]


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARED, "true"], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="this account may make no container")
def test_parts_of_a_living_process_in_a_container_of_the_same_name_are_kept(tmp_path):
    """There it has a number that is another's here, or nobody's."""
    living, kept = writer(tmp_path / "living.json", "wait", *UNSHARED)
    try:
        sweep_parts(tmp_path)
        assert os.listdir(tmp_path) == [kept]
        os.utime(tmp_path / kept, (time.time() - 4000,) * 2)
        sweep_parts(tmp_path)
        assert os.listdir(tmp_path) == []
    finally:
        living.communicate()


def test_parts_of_unknown_processes_are_swept_when_old_and_nothing_else_is(tmp_path):
    old = [".part-0123456789abcdef.pt", ".part-00000000-12-345-0123456789abcdef"]
    others = [".part-notes", "a.part-0123456789abcdef", "a.json", ".part-0123456789abcdef.d"]
    for name in (*old, *others[:-1]):
        (tmp_path / name).write_text("half")
    (tmp_path / others[-1]).mkdir()
    sweep_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*old, *others])
    for name in os.listdir(tmp_path):
        os.utime(tmp_path / name, (time.time() - 4000,) * 2)
    sweep_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_sweeping_a_folder_that_is_not_there_does_nothing(tmp_path):
    sweep_parts(tmp_path / "absent")
    assert os.listdir(tmp_path) == []


def test_a_temporary_folder_goes_with_its_block_or_its_dead_process(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path / "new") as folder:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "c.txt").write_text("half")
        sweep_parts(folder.parent)
        assert (folder / "a" / "b" / "c.txt").is_file()
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "new") == []
    with temporary_folder(tmp_path) as folder:
        name = folder.name
    assert name.startswith(".part-")
    elsewhere = tmp_path / ".part-00000000-12-345-0123456789abcdef"
    (elsewhere / "a").mkdir(parents=True)
    (elsewhere / "a" / "b.txt").write_text("half")
    for path in (elsewhere, elsewhere / "a"):
        os.utime(path, (time.time() - 4000,) * 2)
    sweep_parts(tmp_path)
    assert elsewhere.is_dir(), "a file in it was written a moment ago"
    os.utime(elsewhere / "a" / "b.txt", (time.time() - 4000,) * 2)
    sweep_parts(tmp_path)
    assert not elsewhere.exists()


def test_no_temporary_folder_where_none_can_be(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(PSAError, match="Nothing can be written"), temporary_folder(tmp_path / "file"):
        pass
