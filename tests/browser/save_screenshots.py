"""Makes the pictures of ComfyUI's page anew: the documents' in docs/images, and the templates' thumbnails.

    python tests/browser/save_screenshots.py [NAME ...]

It needs Chromium and playwright, and draws with PSA Mini. NAME is a picture's without its ending; all are made without.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "support")]

from comfy_versions import installed  # noqa: E402
from graphs import call  # noqa: E402
from in_page import MAKE, find_chromium, on_mini, open_template, opened, wait_for_run  # noqa: E402
from playwright.sync_api import Page  # noqa: E402
from tiny_training import write_split  # noqa: E402

from psa_core.comfy_server import PACK, ComfyServer  # noqa: E402

IMAGES, TEMPLATES = PACK / "docs" / "images", PACK / "workflows"
THUMBNAIL = 900  # pixels
WIDTH = 1200  # pixels; more is lost on a page that is narrower
COLOURS = 96
ROOM = 12  # around what is shown
BARE = {
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
}
"""ComfyUI's settings for a page without what would lie over nodes."""
SHOWN = "(kind) => app.graph.nodes.find(each => each.type === kind).imgs?.every(each => each.complete)"
# Left, top, right and bottom of all nodes on the screen.
PLACE = """() => {
    const corners = app.graph.nodes.map(({ pos, size, flags, _collapsed_width }) => flags.collapsed
        ? [pos[0], pos[1] - 30, pos[0] + _collapsed_width, pos[1]]
        : [pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + size[1]]);
    const all = (choose, at) => choose(...corners.map(each => each[at]));
    const frame = app.canvas.canvas.getBoundingClientRect();
    const onScreen = (x, y) => {
        const [left, top] = app.canvas.ds.convertOffsetToCanvas([x, y]);
        return [left + frame.left, top + frame.top];
    };
    return [...onScreen(all(Math.min, 0), all(Math.min, 1)), ...onScreen(all(Math.max, 2), all(Math.max, 3))];
}"""
VIEWERS = {
    "a girl of ten": {"Age": 10, "Gender": "female"},
    "grandfather": {"Age": 71, "Gender": "male", "Religion": "Islam"},
    "the office": {"Age": 40, "Gender": "female"},
}
PRACTICE = {
    "Pairs to learn from": ["practice", "train", False],
    "Pairs to measure on": ["practice", "val", False],
    "Prompt": ["a circle on a plain wall"],
    "Negative prompt": [""],
    "EmptyLatentImage": [128, 128, 2],
    "KSampler": [5, "fixed", 12, 3, "dpmpp_2m", "normal", 1],
}
"""What docs/training.md sets in the training workflow, by the node's title or class; and the number of steps."""
PRACTICE_STEPS = 150
COMPARE = (
    "() => {"
    + MAKE
    + """    const mini = make("PSALoadMini");
    const compare = make("PSACompare", {
        prompts: "a meadow with a red circle and a heart\\na sea with a yellow square and two bars that cross",
        strengths: "0.5, 1", seed: 1, cfg: 3, steps: 12, scheduler: "normal",
    });
    ["model", "clip", "vae", "adapter"].forEach((input, output) => link(mini, output, compare, input));
    const viewers = ["L1", "L5"].map(preset => make("PSAUserProfile", { preset }));
    viewers.forEach((node, number) => {
        link(node, 0, compare, number ? "profile_2" : "profile");
        node.widgets.find(each => each.name === "preset").callback();
        node.title = `Viewer ${node.widgets[0].value}`;
    });
    ["What is drawn", "What PSA changed"].forEach((title, output) => {
        const table = make("PreviewImage");
        link(compare, output, table, "images");
        table.title = title;
        table.pos = [710, output * 480];
        table.setSize([960, 440]);
    });
    mini.pos = [0, 0];
    mini.setSize([200, mini.size[1]]);
    viewers.forEach((node, number) => { node.pos = [0, 290 + number * 180]; });
    compare.pos = [290, 0];
    compare.setSize([380, 920]);
    app.canvas.ds.scale = 0.8;
    app.canvas.ds.offset = [120, 150];
}"""
)


def six_viewers(page: Page, server: ComfyServer) -> list[float]:
    """As they stand on the page; the grid by itself is the template's thumbnail."""
    open_template(page, "psa_1_start_here")
    run(page, "SaveImage")
    (grid,) = (server.base / "output" / "psa").glob("mini-levels*.png")
    Image.open(grid).convert("RGB").save(TEMPLATES / "psa_1_start_here.jpg", quality=85, optimize=True)
    return page.evaluate(PLACE)


def template(name: str) -> Callable[[Page, ComfyServer], list[float]]:
    """Shows a template as it opens."""

    def show(page: Page, server: ComfyServer) -> list[float]:
        open_template(page, name)
        page.wait_for_timeout(5000)  # what nodes show comes after them
        return page.evaluate(PLACE)

    return show


