"""The profile nodes in a real page: Chromium without a window, on a real server. Run with `make test-browser`."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comfy_versions import installed, name

from psa_core.comfy_server import PACK, ComfyServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
_READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types.PSALoadProfile"


@pytest.fixture(scope="module")
def chromium() -> str:
    found = os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("Chromium was not found; install it (Debian: apt install chromium), or set CHROMIUM_PATH")
    return found


@pytest.fixture(scope="module", params=installed(), ids=name)
def server(request, tmp_path_factory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfyui")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")  # no welcome dialog over ours
    with ComfyServer(request.param, base) as running:
        yield running


@pytest.fixture
def page(server, chromium, tmp_path) -> Iterator["sync_api.Page"]:
    """ComfyUI's page with an empty graph; what its scripts throw in psa.js fails the test."""
    thrown: list[str] = []
    sandbox = [] if os.name == "nt" or os.geteuid() else ["--no-sandbox"]  # which root cannot have
    with sync_api.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            tmp_path / "user-data", executable_path=chromium, args=[*_OFFLINE, *sandbox, "--disable-gpu"]
        )
        page = context.new_page()
        page.on("pageerror", lambda error: thrown.append(error.stack or str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(server.url)
        page.wait_for_function(_READY, timeout=120_000)
        page.evaluate("() => app.graph.clear()")
        yield page
        context.close()
    assert not [stack for stack in thrown if "psa.js" in stack]


def add(page, kind: str) -> None:
    """A node of this kind, as `node` in the page."""
    page.evaluate("(kind) => { window.node = LiteGraph.createNode(kind); app.graph.add(node); }", kind)


def shown(page) -> dict[str, object]:
    """The node's widgets that are not hidden."""
    return page.evaluate("() => Object.fromEntries(node.widgets.filter(w => !w.hidden).map(w => [w.name, w.value]))")


def choose(page, widget: str, value: object) -> None:
    find = "const widget = node.widgets.find(w => w.name === name)"
    page.evaluate(f"([name, value]) => {{ {find}; widget.value = value; widget.callback(value); }}", [widget, value])


def press(page, label: str) -> None:
    page.evaluate("(label) => node.widgets.find(w => w.name.startsWith(label)).callback()", label)


def stored(server) -> dict[str, dict]:
    files = server.base.glob("user/__psa_profiles/*/*.json")
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture
def fill(page) -> Callable[..., "sync_api.Locator"]:
    """Opens the dialog, fills fields in and presses Save; returns the dialog."""

    def fill(**fields: str) -> "sync_api.Locator":
        press(page, "New profile")
        dialog = page.locator("dialog.psa-dialog")
        for field, value in fields.items():
            control = dialog.locator(f"[name={field}]")
            tag = control.evaluate("(control) => control.type")
            if tag == "checkbox":
                control.check()
            elif tag.startswith("select"):
                control.select_option(value)
            else:
                control.fill(value)
        dialog.get_by_role("button", name="Save").click()
        return dialog

    return fill


def closed(dialog) -> None:
    dialog.wait_for(state="detached", timeout=30_000)


def test_a_profile_is_stored_replaced_and_deleted(page, server, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="viewer A", age="7", religion="Islam"))
    page.wait_for_function("() => node.widgets[0].value === 'viewer A'")
    bans = {"Hate", "Propaganda", "Self-Harm", "Sexuality", "Shocking", "Violence"}
    assert set(stored(server)["viewer A"]["Banned_Categories"]) == bans

    closed(fill(name="viewer A", age="40", banned="chosen", ban_self_harm="yes"))
    assert stored(server)["viewer A"]["Age"] == 40
    assert stored(server)["viewer A"]["Banned_Categories"] == ["Self-Harm"]
    assert shown(page)["profile_name"] == "viewer A"
    graph = page.evaluate("async () => JSON.stringify([app.graph.serialize(), (await app.graphToPrompt()).output])")
    assert "viewer A" in graph and "Islam" not in graph and "Self-Harm" not in graph

    press(page, "Delete")
    page.wait_for_function("() => !node.widgets[0].options.values.includes('viewer A')")
    assert not stored(server)
    assert shown(page)["profile_name"] == "viewer A", "another person's profile slipped in"


def test_the_dialog_says_what_is_wrong_and_stays(page, server, fill):
    add(page, "PSALoadProfile")
    dialog = fill(name="../viewer")
    dialog.get_by_text("That profile name cannot be used").wait_for()
    dialog.locator("[name=name]").fill("viewer B")
    dialog.get_by_role("button", name="Save").dblclick()
    closed(dialog)
    assert list(stored(server)) == ["viewer B"]


def test_a_replacement_that_is_declined_changes_nothing(page, server, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="viewer C", age="20"))
    page.evaluate("() => { window.confirm = () => { window.asked = true; return false; }; }")
    dialog = fill(name="viewer C", age="50")
    page.wait_for_function("() => window.asked")
    assert dialog.is_visible() and stored(server)["viewer C"]["Age"] == 20
    page.keyboard.press("Escape")
    closed(dialog)


def test_user_profile_shows_what_counts(page):
    add(page, "PSAUserProfile")
    assert shown(page)["banned"] == "protective" and "ban_hate" not in shown(page)
    choose(page, "banned", "chosen")
    assert "ban_hate" in shown(page)
    choose(page, "preset", "L5")
    assert set(shown(page)) == {"preset"}


def test_by_the_rules_of_the_first_versions_means_the_rules_of_the_prompt(page):
    values = ["custom", 16, "female", "None", "healthy", "healthy", "by the rules", *[False] * 7]
    saved = {"id": 1, "type": "PSAUserProfile", "pos": [0, 0], "size": [270, 200], "widgets_values": values}
    graph = {"version": 0.4, "last_node_id": 1, "last_link_id": 0, "nodes": [saved], "links": []}
    page.evaluate("async (graph) => { await app.loadGraphData(graph); window.node = app.graph.nodes[0]; }", graph)
    assert shown(page)["banned"] == "reference-prompt" and shown(page)["age"] == 16


def test_each_shipped_workflow_opens(page):
    for file in sorted(Path(PACK, "workflows").glob("*.json")):
        graph = json.loads(file.read_text(encoding="utf-8"))
        page.evaluate("async (graph) => { await app.loadGraphData(graph); }", graph)
        types = page.evaluate("() => app.graph.nodes.map(node => node.type)")
        unknown = page.evaluate("(types) => types.filter(type => !LiteGraph.registered_node_types[type])", types)
        assert len(types) == len(graph["nodes"]) and not unknown, file.name
