"""Profiles kept by name: private, whole, and never lost by accident."""

import json
import os
import stat
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager

import pytest

import psa_core.files
import psa_core.profile_store
from psa_core import LEVELS, PSAError, UserProfile
from psa_core.profile_store import ProfileStore

SECRET = UserProfile(47, "female", "Buddhism", "hearing impairment", "sexual assault")
SECRET_WORDS = ("47", "female", "Buddhism", "hearing", "assault", "Propaganda")


@pytest.fixture
def store(tmp_path):
    return ProfileStore(tmp_path / "users" / "default")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_unused_store_is_empty_and_makes_nothing(store):
    assert store.names() == []
    with pytest.raises(PSAError, match="anna"):
        store.load("anna")
    with pytest.raises(PSAError, match="anna"):
        store.delete("anna")
    assert store.stamp("anna") == ()
    assert not store.folder.exists()


def test_save_load_names_delete(store):
    for name, level in (("zoe", "L1"), ("anna", "L5"), ("Max 2 (old).v1", "L0")):
        store.save(name, LEVELS[level])
    assert store.names() == ["Max 2 (old).v1", "anna", "zoe"]
    assert ProfileStore(str(store.folder)).load("anna") == LEVELS["L5"]
    store.delete("anna")
    assert store.names() == ["Max 2 (old).v1", "zoe"]


def test_files_are_sages_json(store):
    store.save("anna", LEVELS["L4"])
    assert json.loads((store.folder / "anna.json").read_text()) == LEVELS["L4"].to_dict()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_and_folder_are_their_owners_alone(store, umask):
    store.folder.mkdir(mode=0o755, parents=True)
    before = os.umask(umask)
    try:
        store.save("anna", SECRET)
        store.save("anna", LEVELS["L0"], overwrite=True)
    finally:
        os.umask(before)
    assert (mode(store.folder), mode(store.folder / "anna.json")) == (0o700, 0o600)


def test_another_profile_of_the_name_is_kept_unless_overwritten(store):
    store.save("anna", SECRET)
    first = store.stamp("anna")
    refusals = set()
    for profile in (LEVELS["L0"], UserProfile.from_dict(SECRET.to_dict())):  # an equal one: guesses learn nothing
        with pytest.raises(PSAError, match="anna") as refusal:
            store.save("anna", profile)
        refusals.add(str(refusal.value))
    assert len(refusals) == 1
    assert store.stamp("anna") == first
    assert store.load("anna") == SECRET
    store.save("anna", LEVELS["L0"], overwrite=True)
    assert store.load("anna") == LEVELS["L0"]
    assert store.stamp("anna") != first


def test_a_failed_save_leaves_the_old_profile_and_nothing_else(store, monkeypatch):
    store.save("anna", SECRET)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(psa_core.files.os, "replace", full_disk)
    with pytest.raises(PSAError, match="No space left"):
        store.save("anna", LEVELS["L0"], overwrite=True)
    assert store.load("anna") == SECRET
    assert os.listdir(store.folder) == ["anna.json"]


