"""Embeddings by User_ID, as they are published."""

from dataclasses import replace

import numpy as np
import pytest

from psa_core import LEVELS, PSAError
from psa_core.encoders.protocol import ProfileEncoder
from psa_core.encoders.stored import StoredEncoder

PEOPLE = [LEVELS["L3"], LEVELS["L5"]]


@pytest.fixture
def folder(tmp_path):
    for number, (profile, shape) in enumerate(zip(PEOPLE, [(4,), (1, 1, 4)], strict=True)):
        np.save(tmp_path / f"{profile.user_id}.npy", np.full(shape, number, np.float32))
    return tmp_path


def test_rows_by_profile_and_by_user_id(folder):
    encoder: ProfileEncoder = StoredEncoder(folder)
    embedding = encoder.encode([PEOPLE[1], PEOPLE[0], PEOPLE[1]])
    assert embedding.vectors.tolist() == [[1.0] * 4, [0.0] * 4, [1.0] * 4]
    assert (embedding.encoder_id, encoder.id, encoder.dim) == (None, None, 4)
    user_ids = [profile.user_id for profile in reversed(PEOPLE)]
    assert StoredEncoder(str(folder)).look_up(user_ids).vectors.tolist() == [[1.0] * 4, [0.0] * 4]


def test_what_is_not_there_is_said(folder, tmp_path):
    encoder = StoredEncoder(folder)
    with pytest.raises(PSAError, match="no folder of profile embeddings"):
        StoredEncoder(tmp_path / "nowhere")
    with pytest.raises(PSAError, match=r"0000001\.npy"):
        encoder.encode([replace(PEOPLE[0], user_id="0000001")])
    with pytest.raises(PSAError, match="no User_ID"):
        encoder.encode([PEOPLE[0], replace(PEOPLE[0], user_id=None)])
    for nobody in ([], None, PEOPLE[0]):
        with pytest.raises(PSAError):
            encoder.encode(nobody)
    with pytest.raises(PSAError):
        encoder.look_up([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PSAError, match="holds no"):
        _ = StoredEncoder(tmp_path / "empty").dim


def test_files_that_do_not_fit(folder):
    encoder = StoredEncoder(folder)
    np.save(folder / f"{PEOPLE[1].user_id}.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(PSAError, match="2 embeddings; one user has one"):
        encoder.encode(PEOPLE)
    np.save(folder / f"{PEOPLE[1].user_id}.npy", np.zeros(5, np.float32))
    with pytest.raises(PSAError, match="different sizes"):
        encoder.encode(PEOPLE)
