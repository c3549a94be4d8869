"""Templates open so that they can be read, and run in each look: both renderers, light and dark, en and ko."""

import json
import shutil
from itertools import combinations

import pytest
from in_page import on_mini, open_template, set_widgets, wait_for_run
from shipped import WORDS_ON_MINI

from psa_core.comfy_server import PACK
from psa_core.mini.dataset import Sizes, write_dataset

FULL = 1_800_000  # ms; eighteen pictures, where others use the processors too
NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
# By node, its left, top, right and bottom in the graph, with its title.
BOXES = """() => Object.fromEntries(app.graph.nodes.map(node => {
    const name = `${node.type} ${node.id}`;
    const html = document.querySelector(`[data-node-id='${node.id}']`)?.getBoundingClientRect();
    if (html) return [name, [html.left, html.top, html.right, html.bottom].map(each => each / app.canvas.ds.scale)];
    const [[x, y], [width, height]] = [node.pos, node.size];
    return [name, [x, y - LiteGraph.NODE_TITLE_HEIGHT, x + width, node.collapsed ? y : y + height]];
}))"""
SOCKETS = """() => app.graph.nodes.find(each => each.type === "PSAEncode").inputs
    .filter(each => each.name.startsWith("profile")).map(each => each.localized_name ?? each.name)"""
SAID = """() => Object.fromEntries(app.graph.nodes.map(node => {
    const widget = node.widgets?.find(each => each.name === "psa_result");
    return [node.type, widget && !widget.hidden ? widget.element.textContent : ""];
}))"""
TRAIN_ON_MINI = {
    "PSATrain": {"steps": 2, "preview_every": 1},
    "EmptyLatentImage": {"width": 128, "height": 128},
    "KSampler": {"steps": 2},
}
RUNS = {"psa_words_mini": WORDS_ON_MINI, "psa_train_sd15": TRAIN_ON_MINI}
"""Workflows between data and an adapter, and inputs by node class that make them short."""
SPEAKING = {"PSAConcepts", "PSACheckDataset", "PSASaveAdapter"}
SHOWING = {"PSABuildDataset": "temp", "PSALoadDataset": "temp", "PSATrain": "_curves", "PSAEvaluate": "temp"}
"""What the address of the picture holds, by the class of the node that shows it."""
SMALLER = {"psa_1_start_here": 2, "psa_viewer_mini": 2}
"""Workflows that need no file and draw at once, and the steps that they are run with."""


def looks(palette: str, vue: bool, language: str) -> dict[str, object]:
    return {"Comfy.ColorPalette": palette, "Comfy.VueNodes.Enabled": vue, "Comfy.Locale": language}


@pytest.fixture(
    params=[
        looks("dark", False, "en"),
        looks("light", False, "ko"),
        looks("light", True, "en"),
        looks("dark", True, "ko"),
    ],
    ids=["dark-classic-en", "light-classic-ko", "light-html-en", "dark-html-ko"],
)
def settings(request, server):
    if request.param["Comfy.VueNodes.Enabled"] and server.comfyui.version < (0, 4):
        pytest.skip("this ComfyUI does not draw nodes as HTML")
    return request.param


def covered(page) -> list[tuple[str, str]]:
    """Pairs of nodes of which one lies over the other."""
    boxes = page.evaluate(BOXES)

    def overlap(one: str, other: str) -> bool:
        (left, top, right, bottom), (x0, y0, x1, y1) = boxes[one], boxes[other]
        return left < x1 - 1 and x0 < right - 1 and top < y1 - 1 and y0 < bottom - 1

    return [pair for pair in combinations(boxes, 2) if overlap(*pair)]


def test_templates_open_readable_and_no_node_covers_another(page, tmp_path):
    too_far, one_over_the_other = [], {}
    for name in NAMES:
        open_template(page, name)
        page.wait_for_timeout(1000)  # what nodes show comes after them
        page.screenshot(path=tmp_path / f"{name}.png")
        if page.evaluate("() => app.canvas.low_quality"):  # words are left out then
            too_far.append(name)
        one_over_the_other[name] = covered(page)
    assert not too_far
    assert not any(one_over_the_other.values()), one_over_the_other


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("name", SMALLER)
def test_a_template_runs_and_shows_its_pictures(name, settings, page, server, tmp_path):
    def smaller(graph: dict) -> None:
        for node in graph["nodes"]:
            if node["type"] == "KSampler":
                node["widgets_values"][2] = SMALLER[name]  # steps
            if node["type"] == "PSALoadProfile":
                node["widgets_values"] = ["guest"]

    vue, language = settings["Comfy.VueNodes.Enabled"], settings["Comfy.Locale"]
    graph = open_template(page, name, smaller)
    assert page.evaluate("() => LiteGraph.vueNodesMode ?? false") is vue
    titles = page.evaluate("() => Object.fromEntries(app.graph.nodes.map(each => [each.type, each.title]))")
    names = json.loads((PACK / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert (titles["PSALabelGrid"] == names["PSALabelGrid"]["display_name"]) is (language == "ko")
    sockets = {socket.rstrip("_ 2345678") for socket in page.evaluate(SOCKETS)}
    assert sockets == {"프로필" if language == "ko" else "profile"}
    page.locator("[data-testid='queue-button']").first.click()
    wait_for_run(page, FULL)
    save = next(node["id"] for node in graph["nodes"] if node["type"] == "SaveImage")
    if vue:
        page.locator(f"[data-node-id='{save}'] img").first.wait_for()
    else:
        page.wait_for_function("([id]) => app.graph.getNodeById(id).imgs?.length", arg=[save])
    page.screenshot(path=tmp_path / "drawn.png")
    assert covered(page) == []
    assert not page.errors


@pytest.fixture
def sage(server) -> None:
    """A data set of that name, and nothing that another test began to build or to train."""
    for begun in ("input/sage", "input/psa_datasets", "user/__psa_training"):
        shutil.rmtree(server.base / begun, ignore_errors=True)
    few = Sizes(6, 2, train=8, val=4, test_seen=1, test_unseen=1, harmless=1, held_out_users=1, test_held_out=1)
    write_dataset(server.base / "input" / "sage", sizes=few)


@pytest.mark.usefixtures("sage")
@pytest.mark.parametrize("name", RUNS)
def test_nodes_of_a_training_say_and_show_what_they_did_and_have_room_for_it(name, settings, page, tmp_path):
    open_template(page, name, on_mini)
    set_widgets(page, RUNS[name])
    page.locator("[data-testid='queue-button']").first.click()
    wait_for_run(page, FULL)
    page.wait_for_timeout(2000)  # pictures come after words
    page.screenshot(path=tmp_path / "ran.png")
    said = page.evaluate(SAID)
    assert [kind for kind in (SPEAKING | SHOWING.keys()) & said.keys() if not said[kind]] == []
    assert said["PSATrain"].startswith("All 2 steps are done.")
    for kind in SHOWING.keys() & said.keys():
        number = page.evaluate("(kind) => app.graph.nodes.find(each => each.type === kind).id", kind)
        if settings["Comfy.VueNodes.Enabled"]:
            shown = [each.get_attribute("src") for each in page.locator(f"[data-node-id='{number}'] img").all()]
        else:
            shown = page.evaluate("(number) => app.graph.getNodeById(number).imgs.map(each => each.src)", number)
        assert len(shown) == 1 and SHOWING[kind] in shown[0], (kind, shown)
    assert covered(page) == []
    assert not page.errors