BAD_NAMES = [
    "..",
    ".",
    "../anna",
    "..\\anna",
    "a..b",
    "/etc/passwd",
    "C:\\anna",
    "c:anna",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "",
    " ",
    " anna",
    "anna ",
    "anna.",
    ".hidden",
    "-rf",
    "_anna",
    "a" * 101,
    "Ω" * 101,
    "🙂" * 3,
    "𠮷" * 60,  # 240 bytes: no room for an ending
    "CON",
    "nul",
    "Aux.json",
    "com1",
    "LPT9.x",
    "COM¹",
    "a\u202eb",
    "a\ud800",
    "a*b",
    'a"b',
    "a|b",
    "a:b",
    None,
    7,
    b"anna",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_that_are_no_plain_file_names_are_refused(store, tmp_path, name):
    store.save("anna", SECRET)
    for act in (store.load, store.delete, store.stamp, lambda bad: store.save(bad, SECRET, overwrite=True)):
        with pytest.raises(PSAError, match="profile name"):
            act(name)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["anna.json"]


@pytest.mark.parametrize(
    "name", ["Zoë", "Zoe\u0308", "मरियम", "مريم", "李雷", "a", "7", "a" * 100, "𠮷" * 50, "Concord"]
)
def test_names_of_every_script(store, name):
    store.save(name, SECRET)
    assert store.names() == [name]
    assert store.load(name) == SECRET


@pytest.mark.parametrize(
    "name",
    ["émile's", "anna & bob", "O\u2019Brien, 7", "100%", "100%25", "a@b", "what!", "x=1; y", "'t Veld", "#1", "„Ann“"],
)
def test_names_as_people_write_them(store, name):
    store.save(name, SECRET)
    assert store.names() == [name] and store.load(name) == SECRET
    (file,) = os.listdir(store.folder)
    assert all(c.isalnum() or c in " %.()+-_" for c in file)
    store.delete(name)
    assert store.names() == []


def test_a_name_of_signs_alone_may_be_too_long(store):
    with pytest.raises(PSAError, match="profile name"):
        store.save("'" * 80, SECRET)


def test_two_names_never_share_a_file(store):
    names = ["a%27", "a'", "a%2527", "a"]
    for name in names:
        store.save(name, SECRET)
    assert store.names() == sorted(names)


def test_a_copy_and_a_rename_replace_nothing(store):
    store.save("anna", SECRET)
    store.save("bert", LEVELS["L0"])
    for act in (store.copy, store.rename):
        with pytest.raises(PSAError, match="'bert' is taken"):
            act("anna", "bert")
        with pytest.raises(PSAError, match="nobody"):
            act("nobody", "zoe")
        with pytest.raises(PSAError, match="profile name"):
            act("anna", "../zoe")
    store.copy("anna", "anna's twin")
    store.rename("anna", "zoe")
    assert store.names() == ["anna's twin", "bert", "zoe"]
    assert store.load("zoe") == store.load("anna's twin") == SECRET
    if os.name != "nt":
        assert all(mode(path) == 0o600 for path in store.folder.iterdir())


def test_what_is_damaged_can_be_renamed(store):
    store.save("anna", SECRET)
    (store.folder / "anna.json").write_bytes(b"{")
    store.rename("anna", "old anna")
    assert (store.folder / "old anna.json").read_bytes() == b"{" and store.names() == ["old anna"]


def test_names_lists_only_what_can_be_loaded(store):
    store.save("anna", SECRET)
    for stray in (".part-0123.json", "..json", ".json", "note.txt", "a..b.json", "anna.json.bak"):
        (store.folder / stray).write_text("{}")
    assert store.names() == ["anna"]


DAMAGED = [
    b"",
    b"{",
    b"\xff\xfe",
    b"\0" * 100,
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"Age": ' + b"9" * 10_000 + b"}",
    json.dumps(SECRET.to_dict())[:-30].encode(),
    json.dumps(SECRET.to_dict() | {"Religion": "Zoroastrianism"}).encode(),
    json.dumps(SECRET.to_dict() | {"Age": 470}).encode(),
    json.dumps(SECRET.to_dict() | {"Age_Group": "children"}).encode(),
    json.dumps(SECRET.to_dict() | {"Banned_Categories": "Buddhism"}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named_and_nothing_of_it_shown(store, content):
    store.save("anna", SECRET)
    path = store.folder / "anna.json"
    path.write_bytes(content)
    with pytest.raises(PSAError, match="anna") as caught:
        store.load("anna")
    shown = "".join(traceback.format_exception(caught.value))
    assert caught.value.__suppress_context__  # a JSON error carries the whole document
    allowed = str(caught.value).partition("must be one of")[0]
    assert not any(word in allowed for word in (*SECRET_WORDS, "Zoro", str(store.folder)))
    assert not any(word in shown for word in ("Zoro", "470", "47,"))
    with pytest.raises(PSAError):
        store.save("anna", SECRET)
    assert path.read_bytes() == content  # what is damaged may still be saved by hand
    store.save("anna", SECRET, overwrite=True)
    assert store.load("anna") == SECRET


def test_a_file_that_has_a_name_twice_is_told_so(store):
    store.save("anna", SECRET)
    path = store.folder / "anna.json"
    path.write_text(path.read_text().rstrip("}\n ") + ', "Banned_Categories": []}')
    with pytest.raises(PSAError, match="has a name twice"):
        store.load("anna")


def test_a_damaged_file_can_be_deleted(store):
    store.save("anna", SECRET)
    (store.folder / "anna.json").write_bytes(b"{")
    store.delete("anna")
    assert store.names() == []


def test_a_folder_in_the_way_is_told_in_a_sentence(store):
    (store.folder / "anna.json").mkdir(parents=True)
    for act in (store.load, store.delete, lambda name: store.save(name, SECRET, overwrite=True)):
        with pytest.raises(PSAError, match="anna"):
            act("anna")


def test_a_file_in_the_folders_place_is_told_in_a_sentence(tmp_path):
    (tmp_path / "users").write_text("")
    store = ProfileStore(tmp_path / "users")
    for act in (store.names, lambda: store.save("anna", SECRET)):
        with pytest.raises(PSAError):
            act()


@pytest.mark.parametrize("thing", [None, {"Age": 3}, "L0"])
def test_only_profiles_are_stored(store, thing):
    with pytest.raises(PSAError):
        store.save("anna", thing)
    assert store.names() == []


KILLED = """
import os, signal, sys
import psa_core.files
import psa_core.profile_store
from psa_core import LEVELS
from psa_core.profile_store import ProfileStore
psa_core.files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
ProfileStore(sys.argv[1]).save("anna", LEVELS["L5"], overwrite=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("act", ["names", "save", "delete"])
def test_what_a_killed_save_left_is_removed_by_the_next_call(store, act):
    store.save("anna", SECRET)
    subprocess.run([sys.executable, "-c", KILLED, store.folder], check=False, timeout=120)
    (part,) = (path for path in store.folder.iterdir() if path.name != "anna.json")
    assert json.loads(part.read_text()) == LEVELS["L5"].to_dict()  # a whole profile
    if act == "names":
        assert store.names() == ["anna"]
    elif act == "save":
        store.save("bert", LEVELS["L1"])
    else:
        store.delete("anna")
    assert not part.exists()
    assert all(name in ("anna.json", "bert.json") for name in os.listdir(store.folder))


SAVES = """
import sys
import threading
from psa_core import LEVELS, PSAError
from psa_core.profile_store import ProfileStore
store = ProfileStore(sys.argv[1])
print("ready", flush=True)
for name in sys.stdin:
    try:
        store.save(name.strip(), LEVELS[sys.argv[2]])
        print("saved", flush=True)
    except PSAError:
        print("taken", flush=True)
"""


def test_of_two_processes_that_save_one_name_one_hears_saved(store):
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVES, store.folder, level],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for level in ("L0", "L5")
    ]
    assert [saver.stdout.readline() for saver in savers] == ["ready\n"] * 2
    for number in range(100):
        for saver in savers:
            saver.stdin.write(f"name {number}\n")
            saver.stdin.flush()
        answers = [saver.stdout.readline().strip() for saver in savers]
        assert sorted(answers) == ["saved", "taken"]
        winner = ("L0", "L5")[answers.index("saved")]
        assert store.load(f"name {number}") == LEVELS[winner]
    for saver in savers:
        saver.communicate()
    assert len(os.listdir(store.folder)) == 100


def test_what_is_saved_during_a_rename_is_not_removed_with_the_old_name(store, monkeypatch):
    """The old name is saved anew, as Save Profile does, between the two halves of its rename."""
    store.save("anna", SECRET)
    copied, saved, begun = threading.Event(), threading.Event(), psa_core.profile_store.atomic_path

    @contextmanager
    def copying(*arguments, **options):
        with begun(*arguments, **options) as temporary:
            yield temporary
        if threading.current_thread() is renamer:
            copied.set()
            saved.wait(0.5)  # the other goes first, unless it has to wait

    def save() -> None:
        copied.wait()
        store.save("anna", LEVELS["L0"], overwrite=True)
        saved.set()

    monkeypatch.setattr("psa_core.profile_store.atomic_path", copying)
    renamer = threading.Thread(target=store.rename, args=("anna", "zoe"))
    saver = threading.Thread(target=save)
    for thread in (renamer, saver):
        thread.start()
    for thread in (renamer, saver):
        thread.join()
    assert store.load("zoe") == SECRET
    assert store.load("anna") == LEVELS["L0"]
