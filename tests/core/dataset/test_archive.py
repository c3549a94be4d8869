"""An archive becomes a data set, or a sentence and nothing on the disk, whatever is in it."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pair_sets import take_out, write_pair_set
from tiny_training import user, write_split

from psa_core import PSAError
from psa_core.dataset import archive, read_split
from psa_core.dataset.archive import folder_name, import_archive
from psa_core.dataset.pair_files import PAIRS
from psa_core.files import sweep_parts


@pytest.fixture
def source(tmp_path) -> Path:
    write_split(tmp_path / "source" / "practice", "train", range(2), 2)
    return tmp_path / "source"


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "input").mkdir()
    return tmp_path / "input"


def packed(tmp_path: Path, folder: Path, more=(), method: int = zipfile.ZIP_DEFLATED) -> Path:
    """All that is in `folder`, and more: (name or ZipInfo, content) each."""
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", method) as opened:
        for file in sorted(folder.rglob("*")):
            opened.write(file, file.relative_to(folder).as_posix())
        for member, content in more:
            opened.writestr(member, content)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(path: Path, header: bytes, offset: int, to, size: int = 2, last: bool = False) -> None:
    """Change a number in the headers of that kind, or in the last one."""
    content = bytearray(path.read_bytes())
    places = [content.rindex(header)] if last else [found.start() for found in re.finditer(re.escape(header), content)]
    for place in (place + offset for place in places):
        number = int.from_bytes(content[place : place + size], "little")
        content[place : place + size] = to(number).to_bytes(size, "little")
    path.write_bytes(content)


def refused(path: Path, place: Path, match: str) -> None:
    before = files(place)
    with pytest.raises(PSAError, match=match) as refusal:
        import_archive(path, place, "practice.zip")
    said = str(refusal.value)
    assert said.startswith("The archive practice ") and said.endswith(".") and ".part-" not in said
    assert said.isprintable() and len(said) < 600
    assert files(place) == before and sorted(path.name for path in place.iterdir()) == sorted(before)


@pytest.mark.parametrize("around", ["source", "practice", "both"])
def test_a_folder_around_the_data_set_is_taken_off(tmp_path, source, place, around):
    folder = {"source": source, "practice": source / "practice", "both": source.parent / "outer"}[around]
    if around == "both":
        shutil.move(source, folder / "inner")
    practice = next(folder.parent.rglob("train")).parent
    imported = import_archive(packed(tmp_path, folder), place, "My set.ZIP")
    assert imported.folder == place / "My set"
    assert files(imported.folder) == files(practice)
    assert imported.said.startswith("train: 2 pairs, 2 users")
    assert [path.name for path in place.iterdir()] == ["My set"]


def test_paths_that_begin_with_a_dot(tmp_path, source, place):
    more = [("./", b""), ("./practice/", b""), ("./practice/a.txt", b"x")]
    imported = import_archive(packed(tmp_path, source, more), place, "practice.zip")
    assert files(imported.folder) == files(source / "practice") | {"a.txt": b"x"}


def test_both_forms_and_what_lies_beside_them(tmp_path, place):
    write_pair_set(tmp_path / "set", {"train": (range(4), 3), "val": (range(4), 2)}, harmless=2)
    more = [("LICENSE", b"CC0"), ("notes/read me.md", b"#"), ("users.csv", b"User_ID\n")]
    imported = import_archive(packed(tmp_path, tmp_path / "set", more), place, "words.zip")
    assert set(files(imported.folder)) == {*files(tmp_path / "set"), *(name for name, _ in more)}
    for name in ("train", "val", "harmless"):
        assert len(read_split(imported.folder, name)) == len(read_split(tmp_path / "set", name))
        assert f"{name}: {len(read_split(imported.folder, name))} pairs" in imported.said


def test_what_systems_leave_in_archives_is_passed_over_and_the_rest_is_named(tmp_path, source, place):
    left = [
        "__MACOSX/practice/train/._0.png",
        "practice/.DS_Store",
        "practice/train/Thumbs.db",
        "practice/.lists/.gone",
    ]
    others = [("practice/run.py", b"import os"), ("practice/page.html", b"<script>")]
    more = [*((name, b"x") for name in left), *others]
    imported = import_archive(packed(tmp_path, source, more), place, "practice.zip")
    assert files(imported.folder) == files(source / "practice")
    assert imported.said.endswith("practice/run.py, practice/page.html.")


def test_nothing_is_replaced_or_mixed(tmp_path, source, place):
    path = packed(tmp_path, source)
    (place / "practice").mkdir()
    (place / "practice (1)").write_text("a file")
    names = [import_archive(path, place, "practice.zip").folder.name for _ in range(2)]
    assert names == ["practice (2)", "practice (3)"]
    assert not [*(place / "practice").iterdir()] and (place / "practice (1)").read_text() == "a file"


@pytest.mark.parametrize(
    ("file_name", "folder"),
    [
        ("practice.zip", "practice"),
        ("Übung 사진 (2).Zip", "Übung 사진 (2)"),
        ("../../etc/passwd.zip", "etc_passwd"),
        ("C:\\sets\\a.zip", "C__sets_a"),
        ("a\0b\n.zip", "a_b"),
        ("con.zip", "data set"),
        ("  .hidden. .zip", "hidden"),
        ("x" * 300 + ".zip", "x" * 60),
        ("\ud800.zip", "data set"),
        ("😀.zip", "data set"),
    ],
)
def test_the_folders_name_is_the_archives_made_safe(file_name, folder):
    assert folder_name(file_name) == folder


@pytest.mark.parametrize("name", ["", "a", ".zip", "..zip", "a.tar.gz", "a.zip.exe", "zip"])
def test_other_archives_are_refused_by_their_names(tmp_path, place, name):
    with pytest.raises(PSAError, match=r"\.zip"):
        import_archive(tmp_path / "nothing", place, name)


NAMES = [
    "../evil.png", "practice/../../evil.png", "/evil.png", "//host/evil.png", "practice//evil.png",
    "C:evil.png", "C:/evil.png", "practice\\evil.png", "..\\evil.png", "practice/evil.png\0.txt", "practice/evil\n.png",
    "practice/CON.png", "practice/aux/evil.png", "practice/com¹.txt", "practice/evil.png.", "practice/evil /a.png",
    "practice/evil.png:stream.png", "practice/conout$.png", *(f"practice/evil{sign}.png" for sign in '?*<>|"'),
    f"practice/{'x' * 300}.png", f"{'a/' * 40}evil.png", "practice/..", "/",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_lead_elsewhere_are_refused(tmp_path, source, place, name):
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name  # as no honest archiver writes it
    path = packed(tmp_path, source, [(info, b"x")])
    refused(path, place, "cannot be unpacked under its name")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "other", ["practice/Train/METADATA.jsonl", "practice/train/metadata.jsonl", "./practice/train/metadata.jsonl"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused(tmp_path, source, place, other):
    refused(packed(tmp_path, source, [(other, b"{}")]), place, "Two of its files")


def test_two_names_that_differ_by_their_normal_form_are_one(tmp_path, source, place):
    more = [("practice/é.png", b"x"), ("practice/e\u0301.png", b"x")]
    refused(packed(tmp_path, source, more), place, "Two of its files")


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, source, place):
    refused(packed(tmp_path, source, [("practice/a.png", b"x"), ("practice/a.png/b.png", b"x")]), place, "unpacked")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, source, place, kind):
    info = zipfile.ZipInfo("practice/train/link.png")
    info.external_attr = (kind | 0o777) << 16
    refused(packed(tmp_path, source, [(info, b"/etc/passwd")]), place, "is a link")


@pytest.mark.parametrize("name", ["inner.zip", "train/pictures.tar.gz", "a.7Z"])
def test_an_archive_in_the_archive_is_refused(tmp_path, source, place, name):
    refused(packed(tmp_path, source, [(f"practice/{name}", b"x")]), place, "another archive")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_refused(tmp_path, source, place, method):
    """Python's zipfile unpacks a piece of these whole, however large."""
    refused(packed(tmp_path, source, method=method), place, "unusual way")


