"""ComfyUI's page in a Chromium without a window, and what tests do with a node in it; it is `node` there."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright import sync_api

from psa_core.comfy_server import PACK, ComfyServer

PATIENCE = 600_000
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
# What is not there: the network, and what a new user has not made. And ComfyUI 0.33 asks for its own graph too early.
_NOT_OURS = ("net::ERR", "status of 404", "graph accessed before initialization")
_OPEN = "async ([graph, name]) => { await app.loadGraphData(graph, true, true, name, { openSource: 'template' }); }"
MAKE = """
    const make = (kind, values = {}) => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        for (const [name, value] of Object.entries(values)) node.widgets.find(each => each.name === name).value = value;
        return node;
    };
    const link = (from, output, to, input) =>
        from.connect(output, to, to.inputs.findIndex(each => each.name === input));
"""
"""For scripts that wire a graph: `make` adds a node, `link` connects an output, by its number, to an input, by name."""
_READY = """() => window.LiteGraph?.registered_node_types.PSALoadProfile
    && window.app?.extensionManager?.workflow?.activeWorkflow && app.graph"""


def find_chromium() -> str | None:
    return os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def opened(
    server: ComfyServer, chromium: str, user_data: Path, settings: Mapping[str, object] | None = None
) -> Iterator[sync_api.Page]:
    """The page with an empty graph, for a user with these settings of ComfyUI's.

    `page.thrown` has the stacks of what was thrown in it, `page.errors` what its console called an error, but for
    what it could not load: what is elsewhere (there is no network), and what a new user does not have.
    """
    stored = server.base / "user" / "default" / "comfy.settings.json"
    stored.parent.mkdir(parents=True, exist_ok=True)
    no_welcome = {"Comfy.TutorialCompleted": True}  # its dialog would lie over ours
    stored.write_text(json.dumps(no_welcome | dict(settings or {})), encoding="utf-8")
    sandbox = [] if os.name == "nt" or os.geteuid() else ["--no-sandbox"]  # which root cannot have
    with sync_api.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            user_data,
            executable_path=chromium,
            args=[*_OFFLINE, *sandbox, "--disable-gpu"],
            viewport={"width": 1920, "height": 1080},
            timeout=PATIENCE,
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.thrown, page.errors = [], []
        page.on("pageerror", lambda error: page.thrown.append(error.stack or str(error)))
        page.on("console", lambda said: said.type == "error" and _counts(said.text) and page.errors.append(said.text))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(server.url)
        page.wait_for_function(_READY, timeout=PATIENCE)
        page.evaluate("() => app.graph.clear()")
        yield page
        context.close()


def open_template(page, name: str, change: Callable[[dict], None] = lambda graph: None) -> dict:
    """As from the template browser; `change` may alter the graph before. Returns what was opened."""
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    change(graph)
    page.evaluate(_OPEN, [graph, name])
    return graph


def on_mini(graph: dict) -> None:
    """Its checkpoint becomes PSA Mini."""
    for node in graph["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node |= {"type": "PSALoadMini", "widgets_values": [], "properties": {}}


def set_widgets(page, values: Mapping[str, Mapping[str, object]]) -> None:
    """Give widgets of the graph's nodes other values, by node class and name."""
    page.evaluate(
        """(values) => {
            for (const node of app.graph.nodes)
                for (const [name, value] of Object.entries(values[node.type] ?? {}))
                    node.widgets.find(each => each.name === name).value = value;
        }""",
        values,
    )


def wait_for_run(page, timeout: float = PATIENCE) -> None:
    """Until a run of the server's history is complete; a failed one is an AssertionError."""
    for _ in range(int(timeout / 500)):  # Chromium is told of no promise in wait_for_function
        runs = page.evaluate("async () => Object.values(await (await fetch('/history')).json())")
        failed = [each["status"] for each in runs if each["status"]["status_str"] == "error"]
        assert not failed, failed
        if any(each["status"]["completed"] for each in runs):
            return
        page.wait_for_timeout(500)
    raise AssertionError("no run is complete")


def _counts(text: str) -> bool:
    return not any(each in text for each in _NOT_OURS)


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


def wait_for_words(page, words: str, timeout: float = PATIENCE) -> None:
    """Until the node shows them."""
    text = "() => node.widgets.map(w => w.element?.textContent ?? '').join(' ')"
    page.wait_for_function(f"(words) => ({text})().includes(words)", arg=words, timeout=timeout)
