"""The encoder that knows no profile."""

from collections.abc import Sequence

import torch

from ..profile import UserProfile
from .embedding import UserEmbedding


class EveryoneEncoder:
    """Encodes every profile alike, as the one number 1: a global adapter in a PSA adapter's form."""

    id = "everyone-v1"
    dim = 1

    def encode(self, profiles: Sequence[UserProfile]) -> UserEmbedding:
        return UserEmbedding(torch.ones(len(profiles), 1), self.id)
