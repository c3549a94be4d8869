"""Whether permissions bind this account: they bind neither root nor, as bits, anybody on Windows."""

import os
import tempfile

import pytest


def _bind() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o500)
        return os.name != "nt" and not os.access(folder, os.W_OK)


permissions_bind = pytest.mark.skipif(not _bind(), reason="permissions do not bind root, nor anybody on Windows")
