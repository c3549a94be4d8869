"""Makes the pictures of the nodes' help pages anew, each node as it is wired: web/docs/images/<NodeId>.png.

    python tests/browser/save_help_pictures.py              all of them
    python tests/browser/save_help_pictures.py PSATrain     some

It needs Chromium and playwright. Nothing is drawn: the nodes stand idle.
"""

import math
import sys
import tempfile
from pathlib import Path

from save_screenshots import BARE, PLACE, keep, store_viewers

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "support")]

from comfy_versions import installed  # noqa: E402
from in_page import MAKE, find_chromium, open_template, opened  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from psa_core.comfy_server import PACK, ComfyServer  # noqa: E402

PAGES = PACK / "web" / "docs"
VIEWER = "viewer A"
TALLEST = 260  # of the nodes beside the one that is shown, where a workflow says which they are
IN_TEMPLATES = {
    "PSAApply": "psa_viewer_mini",
    "PSABuildDataset": "psa_words_mini",
    "PSACheckDataset": "psa_words_mini",
    "PSAConcepts": "psa_words_mini",
    "PSAEncode": "psa_viewer_mini",
    "PSAEvaluate": "psa_words_mini",
    "PSALabelGrid": "psa_viewer_mini",
    "PSALoadMini": "psa_viewer_mini",
    "PSALoadProfile": "psa_viewer_mini",
    "PSASaveAdapter": "psa_words_mini",
    "PSATrain": "psa_words_mini",
}
"""By node, the workflow that has it: it is shown with what it is linked to there."""
WIRED = {
    "PSAAudience": """
        PSALoadMini.adapter > PSAAudience.adapter
        PSALoadProfile.profile > PSAAudience.profile
        PSAUserProfile.profile > PSAAudience.profile_2
        PSAAudience.effect > PSAApply.effect
    """,
    "PSACompare": """
        PSALoadMini.model > PSACompare.model
        PSALoadMini.clip > PSACompare.clip
        PSALoadMini.vae > PSACompare.vae
        PSALoadMini.adapter > PSACompare.adapter
        PSALoadProfile.profile > PSACompare.profile
        PSAUserProfile.profile > PSACompare.profile_2
    """,
    "PSAGuard": """
        VAEDecode.IMAGE > PSAGuard.images
        PSALoadProfile.profile > PSAGuard.profile
        PSAUserProfile.profile > PSAGuard.profile_2
        PSAGuard.images > SaveImage.images
    """,
    "PSALoadAdapter": """
        CheckpointLoaderSimple.MODEL > PSAApply.model
        PSALoadAdapter.adapter > PSAApply.adapter
    """,
    "PSALoadDataset": """
        PSALoadDataset.dataset > PSATrain.dataset
        PSALoadDataset 2.dataset > PSATrain.held_out
    """,
    "PSALoadEffect": """
        CheckpointLoaderSimple.MODEL > PSAApply.model
        PSALoadEffect.effect > PSAApply.effect
    """,
    "PSALoadEmbedding": """
        CheckpointLoaderSimple.MODEL > PSAApply.model
        PSALoadAdapter.adapter > PSAApply.adapter
        PSALoadEmbedding.embedding > PSAApply.embedding
    """,
    "PSALoadEncoder": """
        PSALoadProfile.profile > PSAEncode.profile
        PSALoadEncoder.encoder > PSAEncode.encoder
    """,
    "PSAMixViewers": """
        PSALoadMini.adapter > PSAMixViewers.adapter
        PSAEncode.embedding > PSAMixViewers.first
        PSAEncode 2.embedding > PSAMixViewers.second
        PSAMixViewers.effect > PSAApply.effect
    """,
    "PSASaveEffect": """
        PSALoadAdapter.adapter > PSASaveEffect.adapter
        PSALoadProfile.profile > PSASaveEffect.profile
    """,
    "PSASaveProfile": """
        PSAUserProfile.profile > PSASaveProfile.profile
    """,
    "PSAUserProfile": """
        PSAUserProfile.profile > PSAEncode.profile
    """,
    "PSAUserSpace": """
        PSAUserSpace.image > SaveImage.images
    """,
}
"""Of nodes that are in no workflow which needs no file: links, from an output to an input."""
BESIDE = {
    "CheckpointLoaderSimple": {"ckpt_name": "sd15.safetensors"},
    "PSALoadAdapter": {"adapter_name": "mine.safetensors"},
    "PSALoadDataset": {"folder": "my-dataset"},
    "PSALoadDataset 2": {"folder": "my-dataset", "split": "val"},
    "PSALoadEffect": {"effect_name": "young.safetensors"},
    "PSALoadEmbedding": {"embedding_name": "viewer.npy"},
    "PSALoadEncoder": {"encoder_name": "Qwen2.5-7B-Instruct"},
    "PSALoadProfile": {"profile_name": VIEWER},
    "PSAUserProfile": {"preset": "L2"},
}
"""What nodes of `WIRED` are set to; a second one of a kind has a number."""
SHOWN = {
    "PSACompare": {"prompts": "a meadow with a red circle and a heart\na sea with a yellow square"},
    "PSAUserProfile": {"preset": "custom", "age": 10, "gender": "female"},
}
"""The same, where the node is the one that is shown."""
FILES = ("checkpoints/sd15", "psa_adapters/mine", "psa_effects/young")
"""Names of weights in ComfyUI's models; a node that names none which is there is marked."""
BUILD = (
    "([links, values]) => {"
    + MAKE
    + """    const used = window.used = (window.used ?? 0) + 1000;
    app.graph.clear();
    app.graph.last_node_id = used;  // a node with the number of an earlier one would take its values
    const nodes = new Map();
    const named = (name) => {
        if (!nodes.has(name)) nodes.set(name, make(name.split(" ")[0], values[name]));
        return nodes.get(name);
    };
    for (const [from, output, to, input] of links) {
        const source = named(from);
        link(source, source.outputs.findIndex(each => each.name === output), named(to), input);
    }
    for (const [name, node] of nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name in (values[name] ?? {})) widget.callback?.(widget.value);
}"""
)
CUT = """(kind) => {
    const node = app.graph.nodes.find(each => each.type === kind);
    for (const link of [...app.graph.links.values()])
        if (link.origin_id !== node.id && link.target_id !== node.id)
            app.graph.getNodeById(link.target_id).disconnectInput(link.target_slot);
    const near = new Set([node, ...[...app.graph.links.values()].flatMap(link =>
        [link.origin_id, link.target_id].map(id => app.graph.getNodeById(id)))]);
    for (const each of [...app.graph.nodes]) if (!near.has(each)) app.graph.remove(each);
    for (const each of [...app.graph.groups]) app.graph.remove(each);
}"""
"""Leaves a node and what it is linked to."""
SAID = "() => [...document.querySelectorAll('.psa-chips')].every(each => each.textContent)"
"""What nodes say of a viewer comes after them."""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SHRINK = """([kind, tallest]) => {
    for (const node of app.graph.nodes) {
        node.title = (node.type.startsWith("PSA") ? node.constructor.title : node.title).split(" (")[0];
        const [width, height] = node.computeSize();
        const least = node.widgets?.some(each => each.element) ? (node.type === kind ? 270 : 240) : 170;  // for text
        node.setSize([Math.min(Math.max(width, least, 50 + 8 * node.title.length), 270), height]);
        if (node.type !== kind && height > tallest) node.collapse(true);
    }
    app.canvas.draw(true, true);  // says how wide folded ones are
}"""
"""Each node as small as it gets, without the words by which it is found; tall ones beside the one shown are folded."""
ARRANGE = """() => {
    const links = [...app.graph.links.values()];
    const depth = (node) => Math.max(0, ...links.filter(each => each.target_id === node.id)
        .map(each => 1 + depth(app.graph.getNodeById(each.origin_id))));
    const place = (node) => Math.min(...links.map(each =>
        each.origin_id === node.id ? each.target_slot : each.target_id === node.id ? each.origin_slot : Infinity));
    const width = (node) => node.flags.collapsed ? node._collapsed_width : node.size[0];
    const height = (node) => node.flags.collapsed ? 30 : node.size[1] + 30;
    const columns = [];
    for (const node of app.graph.nodes) (columns[depth(node)] ??= []).push(node);
    let x = 0;
    for (const [number, nodes] of columns.entries()) {
        let y = 0;
        const widest = Math.max(...nodes.map(width));
        for (const node of nodes.sort((one, other) => place(one) - place(other))) {
            if (!node.flags.collapsed) node.size[0] = widest;
            node.pos = [depth(node) ? x : x + widest - width(node), y + 30];
            y += height(node) + 25;
        }
        const leaving = links.filter(each => depth(app.graph.getNodeById(each.origin_id)) === number);
        x += widest + 30 + 8 * leaving.length;
    }
    app.canvas.background_image = "";  // its lines would only make the files larger
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [120, 160];
    app.canvas.setDirty(true, true);
}"""
"""In columns, from left to right as the links go, with room for them."""


