"""A newcomer's ten minutes, by clicks alone: how many it takes to a picture and to an adapter.

Each action leaves a screenshot in the test's folder. Looking for something beyond the edge counts: it is a scroll.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from in_page import set_widgets, wait_for_run
from PIL import Image
from shipped import WORDS_ON_MINI

from psa_core import load_adapter
from psa_core.comfy_server import PACK

TITLE = json.loads((PACK / "locales" / "en" / "main.json").read_text(encoding="utf-8"))["templateWorkflows"]
pytestmark = pytest.mark.usefixtures("guest")

FULL = 1_800_000  # ms; drawing and training, where others use the processors too
UNSEEN = """(element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return !element.contains(document.elementFromPoint(left + width / 2, top + height / 2));
}"""
SHOWN = """({ kind, prefix }) =>
    app.graph.nodes.find(each => each.type === kind).imgs?.some(each => each.src.includes(prefix))"""


class Hand:
    """Does what a person does with a mouse, and counts it."""

    def __init__(self, page, folder: Path) -> None:
        self.page, self.folder, self.actions = page, folder, 0

    def click(self, locator) -> None:
        locator.first.wait_for()
        if locator.first.evaluate(UNSEEN):
            locator.first.scroll_into_view_if_needed()
            self._done()
        locator.first.click()
        self._done()

    def click_widget(self, kind: str, name: str) -> None:
        """In the middle of a widget that the canvas draws."""
        place = self.page.evaluate(
            """([kind, name]) => {
                const node = app.graph.nodes.find(each => each.type === kind);
                const widget = node.widgets.find(each => each.name === name);
                const middle = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
                const [x, y] = app.canvas.ds.convertOffsetToCanvas(middle);
                const frame = app.canvas.canvas.getBoundingClientRect();
                return [x + frame.left, y + frame.top];
            }""",
            [kind, name],
        )
        self.page.mouse.click(*place)
        self._done()

    def open_template(self, name: str) -> None:
        self.click(self.page.locator(".templates-tab-button"))
        self.click(self.page.get_by_text(TITLE["category"]["comfyui-psa"]))
        self.click(self.page.locator(f"[data-testid='template-workflow-{name}']"))
        self.page.wait_for_function("() => app.graph.nodes.length > 5")

    def run(self) -> None:
        self.click(self.page.locator("[data-testid='queue-button']"))

    def see(self, kind: str, prefix: str) -> None:
        """Until the node shows a picture of that name."""
        wait_for_run(self.page, FULL)
        self.page.wait_for_function(SHOWN, arg={"kind": kind, "prefix": prefix}, timeout=FULL)
        self.page.screenshot(path=self.folder / "seen.png")

    def _done(self) -> None:
        self.actions += 1
        self.page.screenshot(path=self.folder / f"{self.actions}.png")


@pytest.fixture
def hand(page, tmp_path) -> Hand:
    return Hand(page, tmp_path)


def saved(server, prefix: str) -> np.ndarray:
    (file,) = server.base.glob(f"output/psa/{prefix}*.png")
    return np.asarray(Image.open(file).convert("RGB"), float)


def test_from_an_empty_graph_to_six_viewers_pictures(hand, server):
    hand.open_template("psa_1_start_here")
    hand.run()
    hand.see("SaveImage", "mini-levels")
    assert hand.actions <= 8
    grid = saved(server, "mini-levels")
    assert grid.shape[0] > 3 * 128 and grid.shape[1] > 6 * 128  # three prompts for six viewers
    assert not hand.page.errors


def test_from_a_stored_profile_to_a_picture(server, hand):
    hand.open_template("psa_viewer_mini")
    hand.click_widget("PSALoadProfile", "profile_name")
    hand.click(hand.page.locator(".litecontextmenu .litemenu-entry", has_text="guest"))
    hand.run()
    hand.see("SaveImage", "mini-viewer")
    assert hand.actions <= 6
    grid = saved(server, "mini-viewer")
    guest, nobody = grid[:, 4 : grid.shape[1] // 2 - 4], grid[:, grid.shape[1] // 2 + 4 : -4]
    width = min(guest.shape[1], nobody.shape[1])
    assert np.abs(guest[:, :width] - nobody[:, :width]).max() > 20
    assert not hand.page.errors


def test_from_words_to_a_trained_adapter(hand, server):
    """With small numbers, which a person need not set: they only make it short."""
    hand.open_template("psa_words_mini")
    set_widgets(hand.page, WORDS_ON_MINI)
    hand.run()
    hand.see("SaveImage", "words-mini")
    assert hand.actions <= 6
    adapter = load_adapter(server.base / "models" / "psa_adapters" / "words-mini.safetensors")
    assert adapter.training_summary["steps"] == WORDS_ON_MINI["PSATrain"]["steps"]
    assert any(layer.to_v_user[0].weight.any() for layer in adapter.psa_adapter)
    assert not hand.page.errors
