"""Embeddings kept on disk under names that say nothing of the profile."""

import hashlib
import hmac
import json
import secrets
from contextlib import suppress
from pathlib import Path

from ..errors import PSAError
from ..files import NameTakenError, atomic_path
from ..profile import UserProfile
from .embedding import UserEmbedding, load_embedding, save_embedding

_SECRET_BYTES = 32


class EmbeddingCache:
    """A private folder of embeddings, one file a profile.

    There are few profiles, so a plain hash of one could be reversed by trying them all. File names are
    HMAC-SHA256 under a random key that is the folder's own (file `secret`): without it they tell
    nothing, and two folders have no name in common. The folder has the mode 0700, its files 0600.

    In the place of its encoder's id a file has a digest of its name and its numbers: a damaged file, and one
    in another's place, counts as absent.

    Args:
        folder: where the files lie; made when it is first used.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def load(self, encoder_id: str, banned_by: str, profile: UserProfile) -> UserEmbedding | None:
        """The (1, D) embedding that was saved for these three, or `None`: not saved, or damaged since."""
        name = _name(self._secret(), encoder_id, banned_by, profile)
        try:
            stored = load_embedding(self._path(name))
        except PSAError:
            return None
        if stored.encoder_id != _digest(name, stored):
            return None
        return UserEmbedding(stored.vectors, encoder_id)

    def save(self, embedding: UserEmbedding, banned_by: str, profile: UserProfile) -> None:
        """Keep the (1, D) `embedding` of `profile`, in place of what was kept before.

        Raises:
            PSAError: where the folder cannot be written.
        """
        if len(embedding) != 1 or embedding.encoder_id is None:
            raise PSAError("The cache keeps the embedding of one profile, by an encoder that is known.")
        name = _name(self._secret(), embedding.encoder_id, banned_by, profile)
        save_embedding(UserEmbedding(embedding.vectors, _digest(name, embedding)), self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _secret(self) -> bytes:
        path = self.folder / "secret"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            if not path.exists():
                with suppress(NameTakenError), atomic_path(path, mode=0o600, replace=False) as temporary:
                    temporary.write_bytes(secrets.token_bytes(_SECRET_BYTES))  # unless another process was faster
            secret = path.read_bytes()
        except OSError as error:
            raise PSAError("The embedding cache's folder cannot be used. Check its permissions.") from error
        if len(secret) != _SECRET_BYTES:  # damaged: what was saved under the old one cannot be found again
            secret = secrets.token_bytes(_SECRET_BYTES)
            with atomic_path(path, mode=0o600) as temporary:
                temporary.write_bytes(secret)
        return secret


def _name(secret: bytes, encoder_id: str, banned_by: str, profile: UserProfile) -> str:
    fields = {key: value for key, value in profile.to_dict().items() if key != "User_ID"}
    message = json.dumps([encoder_id, banned_by, fields], sort_keys=True)
    return hmac.new(secret, message.encode(), hashlib.sha256).hexdigest()


def _digest(name: str, embedding: UserEmbedding) -> str:
    return hashlib.sha256(name.encode() + embedding.vectors.numpy().astype("<f4").tobytes()).hexdigest()
