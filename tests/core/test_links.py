"""What a list may name inside a folder: the one rule for training and evaluating."""

import os
from pathlib import Path

import pytest
from hostile_files import at_once
from hypothesis import given
from hypothesis import strategies as st
from pair_sets import write_pair_set
from tiny_training import write_split

from psa_core import PSAError
from psa_core.concepts.answers import Answer as Written
from psa_core.concepts.answers import AnswerLog
from psa_core.dataset import read_split
from psa_core.dataset.answers import ANSWERS, Answer
from psa_core.files import NOT_THROUGH_LINKS, inside, shown
from psa_core.judges.kept import Answers
from psa_core.locks import locked_folder
from psa_core.review import AnswerBook


@pytest.fixture
def folder(tmp_path):
    for name in ("data/train/a.png", "data/train/sub/b.png", "data/pictures/c.png", "other/d.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "data" / "train"


@pytest.mark.parametrize("name", ["a.png", "./a.png", "sub/b.png", "sub/../a.png", "sub//b.png"])
def test_files_inside(folder, name):
    assert inside(folder, name).read_text() == "x"


@pytest.mark.parametrize(
    "name",
    ["", None, 3, ["a.png"], "a\0.png", "..", "../pictures/c.png", "sub/../../pictures/c.png", "/etc/passwd", "C:a.png",
     "C:\\a.png", "\\\\host\\a.png", "b.png", "sub", ".", "x" * 300, "\ud800", "/".join("a" * 5000)],
)  # fmt: skip
def test_everything_else_is_refused(folder, name):
    with pytest.raises(PSAError) as caught:
        inside(folder, name)
    str(caught.value).encode("cp1252", "strict")
    assert len(str(caught.value)) < 400


def test_links(folder):
    (folder / "in.png").symlink_to("sub/b.png")
    (folder / "beside.png").symlink_to("../pictures/c.png")
    (folder / "out.png").symlink_to("../../other/d.png")
    (folder / "folder").symlink_to("../../other")
    (folder / "dead.png").symlink_to("nothing.png")
    (folder / "loop.png").symlink_to("loop.png")
    assert inside(folder, "in.png") == folder / "in.png"
    assert inside(folder, "beside.png", folder.parent) == folder / "beside.png"
    for name, root in (("beside.png", None), ("out.png", folder.parent), ("folder/d.png", folder.parent)):
        with pytest.raises(PSAError, match="leads out of its folder"):
            inside(folder, name, root)
    with pytest.raises(PSAError, match="no file dead"):
        inside(folder, "dead.png")
    with pytest.raises(PSAError, match="cannot be a file's path"):
        inside(folder, "loop.png")


def test_a_folder_that_is_itself_a_link_leads_out_no_further(folder, tmp_path):
    (folder.parent / "val").symlink_to("train")
    assert inside(folder.parent / "val", "a.png", folder.parent).read_text() == "x"
    (folder.parent / "test").symlink_to(tmp_path / "other")
    assert inside(folder.parent / "test", "d.png").read_text() == "x"  # whoever names a folder may name a link
    for root in (folder.parent, tmp_path / "data"):
        with pytest.raises(PSAError, match="test is a link that leads out"):
            inside(folder.parent / "test", "d.png", root)


@pytest.mark.parametrize("form", ["compact", "sage"])
def test_a_split_that_is_a_link_leads_out_no_more_than_its_pictures(tmp_path, form):
    if form == "compact":
        write_pair_set(tmp_path / "set", {"train": (range(2), 2)})
    else:
        write_split(tmp_path / "set", "train", range(2), 2)
    split = tmp_path / "set" / "train"
    split.rename(tmp_path / "set" / "own")
    split.symlink_to("own")
    assert len(read_split(tmp_path / "set", "train")) > 1
    split.unlink()
    (tmp_path / "set" / "own").rename(tmp_path / "theirs")
    split.symlink_to(tmp_path / "theirs")
    with pytest.raises(PSAError, match="train is a link that leads out"):
        read_split(tmp_path / "set", "train")


def test_the_hubs_cache(folder, tmp_path):
    snapshot = tmp_path / "hub" / "datasets--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "hub" / "datasets--a--b" / "blobs"
    others = tmp_path / "hub" / "datasets--c--d" / "blobs"
    for place in (snapshot / "train", blobs, others):
        place.mkdir(parents=True)
    for place in (blobs, others):
        (place / "0000").write_text("x")
    (snapshot / "train" / "a.png").symlink_to("../../../blobs/0000")
    (snapshot / "train" / "b.png").symlink_to("../../../../datasets--c--d/blobs/0000")
    (snapshot / "c.png").symlink_to("../../blobs/0000")
    link = tmp_path / "sage"
    link.symlink_to(snapshot)
    for root in (snapshot, link):
        assert inside(root / "train", "a.png", root).read_text() == "x"
        assert inside(root, "c.png").read_text() == "x"
        with pytest.raises(PSAError, match="leads out"):
            inside(root / "train", "b.png", root)


@pytest.mark.parametrize("name", ["dataset.json", "users.jsonl", "pairs.jsonl", "train/pairs.jsonl", "answers.jsonl"])
def test_a_data_sets_lists_lead_out_no_more_than_its_pictures(tmp_path, name):
    write_pair_set(tmp_path / "set", {"train": (range(2), 2)})
    AnswerBook(tmp_path / "set").add(Answer("0" * 16, (), "a", "b", "left"))
    path = tmp_path / "set" / name
    path.rename(path.with_name("own"))
    path.symlink_to("own")
    assert len(read_split(tmp_path / "set", "train")) == 4
    path.unlink()
    path.with_name("own").rename(tmp_path / "theirs")
    path.symlink_to(tmp_path / "theirs")
    with pytest.raises(PSAError, match="is a link that leads out"):
        read_split(tmp_path / "set", "train")


@pytest.mark.skipif(not NOT_THROUGH_LINKS, reason="this system opens links always")
def test_nothing_is_written_through_a_link_in_somebodys_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    target, folder = tmp_path / "theirs", tmp_path / "folder"
    folder.mkdir()
    target.touch()
    for name in (".lock", ANSWERS, "r.answers"):
        (folder / name).symlink_to(target)
    with pytest.raises(PSAError, match="cannot be written"), locked_folder(folder, "testing in"):
        pass
    with pytest.raises(PSAError, match="cannot be written"):
        AnswerBook(folder).add(Answer("0" * 16, (), "a", "b", "left"))
    with pytest.raises(PSAError, match="cannot be kept"):
        Answers(folder / "r.answers").keep("name", True)
    assert target.read_bytes() == b""


@pytest.mark.skipif(not NOT_THROUGH_LINKS, reason="this system opens links always")
def test_a_link_to_nothing_makes_no_file_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    elsewhere, path = tmp_path / "theirs", tmp_path / "answers"
    log, kept, book = AnswerLog(path), Answers(path), AnswerBook(tmp_path)  # a link that comes later
    path.symlink_to(elsewhere)
    (tmp_path / ANSWERS).symlink_to(elsewhere)
    with pytest.raises(PSAError, match="cannot be kept"):
        log.keep("key", Written("answer"), {})
    with pytest.raises(PSAError, match="cannot be kept"):
        kept.keep("name", True)
    with pytest.raises(PSAError, match="cannot be written"):
        book.add(Answer("0" * 16, (), "a", "b", "left"))
    with pytest.raises(PSAError, match="is no file"):
        AnswerLog(path)
    assert not elsewhere.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_answers_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "answers"
    log, kept = AnswerLog(path), Answers(path)
    os.mkfifo(path)
    for fails in (lambda: AnswerLog(path), lambda: Answers(path)):
        with pytest.raises(PSAError, match="no file"):
            fails()
    for keep in (lambda: log.keep("key", Written("answer"), {}), lambda: kept.keep("name", True)):
        with pytest.raises(PSAError, match="cannot be kept"):
            keep()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("what", ["pipe", "link"])
def test_what_a_data_set_says_of_lists_that_go_is_a_file_of_its_own(tmp_path, what):
    """It is read before the data set is, and what it names is removed."""
    write_pair_set(tmp_path / "set", {"train": (range(2), 2)})
    gone = tmp_path / "set" / ".lists" / ".gone"
    gone.parent.mkdir()
    if what == "pipe":
        os.mkfifo(gone)
    else:
        (tmp_path / "theirs").write_text('["users.jsonl"]')
        gone.symlink_to(tmp_path / "theirs")
    with at_once():
        assert len(read_split(tmp_path / "set", "train")) == 4
    assert not gone.parent.exists() and (tmp_path / "set" / "users.jsonl").is_file()


def test_a_name_that_is_no_text_is_refused_also_where_there_is_such_a_file(folder):
    name = os.fsdecode(b"\xff.png")
    try:
        (folder / name).write_text("x")
    except OSError:
        pytest.skip("no file of this system can have such a name")
    with pytest.raises(PSAError, match="no text in UTF-8"):
        inside(folder, name)


@given(st.text(st.characters(codec=None), max_size=300))
def test_any_name_is_a_file_or_a_sentence(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "empty"
    folder.mkdir(exist_ok=True)
    with pytest.raises(PSAError) as caught:
        inside(folder, name)
    str(caught.value).encode()


@given(st.text(st.characters(codec=None), max_size=300))
def test_what_is_shown_fits_a_line_of_any_terminal(text):
    plain = shown(text, 40)
    assert plain.isprintable() and len(plain) <= 43
    plain.encode()


def test_a_plain_name_is_shown_as_it_is():
    assert shown(str(Path("sub", "ein Bild.png"))) == str(Path("sub", "ein Bild.png"))
