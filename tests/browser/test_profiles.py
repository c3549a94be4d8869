"""The profile nodes, their forms and the Viewers panel in a real page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from in_page import add, choose, open_template, press, shown, wait_for_words

from psa_core.comfy_server import PACK

if TYPE_CHECKING:
    from playwright.sync_api import Locator


def stored(server) -> dict[str, dict]:
    files = server.base.glob("user/__psa_profiles/*/*.json")
    return {unquote(file.stem): json.loads(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture(autouse=True)
def _nobody_is_stored(server) -> None:
    for file in server.base.glob("user/__psa_profiles/*/*.json"):
        file.unlink()


@pytest.fixture
def fill(page) -> Callable[..., "Locator"]:
    """Opens a dialog, fills fields in and presses its last button; returns the dialog."""

    def fill(label: str = "New profile", **fields: str) -> "Locator":
        press(page, label)
        return submit(page, **fields)

    return fill


def submit(page, **fields: str) -> "Locator":
    dialog = page.locator("dialog.psa-dialog")
    for field, value in fields.items():
        control = dialog.locator(f"[name={field}]")
        tag = control.evaluate("(control) => control.type")
        if tag == "checkbox":
            control.check()
        elif tag.startswith("select"):
            control.select_option(value)
        else:
            control.fill(value)
    dialog.locator(".psa-buttons button").last.click()
    return dialog


def closed(dialog) -> None:
    dialog.wait_for(state="detached")


def test_a_profile_is_stored_changed_and_deleted(page, server, fill):
    add(page, "PSALoadProfile")
    assert "undefined" not in page.evaluate("() => String(node.widgets[0].value)")
    closed(fill(name="viewer A", age="7", religion="Islam"))
    page.wait_for_function("() => node.widgets[0].value === 'viewer A'")
    bans = {"Hate", "Propaganda", "Self-Harm", "Sexuality", "Shocking", "Violence"}
    assert set(stored(server)["viewer A"]["Banned_Categories"]) == bans
    for category in bans:
        wait_for_words(page, category)

    closed(fill("Edit profile", age="40", religion="None"))
    assert stored(server)["viewer A"]["Age"] == 40 and stored(server)["viewer A"]["Banned_Categories"] == []
    assert shown(page)["profile_name"] == "viewer A"
    wait_for_words(page, "Nothing is banned")
    graph = page.evaluate("async () => JSON.stringify([app.graph.serialize(), (await app.graphToPrompt()).output])")
    assert "viewer A" in graph and "Islam" not in graph and "Self-Harm" not in graph

    press(page, "Delete")
    page.wait_for_function("() => !node.widgets[0].options.values.includes('viewer A')")
    assert not stored(server)
    assert shown(page)["profile_name"] == "viewer A", "another person's profile slipped in"


def test_a_choice_starts_from_what_the_rules_say(page, server, fill):
    add(page, "PSALoadProfile")
    press(page, "New profile")
    dialog = page.locator("dialog.psa-dialog")
    dialog.locator("[name=name]").fill("child")
    dialog.locator("[name=age]").fill("12")
    dialog.locator("[name=banned]").select_option("chosen")
    dialog.locator("[name=ban_violence]:checked").wait_for()
    dialog.locator("[name=ban_violence]").uncheck()
    dialog.locator(".psa-buttons button").last.click()
    closed(dialog)
    assert stored(server)["child"]["Banned_Categories"] == ["Hate", "Self-Harm", "Sexuality", "Shocking"]


def test_the_dialog_says_what_is_wrong_and_stays(page, server, fill):
    add(page, "PSALoadProfile")
    dialog = fill(name="../viewer")
    dialog.get_by_text("That profile name cannot be used").wait_for()
    dialog.locator("[name=name]").fill("viewer B")
    dialog.get_by_role("button", name="Save").dblclick()
    closed(dialog)
    assert list(stored(server)) == ["viewer B"]


def test_a_taken_name_changes_nothing(page, server, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="viewer C", age="20"))
    dialog = fill(name="viewer C", age="50")
    dialog.get_by_text("is taken").wait_for()
    assert dialog.is_visible() and stored(server)["viewer C"]["Age"] == 20
    page.keyboard.press("Escape")
    closed(dialog)


def test_the_panel_shows_copies_renames_and_deletes(page, server, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="anna & bob", age="12"))
    page.locator("button[aria-label*='Viewers'], .psa-viewers-tab-button").first.click()
    panel = page.locator(".psa-viewers")
    panel.get_by_text("anna & bob", exact=True).click()
    panel.get_by_text("Self-Harm").wait_for()
    panel.get_by_role("button", name="Copy").click()
    closed(submit(page, name="émile's"))
    panel.get_by_text("émile's", exact=True).wait_for()
    panel.get_by_role("button", name="Rename").first.click()
    closed(submit(page, name="both"))
    panel.get_by_text("both", exact=True).wait_for()
    assert set(stored(server)) == {"both", "émile's"} and len({str(each) for each in stored(server).values()}) == 1
    page.wait_for_function("() => node.widgets[0].value === 'both'")  # the open graph follows
    panel.get_by_text("both", exact=True).click()
    panel.get_by_role("button", name="Delete").first.click()
    panel.get_by_text("both", exact=True).wait_for(state="detached")
    assert list(stored(server)) == ["émile's"]


def test_the_strip_stores_the_values_and_swaps_the_node(page, server, fill):
    add(page, "PSAUserProfile")
    page.evaluate("() => { const e = LiteGraph.createNode('PSAEncode'); app.graph.add(e); node.connect(0, e, 2); }")
    choose(page, "age", 15)
    choose(page, "religion", "Buddhism")
    page.locator(".psa-strip button").click()
    closed(submit(page, name="O'Brien"))
    assert stored(server)["O'Brien"]["Age"] == 15
    page.wait_for_function("() => app.graph.nodes.every(each => each.type !== 'PSAUserProfile')")
    graph = page.evaluate("() => app.graph.serialize()")
    assert "Buddhism" not in json.dumps(graph)
    (loader,) = (each for each in graph["nodes"] if each["type"] == "PSALoadProfile")
    assert loader["widgets_values"] == ["O'Brien"]
    ((_, source, _, _, slot, _),) = graph["links"]
    assert source == loader["id"] and slot == 2


def test_a_narrow_node_shows_the_strip_whole(page):
    add(page, "PSAUserProfile")
    page.evaluate("() => { node.size[0] = 225; node.setSize([225, node.computeSize()[1]]); }")
    page.wait_for_function(
        """() => {
            const strip = document.querySelector('.psa-strip');
            return strip.clientWidth < 225 && strip.scrollHeight <= strip.clientHeight + 1;
        }"""
    )


def test_save_profile_says_so_and_the_lists_know_at_once(page, server):
    page.evaluate(
        """() => {
            const make = (kind) => { const each = LiteGraph.createNode(kind); app.graph.add(each); return each; };
            window.loader = make('PSALoadProfile');
            window.node = make('PSASaveProfile');
            make('PSAUserProfile').connect(0, node, 0);
            node.widgets.find(w => w.name === 'name').value = "Zoë's";
            app.queuePrompt(0, 1);
        }"""
    )
    wait_for_words(page, "Stored as Zoë's")
    page.wait_for_function("() => loader.widgets[0].options.values.includes(`Zoë's`)")


def test_user_profile_shows_what_counts(page):
    add(page, "PSAUserProfile")
    assert shown(page)["banned"] == "protective" and "ban_hate" not in shown(page)
    choose(page, "age", 12)
    choose(page, "banned", "chosen")
    page.wait_for_function("() => node.widgets.find(w => w.name === 'ban_hate').value")
    assert shown(page)["ban_shocking"] and not shown(page)["ban_propaganda"], "the rules' bans were dropped"
    choose(page, "ban_propaganda", True)
    wait_for_words(page, "Propaganda")
    choose(page, "preset", "L1")
    assert set(shown(page)) == {"preset", "psa_banned"}
    page.wait_for_function("() => /^Banned:ShockingViolence$/.test(node.widgets.at(-1).element.textContent)")


def test_by_the_rules_of_the_first_versions_means_the_rules_of_the_prompt(page):
    values = ["custom", 16, "female", "None", "healthy", "healthy", "by the rules", *[False] * 7]
    saved = {"id": 1, "type": "PSAUserProfile", "pos": [0, 0], "size": [270, 200], "widgets_values": values}
    graph = {"version": 0.4, "last_node_id": 1, "last_link_id": 0, "nodes": [saved], "links": []}
    page.evaluate("async (graph) => { await app.loadGraphData(graph); window.node = app.graph.nodes[0]; }", graph)
    assert shown(page)["banned"] == "reference-prompt" and shown(page)["age"] == 16


def test_each_shipped_workflow_opens(page):
    for file in sorted(Path(PACK, "workflows").glob("*.json")):
        graph = json.loads(file.read_text(encoding="utf-8"))
        page.evaluate("async (graph) => { await app.loadGraphData(graph); }", graph)
        types = page.evaluate("() => app.graph.nodes.map(node => node.type)")
        unknown = page.evaluate("(types) => types.filter(type => !LiteGraph.registered_node_types[type])", types)
        assert len(types) == len(graph["nodes"]) and not unknown, file.name


def test_a_workflow_that_names_nobody_asks_for_somebody(page, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="viewer E"))
    open_template(page, "psa_viewer_mini")
    page.evaluate("() => { window.node = app.graph.nodes.find(each => each.type === 'PSALoadProfile'); }")
    page.wait_for_timeout(1000)  # what was asked for the first of the list may come late
    wait_for_words(page, "Choose a stored viewer, or store one.")
    assert shown(page)["profile_name"] == "(choose a stored viewer)"


def test_nobody_chosen_is_said_before_anything_is_asked(page):
    add(page, "PSALoadProfile")
    page.evaluate("() => { node.widgets[0].value = '(choose a stored viewer)'; window.asked = 0; }")
    page.evaluate("() => { window.confirm = () => { asked += 1; return false; }; }")
    for label in ("Edit profile", "Delete"):
        press(page, label)
        page.locator(".p-toast-detail").get_by_text("Choose a stored viewer, or store one.").last.wait_for()
        page.locator(".p-toast-close-button").last.click()
        page.locator(".p-toast-detail").get_by_text("Choose a stored viewer").wait_for(state="detached")
    assert page.evaluate("() => asked") == 0 and page.locator("dialog.psa-dialog").count() == 0


def test_a_profile_that_changed_meanwhile_is_not_replaced(page, server, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="viewer D", age="20"))
    press(page, "Edit profile")
    page.locator("dialog.psa-dialog").wait_for()
    elsewhere = """async () => {
        const path = "/psa/profiles/viewer%20D";
        const headers = { "Content-Type": "application/json" };
        const ask = async (path, body) => {
            const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
            return answer.json();
        };
        const { profile, version } = await ask(`${path}/read`, {});
        await ask("/psa/profiles", { name: "viewer D", profile: { ...profile, Age: 21 }, overwrite: version });
    }"""
    page.evaluate(elsewhere)
    dialog = submit(page, age="50")
    dialog.get_by_text("has changed since this form was opened. Open Edit again.").wait_for()
    assert stored(server)["viewer D"]["Age"] == 21


def test_the_swap_works_inside_a_subgraph_whose_output_it_feeds(page, server):
    page.evaluate(
        """() => {
            window.node = LiteGraph.createNode("PSAUserProfile");
            const [encode, save] = ["PSAEncode", "PSASaveProfile"].map((kind) => LiteGraph.createNode(kind));
            [node, encode, save].forEach((each) => app.graph.add(each));
            node.connect(0, encode, 0);
            node.connect(0, save, 0);
            app.graph.convertToSubgraph(new Set([node, encode]));
            window.outer = app.graph.nodes.find((each) => each.subgraph);
            window.node = outer.subgraph.nodes.find((each) => each.type === "PSAUserProfile");
            node.widgets.find((each) => each.name === "psa_note").element.querySelector("button").click();
        }"""
    )
    closed(submit(page, name="inner"))
    inside = page.evaluate("() => outer.subgraph.nodes.map((each) => each.type).sort()")
    assert inside == ["PSAEncode", "PSALoadProfile"]
    inputs = page.evaluate(
        """async () => {
            const nodes = Object.entries((await app.graphToPrompt()).output);
            const loader = nodes.find(([, each]) => each.class_type === "PSALoadProfile")[0];
            const readers = nodes.filter(([, each]) => each.inputs.profile?.[0] === loader);
            return readers.map(([, each]) => each.class_type).sort();
        }"""
    )
    assert inputs == ["PSAEncode", "PSASaveProfile"]


def test_a_new_name_reaches_into_subgraphs(page, server, fill):
    add(page, "PSALoadProfile")
    closed(fill(name="before"))
    page.evaluate(
        """() => {
            const encode = LiteGraph.createNode("PSASaveProfile");
            app.graph.add(encode);
            node.connect(0, encode, 0);
            const { subgraph } = app.graph.convertToSubgraph(new Set([node]));
            window.outer = app.graph.nodes.find((each) => each.subgraph);
            const loader = subgraph.nodes[0];
            const input = subgraph.addInput("who", "COMBO");
            input.connect(loader.inputs[0], loader);
        }"""
    )
    assert page.evaluate("() => outer.widgets.map((each) => each.value)")[0] == "before"
    page.locator("button[aria-label*='Viewers'], .psa-viewers-tab-button").first.click()
    panel = page.locator(".psa-viewers")
    panel.get_by_text("before", exact=True).click()
    panel.get_by_role("button", name="Rename").first.click()
    closed(submit(page, name="after"))
    page.wait_for_function("() => outer.widgets[0].value === 'after'")
    sent = "async () => JSON.stringify((await app.graphToPrompt()).output)"
    assert '"profile_name":"after"' in page.evaluate(sent)


@pytest.mark.parametrize("settings", [{"Comfy.RightSidePanel.IsOpen": True}], ids=["panel"])
def test_the_panel_of_parameters_follows_a_preset(settings, page, server):
    if server.comfyui.version < (0, 4):
        pytest.skip("this ComfyUI has no such panel")
    add(page, "PSAUserProfile")
    page.evaluate("() => app.canvas.selectItems([node])")
    panel = page.locator("[data-testid='properties-panel']")
    panel.get_by_text("religion", exact=True).first.wait_for()
    assert panel.get_by_text("psa_", exact=False).count() == 0, "an empty row for what is no parameter"
    choose(page, "preset", "L1")
    panel.get_by_text("religion", exact=True).first.wait_for(state="detached")
