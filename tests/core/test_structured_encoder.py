"""The structured encoder's layout is a file format: adapters are trained on it."""

from dataclasses import replace

import pytest
import torch

from psa_core import LEVELS, PSAError, StructuredEncoder, UserProfile
from psa_core.encoders.structured import InferredEncoder


def test_layout():
    child = UserProfile(5, "female", "None", "intellectual disability", "depression", ("Hate", "Violence"))
    expected = [
        *(1.0, 0.05, 1.0),
        *(0, 1, 0, 0, 0, 0, 0, 0),  # age group
        *(0, 1),  # gender
        *(0, 0, 0, 1),  # religion
        *(0, 0, 1, 0),  # physical condition
        *(1, 0, 0, 0, 0, 0, 0),  # mental condition
        *(-1, 1, -1, -1, -1, -1, 1),  # categories
    ]
    embedding = StructuredEncoder().encode([child])
    assert embedding.vectors.tolist() == [pytest.approx(expected)]
    assert (
        (embedding.encoder_id, embedding.dim) == ("structured-v1", 35) == (StructuredEncoder.id, StructuredEncoder.dim)
    )


def test_inferred_is_the_same_without_the_bans():
    people = [LEVELS["L3"], replace(LEVELS["L3"], banned_categories=())]
    embedding = InferredEncoder().encode(people)
    assert (
        (embedding.encoder_id, embedding.dim)
        == ("structured-inferred-v1", 28)
        == (InferredEncoder.id, InferredEncoder.dim)
    )
    assert torch.equal(embedding.vectors, StructuredEncoder().encode(people).vectors[:, :28])
    assert torch.equal(*embedding.vectors)
    with pytest.raises(PSAError):
        InferredEncoder().encode([])


def test_a_batch_is_its_profiles_and_levels_differ():
    profiles = list(LEVELS.values())
    batch = StructuredEncoder().encode(profiles).vectors
    for row, profile in zip(batch, profiles, strict=True):
        assert torch.equal(row, StructuredEncoder().encode([profile]).vectors[0])
    assert len({tuple(row) for row in batch.tolist()}) == len(profiles)


def test_the_user_id_is_no_feature():
    one, two = (UserProfile(30, "male", user_id=user_id) for user_id in ("0000001", "0000002"))
    assert torch.equal(StructuredEncoder().encode([one]).vectors, StructuredEncoder().encode([two]).vectors)


@pytest.mark.parametrize("given", [[], LEVELS["L0"], [LEVELS["L0"], None], ["L0"], None])
def test_anything_but_profiles_is_refused(given):
    with pytest.raises(PSAError):
        StructuredEncoder().encode(given)
