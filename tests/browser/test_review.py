"""Review by hand in a real page: keys, buttons, progress, and answers that outlive the page."""

import json
from dataclasses import replace

import pytest
from in_page import add, choose, press
from pair_sets import write_pair_set
from tiny_training import user, write_split

from psa_core.dataset.answers import ANSWERS, LEFT, RIGHT, each_answer, standing
from psa_core.dataset.pair_files import write_users
from psa_core.users import write_users as write_users_file

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
    page.locator("dialog.psa-review[aria-busy=false]").wait_for()
    if dialog.locator("[name=dataset]").input_value() != "my pairs":  # but another test's
        dialog.locator("[name=dataset]").select_option("my pairs")
    dialog.get_by_text(f"of {PAIRS} answered").wait_for()
    page.locator("dialog.psa-review[aria-busy=false]").wait_for()
    return dialog


def answered(dialog, count: int) -> None:
    """Until so many are, and the next question can be."""
    dialog.get_by_text(f"{count} of ").wait_for()
    dialog.page.locator("dialog.psa-review[aria-busy=false]").wait_for()


def words(data) -> list[str]:
    return [answer.answer for answer in each_answer(data)]


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
    assert len(standing(each_answer(data))) == PAIRS


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
    (answer,) = each_answer(data)
    assert answer.answer == RIGHT and answer.banned == shown
    assert [answer.left[-5], answer.right[-5]] == colours


def test_a_closed_page_loses_nothing_and_goes_on(page, server, data):
    dialog = opened(page)
    page.keyboard.press("ArrowLeft")
    answered(dialog, 1)
    caption = dialog.locator(".psa-caption").text_content()
    page.reload()
    page.wait_for_function("() => window.LiteGraph?.registered_node_types.PSACheckDataset && window.app?.graph")
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


def check_behind(page) -> None:
    """A PSA Check Dataset behind the node; it is `node` then."""
    page.evaluate(
        """() => {
            const before = node;
            window.node = LiteGraph.createNode('PSACheckDataset');
            app.graph.add(node);
            before.connect(0, node, node.inputs.findIndex((each) => each.name === 'dataset'));
        }"""
    )


@pytest.mark.parametrize("wired", [False, True])
@pytest.mark.parametrize(("elsewhere", "said"), [(" my pairs ", ""), ("/data/mine", '"/data/mine"')])
def test_a_data_set_elsewhere_counts_and_not_the_folder_that_is_hidden_then(page, server, data, wired, elsewhere, said):
    built(server)
    add(page, "PSALoadDataset" if wired else "PSACheckDataset")
    choose(page, "folder", "psa_datasets/words-mini")
    choose(page, "elsewhere", elsewhere)
    if wired:
        check_behind(page)
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    page.locator("dialog.psa-review[aria-busy=false]").wait_for()
    assert dialog.locator("[name=dataset]").input_value() == ("" if said else "my pairs")
    assert said in dialog.locator(".psa-error").text_content()


@pytest.mark.parametrize("of", ["PSACheckDataset", "PSALoadDataset"])
def test_the_nodes_users_file_says_what_viewers_must_not_see(page, data, of):
    """Its own, or that of the node before; for its data set alone."""
    sages = data.parent / "as sages"
    if not sages.exists():
        write_split(sages, "train", range(4), 3)
        metadata = sages / "train" / "metadata.jsonl"
        lines = [json.loads(line) for line in metadata.read_text().splitlines()]
        for line in lines:
            del line["user_data"]["Banned_Categories"], line["user_data"]["Allowed_Categories"]
        metadata.write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_users_file(sages / "users.csv", [replace(user(n), banned_categories=("Hate",)) for n in range(4)])
    (sages / ANSWERS).unlink(missing_ok=True)
    add(page, of)
    choose(page, "folder", "as sages")
    choose(page, "users", "users.csv")
    if of == "PSALoadDataset":
        check_behind(page)
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    answered(dialog, 0)
    assert dialog.locator("[name=dataset]").input_value() == "as sages"
    assert dialog.locator(".psa-chip").all_text_contents() == ["Hate"]
    page.keyboard.press("n")
    answered(dialog, 1)
    assert [answer.banned for answer in each_answer(sages)] == [("Hate",)]
    dialog.locator("[name=dataset]").select_option("my pairs")
    dialog.get_by_text(f"0 of {PAIRS} answered").wait_for()