@pytest.mark.parametrize("bit", [0x1, 0x40, 0x2000])
def test_encrypted_members_are_refused(tmp_path, source, place, bit):
    path = packed(tmp_path, source)
    change(path, b"PK\1\2", 8, lambda flags: flags | bit, last=True)
    refused(path, place, "without a password")


def test_a_bomb_that_says_its_size(tmp_path, source, place):
    refused(packed(tmp_path, source, [("practice/a.txt", bytes(80_000_000))]), place, "more than 100 times")


def test_a_bomb_that_does_not_say_its_size(tmp_path, source, place, monkeypatch):
    """The list of files says that it is short."""
    path = packed(tmp_path, source, [("practice/a.txt", bytes(80_000_000))])
    change(path, b"PK\1\2", 24, lambda _: 1000, size=4, last=True)
    refused(path, place, "damaged")
    monkeypatch.setattr(zipfile.ZipInfo, "file_size", property(lambda _: 0, lambda *_: None), raising=False)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: io.BytesIO(bytes(80_000_000)))
    refused(path, place, "more than 100 times")


def test_too_many_files(tmp_path, source, place, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_FILES", 9)
    refused(
        packed(tmp_path, source, ((f"practice/{number}.txt", b"") for number in range(9))), place, "more than 9 files"
    )


def test_a_list_of_files_that_fills_the_memory_is_not_read(tmp_path, source, place, monkeypatch):
    monkeypatch.setattr(archive, "_LONGEST_LIST", 1 << 17)
    info = zipfile.ZipInfo("practice/a.txt")
    info.extra = bytes(60_000)
    more = [(info, b"")]
    for number in range(3):
        other = zipfile.ZipInfo(f"practice/{number}.txt")
        other.comment = bytes(60_000)
        more.append((other, b""))
    refused(packed(tmp_path, source, more), place, "files")


def test_a_full_disk(tmp_path, source, place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    refused(packed(tmp_path, source), place, "no room")


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 500, b"PK\5\6" + bytes(18), b"PK\5\6" + b"\xff" * 18])
def test_what_is_no_archive(tmp_path, place, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    refused(path, place, "damaged|no data set")


def test_an_archive_that_was_cut_off_or_flipped(tmp_path, source, place):
    path = packed(tmp_path, source)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, place, "damaged")
    middle = content.index(b"PK\1\2") // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    refused(path, place, "damaged")


