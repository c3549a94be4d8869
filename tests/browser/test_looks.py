"""The first template opens, draws and shows its pictures: both renderers, light and dark, English and Korean."""

import json

import pytest
from in_page import wait_for_run

from psa_core.comfy_server import PACK

FULL = 1_800_000  # ms; eighteen pictures, where others use the processors too
OPEN = "async ([graph, name]) => { await app.loadGraphData(graph, true, true, name, { openSource: 'template' }); }"


def looks(palette: str, vue: bool, language: str) -> dict[str, object]:
    return {"Comfy.ColorPalette": palette, "Comfy.VueNodes.Enabled": vue, "Comfy.Locale": language}


@pytest.mark.parametrize(
    "settings",
    [
        looks("dark", False, "en"),
        looks("light", False, "ko"),
        looks("light", True, "en"),
        looks("dark", True, "ko"),
    ],
    ids=["dark-classic-en", "light-classic-ko", "light-html-en", "dark-html-ko"],
)
def test_the_first_template_opens_runs_and_shows_its_pictures(settings, page, server, tmp_path):
    vue, language = settings["Comfy.VueNodes.Enabled"], settings["Comfy.Locale"]
    if vue and server.comfyui.version < (0, 4):
        pytest.skip("this ComfyUI does not draw nodes as HTML")
    name = "psa_1_start_here"
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate("async () => fetch('/history', { method: 'POST', body: JSON.stringify({ clear: true }) })")
    for node in graph["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 2  # steps
    page.evaluate(OPEN, [graph, name])
    page.screenshot(path=tmp_path / "open.png")
    assert page.evaluate("() => LiteGraph.vueNodesMode ?? false") is vue
    titles = page.evaluate("() => Object.fromEntries(app.graph.nodes.map(each => [each.type, each.title]))")
    names = json.loads((PACK / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert (titles["PSALabelGrid"] == names["PSALabelGrid"]["display_name"]) is (language == "ko")
    page.locator("[data-testid='queue-button']").first.click()
    wait_for_run(page, FULL)
    save = next(node["id"] for node in graph["nodes"] if node["type"] == "SaveImage")
    if vue:
        page.locator(f"[data-node-id='{save}'] img").first.wait_for()
    else:
        page.wait_for_function("([id]) => app.graph.getNodeById(id).imgs?.length", arg=[save])
    page.screenshot(path=tmp_path / "drawn.png")
    assert not page.errors
