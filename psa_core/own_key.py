"""A person's own random key, in their state folder: what is hashed under it tells nobody else anything.

A viewer is one of a few: whoever has a plain hash of what somebody bans, or of a profile, can try them all.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import PSAError
from .files import NameTakenError, atomic_path

KEY_BYTES = 32


def own_key() -> bytes:
    """The person's key, made when it is first asked for.

    Raises:
        PSAError: where there is no home folder, or the key cannot be read or is damaged.
    """
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):
        raise PSAError(
            "Hashes of what is asked and drawn for viewers need a key in your home folder, and you have none. Set "
            "XDG_STATE_HOME to a folder."
        )
    path = Path(state) / "psa" / "answers.key"
    with _using(path):
        is_there = path.exists()
    if not is_there:
        with suppress(NameTakenError), atomic_path(path, mode=0o600, replace=False) as temporary:
            temporary.write_bytes(secrets.token_bytes(KEY_BYTES))  # unless another process was faster
    with _using(path):
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise PSAError(
            f"The key {path} is damaged. Delete it: what was kept under it is asked again, and pictures are drawn into "
            "another folder."
        )
    return key


def keyed_hash(key: bytes, value: Any) -> str:
    """64 hex digits that stand for JSON-compatible data, and tell nothing of it without the key."""
    return hmac.new(key, json.dumps(value).encode(), hashlib.sha256).hexdigest()


@contextmanager
def _using(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PSAError(f"The key {path} cannot be read: {error.strerror}. Check its folder and permissions.") from error