@pytest.mark.parametrize(
    ("remove", "match"),
    [
        ("train/*", "no folder such as train"),
        ("train/metadata.jsonl", "no folder such as train"),
        ("train/*.png", r"train/metadata\.jsonl, line 1: .*there is no file"),
    ],
)
def test_what_is_no_data_set_is_refused_and_said_why(tmp_path, source, place, remove, match):
    for path in (source / "practice").glob(remove):
        path.unlink()
    refused(packed(tmp_path, source), place, match)


def test_bad_records_are_counted_and_nothing_of_a_profile_is_said(tmp_path, source, place):
    metadata = source / "practice" / "train" / "metadata.jsonl"
    person = user(0).to_dict()
    metadata.write_text(metadata.read_text() + f'{{"user_data": {{"Religion": "{person["Religion"]}"}}}}\n')
    imported = import_archive(packed(tmp_path, source), place, "practice.zip")
    assert "1 records left out" in imported.said and "lacks chosen" in imported.said
    assert not {str(person["Religion"]), str(person["User_ID"])} & set(imported.said.replace(".", " ").split())


def set_aside(folder: Path, name: str) -> None:
    used = {json.loads(line)["pair"] for line in (folder / name / PAIRS).read_text().splitlines()}
    pairs = [json.loads(line) for line in (folder / PAIRS).read_text().splitlines()]
    pairs = [pair | {"set_aside": "odd"} if pair["id"] in used else pair for pair in pairs]
    (folder / PAIRS).write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))


@pytest.mark.parametrize("take_away", [set_aside, take_out])
def test_a_split_of_which_nothing_is_left_is_no_damage(tmp_path, place, take_away):
    """A judge may set all of `val` aside; the rest is as good as before."""
    write_pair_set(tmp_path / "set", {"train": (range(4), 3), "val": (range(4), 2)})
    take_away(tmp_path / "set", "val")
    imported = import_archive(packed(tmp_path, tmp_path / "set"), place, "words.zip")
    said = imported.said.splitlines()
    assert said[0].startswith("train: 12 pairs") and said[-1].startswith("val: nothing of it is left")
    assert files(imported.folder) == files(tmp_path / "set")


def test_names_that_a_mac_packs_without_saying_that_they_are_utf_8(tmp_path, source, place):
    train = source / "practice" / "train"
    for path in train.glob("*.png"):
        path.rename(train / path.name.replace("square", "사각형"))
    (train / "metadata.jsonl").write_text((train / "metadata.jsonl").read_text().replace("square", "사각형"))
    path = packed(tmp_path, source)
    for header, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        change(path, header, offset, lambda flags: flags & ~0x800)
    imported = import_archive(path, place, "practice.zip")
    assert files(imported.folder) == files(source / "practice")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_a_kill_leaves_is_swept(tmp_path, source, place):
    path = packed(tmp_path, source)
    script = (
        "import os, signal, sys; from pathlib import Path; from psa_core.dataset import archive\n"
        "archive._read = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        "archive.import_archive(Path(sys.argv[1]), Path(sys.argv[2]), 'practice.zip')"
    )
    assert subprocess.run([sys.executable, "-c", script, path, place]).returncode == -9
    (left,) = place.iterdir()
    assert left.name.startswith(".part-") and len(files(left)) == 5
    sweep_parts(place)
    assert not [*place.iterdir()]
