"""What a list may name inside a folder: the one rule for training and evaluating."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psa_core import PSAError
from psa_core.files import inside, shown


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
