"""Upload a data set in a real page, drawn on the canvas and as HTML: a button, a drop, progress, errors at the node."""

import io
import json
import zipfile

import pytest
from in_page import add, choose, press, shown, wait_for_words
from tiny_training import write_split

BUTTON = "Upload a data set"
KINDS = ["PSALoadDataset", "PSACheckDataset"]
DROP = """([name, bytes]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type: 'application/zip' }));
    const html = document.querySelector(`[data-node-id='${node.id}']`);
    const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 20, node.pos[1] + 60]);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const box = html?.getBoundingClientRect();
    const [clientX, clientY] = html ? [box.left + 20, box.top + 60] : [canvas.left + x, canvas.top + y];
    for (const kind of ['dragenter', 'dragover', 'drop']) {
        const event = new DragEvent(kind, { dataTransfer, clientX, clientY, bubbles: true, cancelable: true });
        (html ?? app.canvas.canvas).dispatchEvent(event);
    }
}"""


@pytest.fixture(params=[False, True], ids=["classic", "html"])
def settings(request, server):
    if request.param and server.comfyui.version < (0, 4):
        pytest.skip("this ComfyUI does not draw nodes as HTML")
    return {"Comfy.VueNodes.Enabled": request.param}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("source")
    write_split(folder / "practice", "train", range(2), 2)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for path in (folder / "practice" / "train").iterdir():
            opened.write(path, path.relative_to(folder))
    return buffer.getvalue()


def pick(page, name: str, content: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        press(page, BUTTON)
    chooser.value.set_files({"name": name, "mimeType": "application/zip", "buffer": content})


def uploaded(server) -> set[str]:
    return {path.parent.name for path in (server.base / "input").glob("*/train")}


@pytest.mark.parametrize("kind", KINDS)
def test_an_uploaded_data_set_is_chosen_and_its_counts_stand_on_the_node(page, server, archive, kind):
    add(page, kind)
    choose(page, "elsewhere", "/somewhere/else")
    before = uploaded(server)
    pick(page, "picked.zip", archive)
    wait_for_words(page, "train: 2 pairs, 2 users")
    (made,) = uploaded(server) - before
    values = shown(page)
    assert values["folder"] == made and values["elsewhere"] == ""
    assert made in page.evaluate("() => node.widgets.find(each => each.name === 'folder').options.values")
    saved = page.evaluate("() => JSON.stringify(app.graph.serialize().nodes[0].widgets_values)")
    assert made in saved and "Upload" not in saved and None not in json.loads(saved)


def test_a_dropped_archive_goes_up(page, server, archive):
    add(page, "PSALoadDataset")
    page.evaluate("() => { node.pos = [400, 300]; app.graph.setDirtyCanvas(true, true); }")
    page.wait_for_timeout(500)
    before = uploaded(server)
    page.evaluate(DROP, ["dropped.zip", list(archive)])
    wait_for_words(page, "train: 2 pairs, 2 users")
    (made,) = uploaded(server) - before
    assert shown(page)["folder"] == made


def test_progress_is_shown_and_an_upload_can_be_stopped(page, server, archive):
    add(page, "PSALoadDataset")
    before, held = uploaded(server), []
    page.route(
        "**/psa/upload*", lambda route: held.append(route) if route.request.method == "POST" else route.continue_()
    )
    pick(page, "slow.zip", archive)
    while not held:
        page.wait_for_timeout(100)
    wait_for_words(page, "slow.zip")
    press(page, BUTTON)  # asks, and the test says yes
    wait_for_words(page, "The upload was stopped.")
    page.unroute("**/psa/upload*")
    pick(page, "again.zip", archive)
    wait_for_words(page, "train: 2 pairs")
    (made,) = uploaded(server) - before
    assert made.startswith("again") and shown(page)["folder"] == made


def test_what_is_wrong_is_said_once_at_the_node(page, server):
    add(page, "PSALoadDataset")
    folder, before = shown(page)["folder"], uploaded(server)
    pick(page, "wrong.zip", b"x" * 100)
    wait_for_words(page, "The archive wrong is not unpacked.")
    assert page.evaluate("() => document.body.innerText.split('The archive wrong is not unpacked').length - 1") <= 1
    pick(page, "wrong.txt", b"x")
    wait_for_words(page, "wrong.txt is no .zip archive")
    assert shown(page)["folder"] == folder and uploaded(server) == before
    page.evaluate("() => app.queuePrompt(0, 1)")
    wait_for_words(page, "no data set" if folder.startswith("(") else "pairs")
