"""Review by hand in a real page: keys, buttons, progress, and answers that outlive the page."""

import pytest
from in_page import add, choose, press
from tiny_training import user, write_split

from psa_core.dataset.answers import ANSWERS, LEFT, RIGHT, read_answers, standing

PAIRS = 6
OPEN = "() => app.extensionManager.command.execute('psa.review')"


@pytest.fixture
def data(server):
    folder = server.base / "input" / "my pairs"
    if not folder.exists():
        write_split(folder, "train", range(4), PAIRS)
        write_split(folder, "val", range(4), 2)
    (folder / ANSWERS).unlink(missing_ok=True)
    return folder


def opened(page, how=OPEN):
    page.evaluate(how)
    dialog = page.locator("dialog.psa-review")
    dialog.get_by_text(f"of {PAIRS} answered").wait_for()
    page.locator("dialog.psa-review[aria-busy=false]").wait_for()
    return dialog


def answered(dialog, count: int) -> None:
    """Until so many are, and the next question can be."""
    dialog.get_by_text(f"{count} of ").wait_for()
    dialog.page.locator("dialog.psa-review[aria-busy=false]").wait_for()


def words(data) -> list[str]:
    return [answer.answer for answer in read_answers(data)]


def test_keys_answer_undo_and_end(page, data):
    dialog = opened(page)
    for count, key in enumerate(["ArrowLeft", "ArrowRight", "n", "b"], start=1):
        page.keyboard.press(key)
        answered(dialog, count)
    assert words(data) == ["left", "right", "neither", "bad"]
    dialog.get_by_text("2 taken out").wait_for()
    page.keyboard.press("u")
    answered(dialog, 3)
    for count in range(4, PAIRS + 1):
        page.keyboard.press("ArrowLeft")
        answered(dialog, count)
    dialog.get_by_text("All questions of this split are answered").wait_for()
    assert words(data) == ["left", "right", "neither", "bad", "undo", "left", "left", "left"]
    assert len(standing(read_answers(data))) == PAIRS


def test_what_is_shown_is_what_is_saved(page, data):
    dialog = opened(page)
    bans = {tuple(user(number).banned_categories) for number in range(4)}
    shown = tuple(dialog.locator(".psa-chip").all_text_contents())
    assert shown in bans
    colours = page.evaluate(
        """() => [...document.querySelectorAll('dialog.psa-review img')].map((img) => {
          const canvas = document.createElement('canvas');
          canvas.getContext('2d').drawImage(img, 0, 0);
          const [red, , blue] = canvas.getContext('2d').getImageData(9, 9, 1, 1).data;
          return blue > red ? 's' : 'u';
        })"""
    )
    dialog.locator(".psa-choice").nth(1).click()
    answered(dialog, 1)
    (answer,) = read_answers(data)
    assert answer.answer == RIGHT and answer.banned == shown
    assert [answer.left[-5], answer.right[-5]] == colours


def test_a_closed_page_loses_nothing_and_goes_on(page, server, data):
    dialog = opened(page)
    page.keyboard.press("ArrowLeft")
    answered(dialog, 1)
    caption = dialog.locator(".psa-caption").text_content()
    page.reload()
    page.wait_for_function("() => window.app?.graph && window.LiteGraph?.registered_node_types.PSACheckDataset")
    dialog = opened(page)
    answered(dialog, 1)
    assert dialog.locator(".psa-caption").text_content() == caption and words(data) == [LEFT]


def test_a_nodes_button_opens_its_data_set(page, data):
    other = data.parent / "another"
    write_split(other, "train", range(4), 3) if not other.exists() else None
    add(page, "PSACheckDataset")
    choose(page, "folder", "my pairs")
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    answered(dialog, 0)
    assert dialog.locator("[name=dataset]").input_value() == "my pairs"
    dialog.locator("[name=split]").select_option("val")
    dialog.get_by_text("0 of 2 answered").wait_for()
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="detached")
    graph = page.evaluate("() => JSON.stringify(app.graph.serialize())")
    assert "Review" not in graph


def test_what_cannot_be_saved_is_said_and_asked_again(page, data):
    dialog = opened(page)
    (data / ANSWERS).mkdir()
    try:
        page.keyboard.press("ArrowLeft")
        dialog.get_by_text("answers.jsonl").wait_for()
        assert dialog.get_by_text(f"0 of {PAIRS}").is_visible()
    finally:
        (data / ANSWERS).rmdir()
    page.keyboard.press("ArrowLeft")
    answered(dialog, 1)
    assert words(data) == [LEFT] and dialog.locator(".psa-error").text_content() == ""
