"""The subgraph blueprint in a real page: from the node library into the graph, and to a picture."""

from io import BytesIO

import numpy as np
import pytest
from graphs import call
from in_page import MAKE, wait_for_run
from PIL import Image

NAME = "PSA for viewers"
WIRE = (
    "() => {"
    + MAKE
    + """    const viewers = app.graph.nodes.find(each => each.subgraph);
    const mini = make("PSALoadMini");
    link(mini, 0, viewers, "model");
    link(mini, 3, viewers, "adapter");
    link(make("PSAUserProfile", { preset: "L0" }), 0, viewers, "profile");
    link(make("PSAUserProfile", { preset: "L5" }), 0, viewers, "profile_2");
    const sampler = make("KSampler", { seed: 1, steps: 4, cfg: 3, sampler_name: "euler" });
    link(viewers, 0, sampler, "model");
    for (const [input, text] of [["positive", "a meadow with a red circle and a heart"], ["negative", ""]]) {
        const words = make("CLIPTextEncode", { text });
        link(mini, 1, words, "clip");
        link(words, 0, sampler, input);
    }
    link(make("EmptyLatentImage", { width: 128, height: 128, batch_size: 2 }), 0, sampler, "latent_image");
    const decode = make("VAEDecode");
    link(sampler, 0, decode, "samples");
    link(mini, 2, decode, "vae");
    const grid = make("PSALabelGrid", { columns: 2 });
    link(decode, 0, grid, "images");
    link(viewers, 1, grid, "labels");
    link(grid, 0, make("SaveImage", { filename_prefix: "from-the-blueprint" }), "images");
    app.queuePrompt(0, 1);
}"""
)


def test_from_the_node_library_to_a_picture(page, server):
    if call(server, "/global_subgraphs")[0] == 404:
        pytest.skip("this ComfyUI has no blueprints of packs")
    page.get_by_role("button", name="Node Library").first.click()
    page.locator(".side-bar-panel input, .sidebar-content-container input").first.fill(NAME)
    page.get_by_text(NAME, exact=True).first.click()
    page.mouse.click(700, 450)
    page.wait_for_function("() => app.graph.nodes.some(each => each.subgraph)")
    (inputs, outputs, inner) = page.evaluate(
        """() => {
            const node = app.graph.nodes.find(each => each.subgraph);
            return [node.inputs.map(each => each.label ?? each.name), node.outputs.map(each => each.name),
                    node.subgraph.nodes.map(each => each.type)];
        }"""
    )
    assert inputs == ["model", "adapter", *(f"viewer {number}" for number in range(1, 7)), "encoder", "strength"]
    assert outputs == ["model", "labels"] and inner == ["PSAEncode", "PSAApply"]
    page.evaluate(WIRE)
    wait_for_run(page)
    assert not page.errors
    files = [*server.base.glob("output/from-the-blueprint*.png")]
    assert len(files) == 1
    grid = np.asarray(Image.open(BytesIO(files[0].read_bytes())).convert("RGB"), float)
    left, right = grid[:, : grid.shape[1] // 2], grid[:, grid.shape[1] // 2 :]
    width = min(left.shape[1], right.shape[1])
    assert grid.shape[1] > 2 * 128 and np.abs(left[:, :width] - right[:, :width]).max() > 20
