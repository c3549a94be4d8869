"""A real page: Chromium without a window, on a real server. Run with `make test-browser`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from comfy_versions import installed, name

from psa_core.comfy_server import ComfyServer

pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")

from graphs import call, forget
from in_page import find_chromium, opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

_STARTUP = 600  # s; a busy machine takes its time


@pytest.fixture(scope="session")
def chromium() -> str:
    found = find_chromium()
    if found is None:
        pytest.skip("Chromium was not found; install it (Debian: apt install chromium), or set CHROMIUM_PATH")
    return found


@pytest.fixture(scope="session", params=installed(), ids=name)
def server(request, tmp_path_factory) -> Iterator[ComfyServer]:
    with ComfyServer(request.param, tmp_path_factory.mktemp("comfyui"), startup_timeout=_STARTUP) as running:
        yield running


@pytest.fixture
def settings() -> dict[str, object]:
    """ComfyUI's settings of the user whose page it is; a test may ask for others."""
    return {}


@pytest.fixture
def page(server, chromium, settings, tmp_path) -> Iterator["Page"]:
    """ComfyUI's page with an empty graph; what ours throw fails the test."""
    forget(server)  # what another test ran is run again, not taken from the cache
    call(server, "/history", {"clear": True})  # of which `wait_for_run` awaits the first
    with opened(server, chromium, tmp_path / "user-data", settings) as page:
        yield page
        thrown = [stack for stack in page.thrown if "comfyui-psa" in stack]
    assert not thrown


@pytest.fixture
def guest(server) -> None:
    """A stored viewer of that name: a child, so that the rules ban something. Ask for it before the page is opened."""
    profile = {"Age": 10, "Gender": "female", "Religion": "None"}
    profile |= {"Physical_Condition": "healthy", "Mental_Condition": "healthy", "Banned_Categories": ["Sexuality"]}
    call(server, "/psa/profiles/guest", method="DELETE")
    status, said = call(server, "/psa/profiles", {"name": "guest", "profile": profile})
    assert status == 200, said