def built(server):
    """A data set where PSA Build Dataset makes them."""
    folder = server.base / "input" / "psa_datasets" / "words-mini"
    if not folder.exists():
        write_pair_set(folder, {"train": (range(4), 3), "val": (range(4), 2)})
    return folder


def test_the_button_of_a_built_data_set_opens_it(page, server, data):
    folder = built(server)
    add(page, "PSABuildDataset")
    choose(page, "name", "words-mini")
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    answered(dialog, 0)
    assert dialog.locator("[name=dataset]").input_value() == "psa_datasets/words-mini"
    page.keyboard.press("ArrowLeft")
    answered(dialog, 1)
    assert len([*each_answer(folder)]) == 1 and words(data) == []
    (folder / ANSWERS).unlink()


def test_a_wired_data_set_counts_and_not_the_folder_that_is_written_there(page, server, data):
    built(server)
    page.evaluate(
        """() => {
            const make = (kind) => { const each = LiteGraph.createNode(kind); app.graph.add(each); return each; };
            const [build, check] = [make('PSABuildDataset'), make('PSACheckDataset')];
            build.widgets.find((each) => each.name === 'name').value = 'words-mini';
            check.widgets.find((each) => each.name === 'folder').value = 'my pairs';
            build.connect(0, check, check.inputs.findIndex((each) => each.name === 'dataset'));
            window.node = check;
        }"""
    )
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    answered(dialog, 0)
    assert dialog.locator("[name=dataset]").input_value() == "psa_datasets/words-mini"


@pytest.mark.parametrize(
    ("kind", "widget", "name", "said"),
    [
        ("PSABuildDataset", "name", "not-built", "psa_datasets/not-built"),
        ("PSACheckDataset", "folder", "/my pairs", "/my pairs"),
        ("PSACheckDataset", "folder", "constructor", "constructor"),
    ],
)
def test_a_data_set_that_is_not_there_is_said_and_none_is_opened_in_its_place(page, data, kind, widget, name, said):
    add(page, kind)
    choose(page, widget, name)
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    dialog.get_by_text(f'no finished data set "{said}"').wait_for()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("n")
    assert dialog.locator("[name=dataset]").input_value() == "" and not dialog.locator(".psa-choice").first.is_visible()
    assert words(data) == []
    dialog.locator("[name=dataset]").select_option("my pairs")
    dialog.get_by_text(f"0 of {PAIRS} answered").wait_for()
    assert dialog.locator(".psa-error").text_content() == ""


def test_a_name_from_another_node_is_left_to_the_person(page, data):
    page.evaluate(
        """() => {
            const make = (kind) => { const each = LiteGraph.createNode(kind); app.graph.add(each); return each; };
            window.node = make('PSABuildDataset');
            const slot = node.inputs.findIndex((each) => each.name === 'name');
            make('PrimitiveString').connect(0, node, slot);
        }"""
    )
    press(page, "Review by hand")
    dialog = page.locator("dialog.psa-review")
    dialog.get_by_text("shows only when it runs").wait_for()
    assert dialog.locator("[name=dataset]").input_value() == ""


def listening(page) -> None:
    """From here on the page's own listeners note what reaches them."""
    page.evaluate(
        """() => {
            window.heard = [];
            for (const place of [document, window])
              place.addEventListener('keydown', (event) => heard.push(event.key));
        }"""
    )