def panel(page: Page, server: ComfyServer) -> list[float]:
    store_viewers(server, VIEWERS)
    open_template(page, "psa_viewer_mini")
    page.locator(".psa-viewers-tab-button").first.click()
    first = next(iter(VIEWERS))
    page.locator(".psa-viewers").get_by_text(first, exact=True).click()
    page.locator(".psa-viewers .psa-chips span").first.wait_for()
    box = page.locator(".psa-viewers").bounding_box()
    return [0, box["y"] - 40, box["x"] + box["width"], box["y"] + 440]


def store_viewers(server: ComfyServer, viewers: dict[str, dict[str, object]]) -> None:
    for name, fields in viewers.items():
        profile = {"Religion": "None", "Physical_Condition": "healthy", "Mental_Condition": "healthy"}
        profile |= fields | {"Rules": "protective"}
        status, said = call(server, "/psa/profiles", {"name": name, "profile": profile})
        assert status == 200, said


def compare(page: Page, server: ComfyServer) -> list[float]:
    page.evaluate(COMPARE)
    run(page, "PSACompare")
    return page.evaluate(PLACE)


def training(page: Page, server: ComfyServer) -> list[float]:
    """docs/training.md's tutorial on PSA Mini; what its nodes show are pictures of their own."""
    tutorial = (PACK / "docs" / "training.md").read_text(encoding="utf-8")
    (practice_set,) = re.findall(r"```python\n(.*?)```", tutorial, re.DOTALL)
    subprocess.run([sys.executable, "-c", practice_set], cwd=server.base / "input", check=True)

    def practice(graph: dict) -> None:
        on_mini(graph)
        for node in graph["nodes"]:
            node["widgets_values"] = PRACTICE.get(node.get("title", node["type"]), node["widgets_values"])
            if node["type"] == "PSATrain":
                node["widgets_values"][1] = PRACTICE_STEPS

    open_template(page, "psa_train_sd15", practice)
    run(page, "SaveImage")
    for name, title in {"pairs": "Pairs to learn from", "plot": "The curves", "result": "L0 and L5"}.items():
        address = page.evaluate("(title) => app.graph.nodes.find(each => each.title === title).imgs[0].src", title)
        keep(Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB"), f"training-{name}")
    return page.evaluate(PLACE)


def run(page: Page, kind: str) -> None:
    """The open graph, until a node of this kind shows its pictures."""
    page.evaluate("async () => fetch('/history', { method: 'POST', body: JSON.stringify({ clear: true }) })")
    page.evaluate("() => app.queuePrompt(0, 1)")
    wait_for_run(page)
    page.wait_for_function(SHOWN, arg=kind)
    page.wait_for_timeout(5000)  # what says that the run is done goes


def taken(page: Page, place: list[float], width: int) -> Image.Image:
    """What lies at `place`, and a little more, at most so wide."""
    left, top, right, bottom = place
    left, top = max(left - ROOM, 0), max(top - ROOM, 0)
    clip = {"x": left, "y": top, "width": right + ROOM - left, "height": bottom + ROOM - top}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    return image


def keep(image: Image.Image, name: str) -> None:
    """As a thumbnail, where it has a template's name; else as a PNG of few colours."""
    if name in THUMBNAILS:
        image.save(TEMPLATES / f"{name}.jpg", quality=85, optimize=True)
    else:  # an octree keeps the colours of thin links, which the median cut loses
        few = image.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(IMAGES / f"{name}.png", optimize=True)


def list_files(base: Path) -> None:
    """Files and a data set of the names that templates have chosen: to be listed, not to be read."""
    graphs = [json.loads(path.read_text(encoding="utf-8")) for path in TEMPLATES.glob("*.json")]
    models = [model for graph in graphs for model in graph.get("models", [])]
    models += [each for graph in graphs for node in graph["nodes"] for each in node["properties"].get("models", [])]
    for model in models:
        path = base / "models" / model["directory"] / model["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for split in ("train", "val"):
        write_split(base / "input" / "sage", split, range(2), 1)


SHOW: dict[str, Callable[[Page, ComfyServer], list[float]]] = {
    "page-levels": six_viewers,
    "page-viewers": panel,
    "page-compare": compare,
    "words-graph": template("psa_words_mini"),
    "training-screen": training,
}
DRAWN = {"psa_1_start_here", "psa_viewer_mini"}  # their thumbnails are what they draw
THUMBNAILS = {path.stem: template(path.stem) for path in sorted(TEMPLATES.glob("*.json")) if path.stem not in DRAWN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    show = SHOW | THUMBNAILS
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(show)}")
    names = parser.parse_args().names or list(show)
    if unknown := set(names) - set(show):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as base:
        list_files(Path(base))
        with ComfyServer(installed()[-1], base, startup_timeout=600) as server:
            for name in names:
                with tempfile.TemporaryDirectory() as user, opened(server, find_chromium(), Path(user), BARE) as page:
                    place = show[name](page, server)
                    keep(taken(page, place, THUMBNAIL if name in THUMBNAILS else WIDTH), name)


if __name__ == "__main__":
    main()
