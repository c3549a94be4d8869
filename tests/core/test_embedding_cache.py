"""The cache of embeddings: private, whole, and silent about who is in it."""

import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from damage import flipped
from permissions import permissions_bind

from psa_core import LEVELS, PSAError, UserEmbedding, UserProfile, load_embedding
from psa_core.encoders.cache import EmbeddingCache

PROFILE = LEVELS["L2"]
ID = "some-encoder:1"


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache")


def numbers(seed: int = 0) -> UserEmbedding:
    return UserEmbedding(torch.randn(1, 16, generator=torch.Generator().manual_seed(seed)), ID)


def entries(cache: EmbeddingCache) -> list:
    return sorted(path for path in cache.folder.iterdir() if path.name != "secret")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_saved_is_found_again_to_the_bit(cache):
    assert cache.load(ID, "profile", PROFILE) is None
    cache.save(numbers(), "profile", PROFILE)
    found = EmbeddingCache(str(cache.folder)).load(ID, "profile", PROFILE)
    assert torch.equal(found.vectors, numbers().vectors)
    assert found.encoder_id == ID


def test_saving_again_replaces(cache):
    cache.save(numbers(0), "profile", PROFILE)
    cache.save(numbers(1), "profile", PROFILE)
    assert torch.equal(cache.load(ID, "profile", PROFILE).vectors, numbers(1).vectors)
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(PROFILE, age=18),
        replace(PROFILE, gender="female"),
        replace(PROFILE, religion="None"),
        replace(PROFILE, physical_condition="healthy"),
        replace(PROFILE, mental_condition="healthy"),
        replace(PROFILE, banned_categories=()),
    ],
    ids=["age", "gender", "religion", "body", "mind", "banned"],
)
def test_every_field_counts(cache, other):
    cache.save(numbers(), "profile", PROFILE)
    assert cache.load(ID, "profile", other) is None


def test_encoder_and_who_bans_count_and_the_user_id_does_not(cache):
    cache.save(numbers(), "profile", PROFILE)
    assert cache.load("some-encoder:2", "profile", PROFILE) is None
    assert cache.load(ID, "language model", PROFILE) is None
    for user_id in (None, "7654321"):
        assert cache.load(ID, "profile", replace(PROFILE, user_id=user_id)) is not None


def test_nothing_on_disk_tells_of_the_profile(cache):
    profile = UserProfile(47, "female", "Buddhism", "hearing impairment", "sexual assault", user_id="1234567")
    cache.save(numbers(), "profile", profile)
    (entry,) = entries(cache)
    assert len(entry.stem) == 64 and set(entry.stem) <= set("0123456789abcdef")
    for path in cache.folder.iterdir():
        for word in ("1234567", "female", "Buddhism", "hearing", "assault", "Propaganda", ID):
            assert word.encode() not in path.read_bytes()


def test_two_folders_have_no_name_in_common(tmp_path):
    names = set()
    for folder in ("a", "b"):
        cache = EmbeddingCache(tmp_path / folder)
        cache.save(numbers(), "profile", PROFILE)
        names |= {entry.name for entry in entries(cache)}
    assert len(names) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_all_of_it_is_its_owners_alone(cache, umask):
    before = os.umask(umask)
    try:
        cache.save(numbers(), "profile", PROFILE)
    finally:
        os.umask(before)
    assert mode(cache.folder) == 0o700
    assert {mode(path) for path in cache.folder.iterdir()} == {0o600}
    assert (cache.folder / "secret").stat().st_size == 32


def test_a_damaged_entry_is_never_trusted_and_gives_way(cache):
    cache.save(numbers(), "profile", PROFILE)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    last_byte = bytes([*whole[:-1], whole[-1] ^ 1])  # still a finite number
    for damaged in [b"", whole[:50], whole[:-1], last_byte, *flipped(whole, count=100, seed=0)]:
        entry.write_bytes(damaged)
        found = cache.load(ID, "profile", PROFILE)
        assert found is None or torch.equal(found.vectors, numbers().vectors)
    entry.write_bytes(last_byte)
    assert load_embedding(entry).dim == 16  # a whole file, for all that its format can tell
    assert cache.load(ID, "profile", PROFILE) is None
    cache.save(numbers(), "profile", PROFILE)
    assert torch.equal(cache.load(ID, "profile", PROFILE).vectors, numbers().vectors)


def test_an_entry_under_anothers_name_is_not_trusted(cache):
    cache.save(numbers(0), "profile", PROFILE)
    (first,) = entries(cache)
    content = first.read_bytes()
    cache.save(numbers(1), "profile", LEVELS["L5"])
    (second,) = set(entries(cache)) - {first}
    second.write_bytes(content)
    assert cache.load(ID, "profile", LEVELS["L5"]) is None


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_secret_is_replaced(cache, content):
    cache.save(numbers(), "profile", PROFILE)
    (cache.folder / "secret").write_bytes(content)
    assert cache.load(ID, "profile", PROFILE) is None
    cache.save(numbers(), "profile", PROFILE)
    assert cache.load(ID, "profile", PROFILE) is not None
    assert (cache.folder / "secret").stat().st_size == 32


def test_processes_that_start_together_share_one_secret(cache):
    script = (
        "import sys, torch; from psa_core import LEVELS, UserEmbedding; "
        "from psa_core.encoders.cache import EmbeddingCache; sys.stdin.readline(); "
        "EmbeddingCache(sys.argv[1]).save(UserEmbedding(torch.ones(1, 4), 'e'), 'profile', LEVELS[sys.argv[2]])"
    )
    levels = ("L0", "L1", "L2", "L3")
    running = [
        subprocess.Popen([sys.executable, "-c", script, cache.folder, level], stdin=subprocess.PIPE) for level in levels
    ]
    for process in running:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    assert [process.wait(120) for process in running] == [0] * 4
    for process in running:
        process.stdin.close()
    assert all(cache.load("e", "profile", LEVELS[level]) is not None for level in levels)
    assert len(list(cache.folder.iterdir())) == 5  # and no temporary file is left


@permissions_bind
def test_a_closed_folder_is_one_sentence(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PSAError, match="permissions"):
        EmbeddingCache(tmp_path / "closed" / "cache").save(numbers(), "profile", PROFILE)


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PSAError, match="cache"):
        EmbeddingCache(tmp_path / "file").load(ID, "profile", PROFILE)


def test_only_one_profile_by_a_known_encoder_is_kept(cache):
    for embedding in (UserEmbedding(torch.ones(2, 4), ID), UserEmbedding(torch.ones(1, 4))):
        with pytest.raises(PSAError):
            cache.save(embedding, "profile", PROFILE)
    assert not cache.folder.exists()
