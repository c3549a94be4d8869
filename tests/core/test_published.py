"""Real data of the paper's repository. It is not ours to ship: these tests are skipped where it is absent."""

import csv

import numpy as np
import pytest
import torch

from psa_core import LEVELS, PSAAdapter, UserProfile, load_embedding, read_users_csv, save_embedding
from psa_core.profile import CATEGORIES

EMBEDDINGS = ("0000001.npy", "0000002.npy")


@pytest.fixture(scope="module")
def adapter_3584():
    torch.manual_seed(0)
    adapter = PSAAdapter(layer_widths=[320, 640], cross_attention_dim=768, embedding_dim=3584)
    for layer in adapter.psa_adapter:
        torch.nn.init.normal_(layer.to_v_user[0].weight, std=0.02)
    return adapter


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_load_and_go_through_an_adapter(published, adapter_3584, name):
    embedding = load_embedding(published / name)
    assert (len(embedding), embedding.dim, embedding.encoder_id) == (1, 3584, None)
    assert embedding.vectors[0].tolist() == np.load(published / name).tolist()
    tokens = adapter_3584.user_tokens(embedding)
    assert tokens.shape == (1, 1, 768)
    assert [tuple(user.value.shape) for user in adapter_3584.key_values(tokens)] == [(1, 1, 320), (1, 1, 640)]


@pytest.mark.parametrize("shape", [(1, -1), (1, 1, -1)])
def test_a_published_embedding_in_every_shape_in_use_is_the_same(published, tmp_path, shape):
    original = load_embedding(published / EMBEDDINGS[0])
    np.save(tmp_path / "user.npy", original.vectors.numpy().reshape(shape))
    assert torch.equal(load_embedding(tmp_path / "user.npy").vectors, original.vectors)


@pytest.mark.parametrize("shape", [(2, 3584), (2, 1, 3584)])
def test_a_batch_of_published_embeddings_keeps_its_rows(published, adapter_3584, tmp_path, shape):
    rows = [load_embedding(published / name) for name in EMBEDDINGS]
    np.save(tmp_path / "batch.npy", torch.cat([row.vectors for row in rows]).numpy().reshape(shape))
    batch = load_embedding(tmp_path / "batch.npy")
    together = adapter_3584.user_tokens(batch)
    alone = torch.cat([adapter_3584.user_tokens(row) for row in rows])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert not torch.equal(together[0], together[1])


def test_a_published_embedding_survives_our_format(published, tmp_path):
    original = load_embedding(published / EMBEDDINGS[1])
    save_embedding(original, tmp_path / "user.safetensors")
    again = load_embedding(tmp_path / "user.safetensors")
    assert torch.equal(again.vectors, original.vectors)
    assert again.encoder_id is None


def test_all_users_parse_and_round_trip(published):
    profiles = read_users_csv(published / "users.csv")
    with open(published / "users.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(profiles) == len(rows) == 1001
    assert profiles[0].user_id == "0000001"
    assert profiles[-1].user_id == "0001001"
    for profile, row in zip(profiles, rows, strict=True):
        written = profile.to_dict()
        assert {field: str(written[field]) for field in row} == row  # alphabetical order and all
        assert UserProfile.from_dict(written) == profile
        assert set(profile.banned_categories) | set(profile.allowed_categories) == set(CATEGORIES)
    without_religion = sum(row["Religion"] == "None" for row in rows)
    assert without_religion > 0
    assert sum(profile.religion == "None" for profile in profiles) == without_religion


def test_levels_are_rows_of_the_users(published):
    users = {user.user_id: user for user in read_users_csv(published / "users.csv")}
    assert {level: users[profile.user_id] for level, profile in LEVELS.items()} == dict(LEVELS)


def test_levels_are_the_center_users(published):
    """Written by pandas: the religion None is an empty cell there."""
    centers = {user.user_id: user for user in read_users_csv(published / "center_users.csv")}
    assert len(centers) == 5
    assert {LEVELS[level].user_id: LEVELS[level] for level in ("L1", "L2", "L3", "L4", "L5")} == centers
