"""The structured encoder: a profile's fields as a fixed feature vector. No model, instant, private."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from ..profile import UserProfile, check_profiles
from ..schema import (
    ADULT_AGE,
    AGE_GROUPS,
    CATEGORIES,
    GENDERS,
    MAX_AGE,
    MENTAL_CONDITIONS,
    PHYSICAL_CONDITIONS,
    RELIGIONS,
)
from .embedding import UserEmbedding


class StructuredEncoder:
    """Encodes a profile as 35 numbers, in this order:

    ===== ============================================================
    0     1, so that no profile is the all-zero (unconditional) vector
    1     age / 100
    2     1 for a minor (under 18)
    3-10  age group, one-hot in the order of `AGE_GROUPS`
    11-12 gender, one-hot
    13-16 religion, one-hot
    17-20 physical condition, one-hot
    21-27 mental condition, one-hot
    28-34 each category, alphabetically: +1 banned, -1 allowed
    ===== ============================================================

    The layout is a file format: adapters are trained on it. Another layout gets another `id`.
    """

    id = "structured-v1"
    dim = 35

    def encode(self, profiles: Sequence[UserProfile]) -> UserEmbedding:
        """Return the (P, 35) float32 embedding of P profiles.

        Raises:
            PSAError: where there is no profile, or something else is given.
        """
        check_profiles(profiles)
        return UserEmbedding(torch.tensor([_features(profile) for profile in profiles]), self.id)


class InferredEncoder:
    """Encodes a profile as the first 28 of `StructuredEncoder`'s numbers: what is banned must follow from them."""

    id = "structured-inferred-v1"
    dim = 28

    def encode(self, profiles: Sequence[UserProfile]) -> UserEmbedding:
        """Return the (P, 28) float32 embedding of P profiles.

        Raises:
            PSAError: where there is no profile, or something else is given.
        """
        return UserEmbedding(StructuredEncoder().encode(profiles).vectors[:, : self.dim], self.id)


BY_NAME: Mapping[str, type[StructuredEncoder] | type[InferredEncoder]] = MappingProxyType(
    {"structured": StructuredEncoder, "structured-inferred": InferredEncoder}
)
"""The encoders that need no model, as commands and nodes call them."""


def _features(profile: UserProfile) -> list[float]:
    return [
        1.0,
        profile.age / MAX_AGE,
        float(profile.age < ADULT_AGE),
        *_one_hot(profile.age_group, AGE_GROUPS),
        *_one_hot(profile.gender, GENDERS),
        *_one_hot(profile.religion, RELIGIONS),
        *_one_hot(profile.physical_condition, PHYSICAL_CONDITIONS),
        *_one_hot(profile.mental_condition, MENTAL_CONDITIONS),
        *(1.0 if category in profile.banned_categories else -1.0 for category in CATEGORIES),
    ]


def _one_hot(value, words) -> list[float]:
    return [float(value == word) for word in words]
