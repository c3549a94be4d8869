"""Files are written whole or not at all."""

import os
import stat

import pytest
from safetensors import SafetensorError

from psa_core import PSAError
from psa_core.files import atomic_path, existing_file


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


@pytest.mark.parametrize("name", ["folder", "file/a.txt", "a\0b", "x" * 300, "x." + "y" * 300], ids=lambda n: n[:10])
def test_a_path_that_cannot_be_written_is_a_sentence(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(PSAError), atomic_path(f"{tmp_path}/{name}") as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
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
