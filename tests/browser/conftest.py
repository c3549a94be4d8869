"""A real page: Chromium without a window, on a real server. Run with `make test-browser`."""

import os
import shutil
from collections.abc import Iterator

import pytest
from comfy_versions import installed, name

from psa_core.comfy_server import ComfyServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
_PATIENCE = 180_000  # ms; a busy machine takes its time
_READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types.PSALoadProfile"


@pytest.fixture(scope="session")
def chromium() -> str:
    found = os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("Chromium was not found; install it (Debian: apt install chromium), or set CHROMIUM_PATH")
    return found


@pytest.fixture(scope="session", params=installed(), ids=name)
def server(request, tmp_path_factory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfyui")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")  # no welcome dialog over ours
    with ComfyServer(request.param, base) as running:
        yield running


@pytest.fixture
def page(server, chromium, tmp_path) -> Iterator["sync_api.Page"]:
    """ComfyUI's page with an empty graph; what ours throw fails the test."""
    thrown: list[str] = []
    sandbox = [] if os.name == "nt" or os.geteuid() else ["--no-sandbox"]  # which root cannot have
    with sync_api.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            tmp_path / "user-data",
            executable_path=chromium,
            args=[*_OFFLINE, *sandbox, "--disable-gpu"],
            timeout=_PATIENCE,
        )
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        page.on("pageerror", lambda error: thrown.append(error.stack or str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(server.url)
        page.wait_for_function(_READY, timeout=_PATIENCE)
        page.evaluate("() => app.graph.clear()")
        yield page
        context.close()
    assert not [stack for stack in thrown if "comfyui-psa" in stack]
