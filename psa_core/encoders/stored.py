"""Embeddings kept in a folder, one `{User_ID}.npy` a user: the published kind."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from ..errors import PSAError
from ..profile import UserProfile, check_profiles
from .embedding import UserEmbedding, load_embedding


class StoredEncoder:
    """Looks embeddings up by User_ID; what made them is not known.

    Args:
        folder: holds `{User_ID}.npy`, float, shape (D,), (1, D) or (1, 1, D).

    Raises:
        PSAError: where there is no such folder.
    """

    id = None

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if "\0" in str(folder) or not self.folder.is_dir():
            raise PSAError(f"There is no folder of profile embeddings at {folder}.")

    @cached_property
    def dim(self) -> int:
        first = min(self.folder.glob("*.npy"), default=None)
        if first is None:
            raise PSAError(f"The folder of profile embeddings {self.folder} holds no {{User_ID}}.npy.")
        return load_embedding(first).dim

    def encode(self, profiles: Sequence[UserProfile]) -> UserEmbedding:
        """Return the (P, D) float32 embedding of P profiles, found by their User_ID alone.

        Raises:
            PSAError: as `look_up` does, and where there is no profile.
        """
        check_profiles(profiles)
        return self.look_up([profile.user_id for profile in profiles])

    def look_up(self, user_ids: Sequence[str | None]) -> UserEmbedding:
        """Return the (P, D) float32 embedding of P users, where nothing but their User_ID is known.

        Raises:
            PSAError: where there is no user, or one without a User_ID; naming the first file that is missing, damaged
                or of several users; where two are of different sizes.
        """
        if not user_ids:
            raise PSAError("There is no user to look up. Give at least one User_ID.")
        if None in user_ids:
            raise PSAError("A profile has no User_ID, by which stored embeddings are found. Add it.")
        rows = [self._row(user_id) for user_id in user_ids]
        if len({row.shape for row in rows}) > 1:
            raise PSAError(f"The embeddings in {self.folder} are of different sizes. Make them with one encoder.")
        return UserEmbedding(torch.cat(rows))

    def _row(self, user_id: str | None) -> torch.Tensor:
        stored = load_embedding(self.folder / f"{user_id}.npy")
        if len(stored) != 1:
            raise PSAError(f"{user_id}.npy holds {len(stored)} embeddings; one user has one.")
        return stored.vectors
