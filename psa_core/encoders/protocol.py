"""What every profile encoder is."""

from collections.abc import Sequence
from typing import Protocol

from ..profile import UserProfile
from .embedding import UserEmbedding


class ProfileEncoder(Protocol):
    """Turns profiles into embeddings.

    Attributes:
        id: names the encoder and all that its numbers depend on; adapters remember it. `None` where it is not known.
        dim: the width D of an embedding.
    """

    @property
    def id(self) -> str | None: ...

    @property
    def dim(self) -> int: ...

    def encode(self, profiles: Sequence[UserProfile]) -> UserEmbedding:
        """(P, D) float32, a row a profile.

        Raises:
            PSAError: where there is no profile, or one that cannot be encoded.
        """
        ...