def test_keys_work_wherever_the_focus_is_and_none_reaches_comfyui(page, data):
    listening(page)
    dialog = opened(page)
    split = dialog.locator("[name=split]")
    split.select_option("val")
    dialog.get_by_text("0 of 2 answered").wait_for()
    split.select_option("train")
    dialog.get_by_text(f"0 of {PAIRS} answered").wait_for()
    split.focus()
    for count, key in enumerate(["n", "ArrowRight", "b"], start=1):
        page.keyboard.press(key)
        answered(dialog, count)
    assert split.input_value() == "train"
    dialog.locator(".psa-caption").click()  # the focus is nowhere then
    page.keyboard.press("u")
    answered(dialog, 2)
    for count, key in ((1, "u"), (0, "u")):  # the last of which disables the button that has the focus
        dialog.locator("button[name=undo]").focus()
        page.keyboard.press(key)
        answered(dialog, count)
    page.keyboard.press("ArrowLeft")
    answered(dialog, 1)
    for key in ("r", "q", "Control+Enter", "Tab", "Escape"):
        page.keyboard.press(key)
    dialog.wait_for(state="detached")
    assert page.evaluate("() => heard") == []
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("() => heard") == ["ArrowLeft", "ArrowLeft"], "keys stay away from ComfyUI for good"
    assert words(data)[-1] == LEFT


def test_keys_that_are_pressed_in_a_form_stay_there(page):
    listening(page)
    add(page, "PSALoadProfile")
    press(page, "New profile")
    dialog = page.locator("dialog.psa-dialog")
    dialog.locator("h3").click()
    page.keyboard.press("n")
    dialog.locator("[name=name]").fill("")
    dialog.locator("[name=name]").press_sequentially("anna")
    assert dialog.locator("[name=name]").input_value() == "anna"
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("() => heard") == []


def test_two_pages_on_one_question_do_not_overrule_each_other(page, server, data):
    first = opened(page)
    other = page.context.new_page()
    other.goto(server.url)
    other.wait_for_function("() => window.LiteGraph?.registered_node_types.PSACheckDataset && window.app?.graph")
    second = opened(other)
    page.keyboard.press("ArrowLeft")
    answered(first, 1)
    caption = first.locator(".psa-caption").text_content()
    other.keyboard.press("ArrowRight")
    second.get_by_text("has answered here meanwhile").wait_for()
    answered(second, 1)
    assert words(data) == [LEFT] and second.locator(".psa-caption").text_content() == caption
    other.keyboard.press("n")
    answered(second, 2)
    page.keyboard.press("u")  # would take the other's answer back
    first.get_by_text("has answered here meanwhile").wait_for()
    answered(first, 2)
    assert words(data) == [LEFT, "neither"]
    page.keyboard.press("u")  # now it has been seen
    answered(first, 1)
    assert words(data) == [LEFT, "neither", "undo"]


@pytest.mark.parametrize("when", ["before an answer", "before a picture"])
def test_users_that_change_while_a_page_is_open_are_asked_about_anew(page, server, data, when):
    folder = built(server)
    users = (folder / "users.jsonl").read_bytes()
    others = [(user(number), ["train", "val"]) for number in range(4, 8)]
    dialog = page.locator("dialog.psa-review")
    chips = dialog.locator(".psa-chip")

    def change(route):
        write_users(folder, others)
        route.continue_()

    add(page, "PSABuildDataset")
    choose(page, "name", "words-mini")
    try:
        if when == "before a picture":
            page.route("**/left?*", change, times=1)
        press(page, "Review by hand")
        answered(dialog, 0)
        if when == "before an answer":
            write_users(folder, others)
            page.keyboard.press("ArrowLeft")
        dialog.get_by_text("look at the question that comes now").wait_for()
        answered(dialog, 0)
        assert not (folder / ANSWERS).exists()
        shown = chips.all_text_contents()
        page.keyboard.press("ArrowLeft")
        answered(dialog, 1)
        assert [list(answer.banned) for answer in each_answer(folder)] == [shown]
    finally:
        (folder / "users.jsonl").write_bytes(users)
        (folder / ANSWERS).unlink(missing_ok=True)


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