def picture(page: Page, kind: str) -> None:
    if kind in IN_TEMPLATES:
        open_template(page, IN_TEMPLATES[kind], with_viewer)
        page.evaluate(CUT, kind)
    else:
        ends = (end.split(".") for line in WIRED[kind].strip().splitlines() for end in line.strip().split(" > "))
        links = [[*source, *target] for source, target in zip(ends, ends, strict=True)]
        page.evaluate(BUILD, [links, BESIDE | {kind: BESIDE.get(kind, {}) | SHOWN.get(kind, {})}])
    page.wait_for_timeout(1000)
    page.wait_for_function(SAID)
    page.evaluate(SHRINK, [kind, TALLEST if kind in IN_TEMPLATES else math.inf])
    page.evaluate(DRAWN)
    page.evaluate(ARRANGE)
    page.evaluate(DRAWN)
    keep(page, page.evaluate(PLACE), PAGES / "images" / f"{kind}.png")


def with_viewer(graph: dict) -> None:
    for node in graph["nodes"]:
        if node["type"] == "PSALoadProfile":
            node["widgets_values"] = [VIEWER]


def main() -> None:
    nodes = sys.argv[1:] or sorted(IN_TEMPLATES | WIRED)
    if unknown := set(nodes) - (IN_TEMPLATES | WIRED).keys():
        raise SystemExit(f"It is not said how these are wired: {', '.join(sorted(unknown))}")
    (PAGES / "images").mkdir(exist_ok=True)
    with ComfyServer(installed()[-1], startup_timeout=600) as server:
        store_viewers(server, {VIEWER: {"Age": 10, "Gender": "female"}})
        for name in FILES:
            path = server.base / "models" / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with tempfile.TemporaryDirectory() as user, opened(server, find_chromium(), Path(user), BARE) as page:
            page.set_viewport_size({"width": 1100, "height": 1000})
            for kind in nodes:
                picture(page, kind)


if __name__ == "__main__":
    main()
