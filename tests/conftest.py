"""What all tests share."""

from pathlib import Path

import pytest
from published import published_folder


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published data; a test that needs it is skipped where it is absent."""
    folder = published_folder()
    if not folder.is_dir():
        pytest.skip(f"the published data is not at {folder}; set PSA_SHARED to the folder that holds 'published'")
    return folder
