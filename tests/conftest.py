"""What all tests share."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from published import published_folder

os.environ["PSA_TRAINING_KEY"] = "0123456789abcdef" * 2  # of all that the tests train, here and in servers: to compare
# The same examples in each run, and none may fail for a slow machine.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published data; a test that needs it is skipped where it is absent."""
    folder = published_folder()
    if not folder.is_dir():
        pytest.skip(f"the published data is not at {folder}; set PSA_SHARED to the folder that holds 'published'")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_state_folder(tmp_path_factory) -> Iterator[None]:
    """No test writes into the state folder of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker of a parallel run gets whole files, and all of one ComfyUI's tests: they share its server."""
    from xdist.scheduler import LoadScopeScheduling

    class WholeServers(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            version = re.search(r"[\[-](v\d+\.\d+\.\d+)[\]-]", nodeid)
            return version[1] if version else nodeid.split("::")[0]

    return WholeServers(config, log)
