"""ComfyUI's own help panel shows each node's page: its picture is seen, and nothing reaches over the panel's edge."""

from in_page import add

from psa_core.comfy_server import PACK

PAGES = sorted((PACK / "web" / "docs").glob("*.md"))
PLACE = "() => { node.pos = [500, 300]; app.canvas.setDirty(true, true); }"
# On the screen. ComfyUI 0.3.64 shows a node's buttons where it was clicked, not where a script chose it.
TITLE = """() => {
    const { canvas, ds } = app.canvas;
    const { left, top } = canvas.getBoundingClientRect();
    return [left + (node.pos[0] + 90 + ds.offset[0]) * ds.scale, top + (node.pos[1] - 15 + ds.offset[1]) * ds.scale];
}"""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
THERE = """(title) => {
    const page = document.querySelector(".node-help-content");
    return page?.querySelector("h1")?.textContent === title
        && [...page.querySelectorAll("img")].every(each => each.complete);
}"""
PICTURES = """() => [...document.querySelectorAll(".node-help-content img")]
    .filter(each => each.checkVisibility() && each.naturalWidth > 100 && each.width > 100).length"""
# What has a bar to move it within the panel reaches over nothing.
TOO_WIDE = """() => {
    const page = document.querySelector(".node-help-content");
    const right = page.getBoundingClientRect().right;
    const moves = (each) => each !== page
        && (getComputedStyle(each).overflowX === "auto" || moves(each.parentElement));
    return [...page.querySelectorAll("img, li, p, pre, table")]
        .filter(each => each.getBoundingClientRect().right > right + 1 && !moves(each))
        .map(each => each.outerHTML.slice(0, 80));
}"""


def test_each_page_stands_in_the_panel_with_its_picture(page, tmp_path):
    missing, too_wide = [], {}
    for path in PAGES:
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        page.evaluate("() => app.graph.clear()")
        add(page, path.stem)
        page.evaluate(PLACE)
        page.evaluate(DRAWN)
        page.mouse.click(*page.evaluate(TITLE))
        page.locator("[data-testid='info-button']").click()
        page.wait_for_function(THERE, arg=title)
        page.screenshot(path=tmp_path / f"{path.stem}.png")
        if not page.evaluate(PICTURES):
            missing.append(path.stem)
        too_wide[path.stem] = page.evaluate(TOO_WIDE)
    assert not missing
    assert not any(too_wide.values()), too_wide
