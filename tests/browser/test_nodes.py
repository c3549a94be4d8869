"""What nodes say and show in a real page, drawn on the canvas and as HTML: words, pictures, sockets, sizes."""

import json
import time

import pytest
from graphs import call

CLASSIC, HTML = False, True
READY = """() => {
    window.make = (kind, values = {}) => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        for (const [name, value] of Object.entries(values)) node.widgets.find(each => each.name === name).value = value;
        return node;
    };
    window.link = (from, to, input, output = 0) =>
        from.connect(output, to, to.inputs.findIndex(each => each.name === input));
    window.said = (node) => {
        const widget = node?.widgets?.find(each => each.name === "psa_result");
        return widget && !widget.hidden ? widget.element.textContent : "";
    };
    window.kind = (name) => app.graph.nodes.find(each => each.type === name);
    window.viewers = (node) => node.inputs.filter(each => each.name.startsWith("profile")).map(each => each.name);
    window.run = (command) => app.extensionManager.command.execute(command);
}"""
QUEUE = "() => app.queuePrompt(0, 1)"
CHOOSE = """([name, value]) => {
    const widget = node.widgets.find(each => each.name === name);
    widget.value = value;
    widget.callback(value);
}"""
PROFILE = {"Age": 30, "Gender": "male", "Religion": "None", "Physical_Condition": "healthy"}
PROFILE |= {"Mental_Condition": "healthy", "Rules": "protective"}


@pytest.fixture(params=[CLASSIC, HTML], ids=["classic", "html"])
def settings(request, server):
    if request.param and server.comfyui.version < (0, 4):
        pytest.skip("this ComfyUI does not draw nodes as HTML")
    return {"Comfy.VueNodes.Enabled": request.param}


@pytest.fixture(autouse=True)
def _ready(page, server):
    for file in server.base.glob("user/__psa_profiles/*/*.json"):
        file.unlink()
    page.evaluate(READY)


def store(server, name: str) -> None:
    status, said = call(server, "/psa/profiles", {"name": name, "profile": PROFILE})
    assert status == 200, said


def wait(page, condition: str) -> None:
    page.wait_for_function(f"() => {condition}")


def test_an_error_goes_when_the_next_run_is_queued(page, server):
    store(server, "viewer A")
    page.evaluate(
        """() => {
            const loader = make("PSALoadProfile", { profile_name: "(choose a stored viewer)" });
            link(loader, make("PSASaveProfile", { name: "viewer B" }), "profile");
        }"""
    )
    page.evaluate(QUEUE)
    nobody = "There is no stored profile of that name. Pick one from the list, or store one: press New profile on it."
    wait(page, f"said(kind('PSALoadProfile')) === '{nobody}'")
    page.evaluate("() => { kind('PSALoadProfile').widgets[0].value = 'viewer A'; }")
    page.evaluate(QUEUE)
    wait(page, "said(kind('PSASaveProfile')).startsWith('Stored as viewer B')")
    assert page.evaluate("() => said(kind('PSALoadProfile'))") == ""


def test_a_value_with_a_dash_in_it_is_said_whole(page):
    page.evaluate("() => { make('PSAConcepts', { pairs: 'a - b' }); }")
    page.evaluate(QUEUE)
    wait(page, "said(kind('PSAConcepts')).includes('pairs, a - b, invalid literal')")


def test_undo_keeps_what_nodes_said(page, server):
    page.evaluate(
        "() => link(make('PSAUserProfile', { preset: 'L3' }), make('PSASaveProfile', { name: 'viewer C' }), 'profile')"
    )
    page.mouse.click(1500, 800)  # what was done so far is one step
    page.evaluate(QUEUE)
    wait(page, "said(kind('PSASaveProfile')).startsWith('Stored as')")
    page.evaluate("() => { make('Note'); }")
    page.mouse.click(1500, 800)
    page.evaluate("async () => { window.earlier = kind('PSASaveProfile'); await run('Comfy.Undo'); }")
    wait(page, "!kind('Note') && kind('PSASaveProfile') !== earlier")
    wait(page, "said(kind('PSASaveProfile')).startsWith('Stored as')")


def test_words_go_to_the_workflow_that_runs(page, server):
    """Another tab's nodes have the same numbers. The run waits behind a slow one, until the other tab is open."""
    graph = {
        "1": {"class_type": "PSALoadMini", "inputs": {}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a meadow"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
            | {"seed": int(time.time()), "steps": 100, "cfg": 3, "sampler_name": "euler", "scheduler": "normal"}
            | {"denoise": 1},
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }
    assert call(server, "/prompt", {"prompt": graph})[0] == 200
    page.evaluate(
        "() => link(make('PSAUserProfile', { preset: 'L3' }), make('PSASaveProfile', { name: 'viewer D' }), 'profile')"
    )
    page.mouse.click(1500, 800)  # what is in the tab is kept by that
    page.evaluate(QUEUE)
    page.evaluate("async () => { await run('Comfy.NewBlankWorkflow'); app.graph.clear(); }")
    page.evaluate("() => { make('PSALoadMini'); make('PSASaveProfile'); make('PSAUserProfile'); }")
    wait(page, "fetch('/psa/profiles').then(answer => answer.json()).then(({ names }) => names.includes('viewer D'))")
    page.wait_for_timeout(500)
    assert page.evaluate("() => app.graph.nodes.map(said).join('')") == "", "another workflow's words"
    page.evaluate("() => run('Workspace.PreviousOpenedWorkflow')")
    wait(page, "said(kind('PSASaveProfile')).startsWith('Stored as viewer D')")


def test_the_pictures_of_a_run_take_the_place_of_its_previews(page, server):
    page.evaluate(
        """() => {
            window.previews = 0;
            app.api.addEventListener("b_preview_with_metadata", () => (window.previews += 1));
            const mini = make("PSALoadMini");
            const values = { prompts: "a meadow with a heart", strengths: "1", steps: 2, filename_prefix: "compared" };
            const compare = make("PSACompare", values);
            ["model", "clip", "vae", "adapter"].forEach((input, output) => link(mini, compare, input, output));
            link(make("PSAUserProfile", { preset: "L5" }), compare, "profile");
        }"""
    )
    page.evaluate(QUEUE)
    wait(page, "said(kind('PSACompare')).includes('Saved in the output folder')")
    assert page.evaluate("() => previews") > 0
    if page.evaluate("() => LiteGraph.vueNodesMode ?? false"):
        images = page.locator(f"[data-node-id='{page.evaluate('() => kind(`PSACompare`).id')}'] img")
        page.wait_for_function("(image) => image.src.includes('compared')", arg=images.first.element_handle())
        assert not any("blob:" in image.get_attribute("src") for image in images.all()), "a preview beside them"
    else:
        pictures = "kind('PSACompare').imgs"
        wait(page, f"{pictures}?.length === 2 && {pictures}.every(each => each.src.includes('compared'))")


def test_a_subgraph_says_what_is_wrong_within(page):
    page.evaluate(
        """() => {
            const mini = make("PSALoadMini");
            const encode = make("PSAEncode");
            const apply = make("PSAApply");
            link(mini, apply, "model");
            link(encode, apply, "embedding");
            const sampler = make("KSampler", { steps: 1 });
            link(apply, sampler, "model");
            const text = make("CLIPTextEncode");
            link(mini, text, "clip", 1);
            link(text, sampler, "positive");
            link(text, sampler, "negative");
            link(make("EmptyLatentImage", { width: 128, height: 128 }), sampler, "latent_image");
            const decode = make("VAEDecode");
            link(sampler, decode, "samples");
            link(mini, decode, "vae", 2);
            link(decode, make("PreviewImage"), "images");
            link(make("PSAUserProfile", { preset: "L3" }), encode, "profile");
            app.graph.convertToSubgraph(new Set([encode, apply]));
            window.outer = app.graph.nodes.find(each => each.subgraph);
        }"""
    )
    page.evaluate(QUEUE)
    wait(page, "said(outer).includes('PSA Apply to Model takes an adapter and an embedding')")
    assert page.evaluate("() => outer.subgraph.nodes.filter(said).length") > 0
    page.evaluate(
        """() => {
            const apply = outer.subgraph.nodes.find(each => each.type === "PSAApply");
            const adapter = LiteGraph.createNode("PSALoadMini");
            outer.subgraph.add(adapter);
            link(adapter, apply, "adapter", 3);
        }"""
    )
    page.evaluate(QUEUE)
    wait(page, "said(outer).includes('For 1 viewer')")
    assert "takes an adapter" not in page.evaluate("() => said(outer)")


def test_a_new_node_is_wide_enough_for_its_title(page):
    cut = """() => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.font = `${LiteGraph.NODE_TEXT_SIZE}px ${LiteGraph.NODE_FONT}`;
        const edges = 2 * LiteGraph.NODE_TITLE_HEIGHT;
        const isCut = node => node.size[0] < canvas.measureText(node.title).width + edges;
        return Object.keys(LiteGraph.registered_node_types).filter(kind => kind.startsWith("PSA") && isCut(make(kind)));
    }"""
    assert page.evaluate(cut) == []


def test_sockets_for_viewers_come_and_go(page):
    page.evaluate("() => { window.node = make('PSAEncode'); }")
    page.evaluate("() => { window.people = [1, 2, 3, 4].map(() => make('PSAUserProfile')); }")
    assert page.evaluate("() => viewers(node)") == ["profile", "profile_2"]
    for number in range(1, 4):
        page.evaluate("(n) => { link(people[n - 1], node, n > 1 ? `profile_${n}` : 'profile'); }", number)
    assert page.evaluate("() => viewers(node)") == ["profile", "profile_2", "profile_3", "profile_4"]
    assert page.evaluate("() => node.inputs.map(each => each.name)")[1] == "encoder"
    page.evaluate("() => node.disconnectInput(node.inputs.findIndex(each => each.name === 'profile_2'))")
    assert page.evaluate("() => viewers(node)") == ["profile", "profile_2", "profile_3"]
    page.evaluate("() => { link(people[3], node, 'profile_3'); }")  # in the place of another
    linked = "async () => (await app.graphToPrompt()).output[node.id].inputs"
    ids = page.evaluate("() => people.map(each => String(each.id))")
    assert page.evaluate(linked) == {"profile": [ids[0], 0], "profile_3": [ids[3], 0]}
    if page.evaluate("() => LiteGraph.vueNodesMode ?? false"):
        drawn = page.locator(f"[data-node-id='{page.evaluate('() => node.id')}']")
        drawn.get_by_text("profile_3", exact=True).wait_for()
        assert drawn.get_by_text("profile_4", exact=True).count() == 0
    for name in ("profile", "profile_3"):
        page.evaluate("(name) => node.disconnectInput(node.inputs.findIndex(each => each.name === name))", name)
    assert page.evaluate("() => viewers(node)") == ["profile", "profile_2"]


def test_undo_takes_back_a_link_and_its_socket_in_one_step(page):
    page.evaluate("() => { make('PSAEncode'); make('PSAUserProfile'); }")
    wait(page, "kind('PSAUserProfile').widgets.at(-1).element.textContent")  # its chips have the room that they need
    page.mouse.click(1500, 800)
    page.evaluate("() => { link(kind('PSAUserProfile'), kind('PSAEncode'), 'profile_2'); }")
    page.mouse.click(1500, 800)
    assert page.evaluate("() => viewers(kind('PSAEncode'))") == ["profile", "profile_2", "profile_3"]
    page.evaluate("() => run('Comfy.Undo')")
    wait(page, "kind('PSAEncode').inputs.every(each => each.link == null)")
    assert page.evaluate("() => viewers(kind('PSAEncode'))") == ["profile", "profile_2"]
    page.mouse.click(1500, 800)
    page.evaluate("() => run('Comfy.Redo')")
    wait(page, "kind('PSAEncode').inputs.some(each => each.link != null)")
    assert page.evaluate("() => viewers(kind('PSAEncode'))") == ["profile", "profile_2", "profile_3"]


@pytest.mark.parametrize("kind", ["PSAEncode", "PSAAudience", "PSAGuard", "PSACompare"])
def test_links_of_a_workflow_of_before_stay_where_they_were(page, kind):
    """Such a node was saved with all its inputs, and may have links at any of them."""
    names = ["profile", "profile_3", "profile_8"]
    saved = page.evaluate(
        """async ([kind, names]) => {
            const described = (await (await fetch(`/object_info/${kind}`)).json())[kind].input;
            const all = { ...described.required, ...described.optional };
            const node = make(kind);
            const people = names.map(() => make("PSAUserProfile"));
            const graph = app.graph.serialize();
            const one = graph.nodes.find(each => String(each.id) === String(node.id));
            const before = Object.fromEntries(one.inputs.map(each => [each.name, each]));
            const isFurther = (name) => /^profile_/.test(name);
            one.inputs = Object.keys(all).filter(name => before[name] || isFurther(name))
                .map(name => before[name] ?? { name, type: "PSA_PROFILE", link: null, shape: 7 });
            graph.links = names.map((name, number) => {
                const slot = one.inputs.findIndex(each => each.name === name);
                one.inputs[slot].link = number + 1;
                graph.nodes.find(each => String(each.id) === String(people[number].id)).outputs[0].links = [number + 1];
                return [number + 1, people[number].id, 0, node.id, slot, "PSA_PROFILE"];
            });
            graph.last_link_id = names.length;
            await app.loadGraphData(graph);
            return Object.fromEntries(names.map((name, number) => [name, [String(people[number].id), 0]]));
        }""",
        [kind, names],
    )
    inputs = """async (kind) =>
        Object.values((await app.graphToPrompt()).output).find(each => each.class_type === kind).inputs"""
    links = {name: value for name, value in page.evaluate(inputs, kind).items() if isinstance(value, list)}
    assert links == saved
    assert page.evaluate("(name) => viewers(kind(name))", kind) == ["profile", "profile_2", "profile_3", "profile_8"]
    page.evaluate("async () => app.loadGraphData(app.graph.serialize())")
    again = {name: value for name, value in page.evaluate(inputs, kind).items() if isinstance(value, list)}
    assert again == saved


def test_a_prompt_in_the_api_format_opens_with_its_links_and_bans(page):
    values = {"age": 12, "gender": "male", "religion": "None", "physical_condition": "healthy"}
    values |= {"preset": "custom", "mental_condition": "healthy", "banned": "chosen", "ban_hate": True}
    prompt = {
        "3": {"class_type": "PSAUserProfile", "inputs": values | {"ban_violence": False}},
        "5": {"class_type": "PSAEncode", "inputs": {"profile_8": ["3", 0], "profile_4": ["3", 0], "profile": ["3", 0]}},
    }
    page.evaluate("async (prompt) => { await app.loadApiJson(prompt, 'a prompt'); }", prompt)
    page.wait_for_timeout(500)
    opened = page.evaluate("async () => (await app.graphToPrompt()).output")
    inputs = {node["class_type"]: node["inputs"] for node in opened.values()}
    encode, person = inputs["PSAEncode"], inputs["PSAUserProfile"]
    assert set(encode) == {"profile", "profile_4", "profile_8"}
    assert person["ban_hate"] is True and person["ban_violence"] is False
    assert page.evaluate("() => viewers(kind('PSAEncode'))") == ["profile", "profile_2", "profile_4", "profile_8"]


def test_copies_and_subgraphs_keep_each_link_at_its_socket(page):
    page.evaluate(
        """() => {
            window.node = make("PSAGuard");
            window.people = [1, 2, 3].map(() => make("PSAUserProfile"));
            people.forEach((each, n) => { link(each, node, n ? `profile_${n + 1}` : "profile"); });
        }"""
    )
    page.evaluate("() => { link(make('EmptyImage'), node, 'images'); }")
    named = """(node) => Object.fromEntries(node.inputs.filter(each => each.link != null)
        .map(each => [each.name, app.graph.getNodeById((app.graph.getLink(each.link)).origin_id).type]))"""
    wired = {"images": "EmptyImage", **dict.fromkeys(("profile", "profile_2", "profile_3"), "PSAUserProfile")}
    assert page.evaluate(f"() => ({named})(node)") == wired
    page.evaluate(
        """() => {
            app.canvas.selectItems([...app.graph.nodes]);
            app.canvas.copyToClipboard();
            app.canvas.pasteFromClipboard();
            window.copy = app.graph.nodes.findLast(each => each.type === "PSAGuard");
        }"""
    )
    assert page.evaluate("() => copy !== node")
    assert page.evaluate(f"() => ({named})(copy)") == wired
    assert page.evaluate("() => viewers(copy)") == ["profile", "profile_2", "profile_3", "profile_4"]
    page.evaluate("() => { const alone = node.clone(); app.graph.add(alone); window.alone = alone; }")
    wait(page, "viewers(alone).length === 2")
    inputs = """async () => Object.entries(Object.values((await app.graphToPrompt()).output)
        .find(each => each.class_type === "PSAGuard").inputs).filter(([, value]) => Array.isArray(value)).sort()"""
    page.evaluate("() => { app.graph.remove(alone); app.graph.remove(copy); }")
    before = page.evaluate(inputs)
    page.evaluate("() => { app.graph.convertToSubgraph(new Set([node])); }")
    assert page.evaluate(inputs) == before


def test_a_size_that_a_person_chose_stays(page):
    page.evaluate("() => { window.node = make('PSAUserProfile'); node.setSize([400, 900]); }")
    page.evaluate(CHOOSE, ["age", 9])
    wait(page, "node.widgets.at(-1).element.textContent.includes('Shocking')")
    assert page.evaluate("() => node.size[1]") == 900
    page.evaluate("async () => app.loadGraphData(app.graph.serialize())")
    wait(page, "kind('PSAUserProfile').widgets.at(-1).element.textContent.includes('Shocking')")
    assert page.evaluate("() => kind('PSAUserProfile').size[1]") == 900


def test_a_preset_makes_the_node_lower(page):
    page.evaluate("() => { window.node = make('PSAUserProfile'); }")
    wait(page, "node.widgets.at(-1).element.textContent")
    height = "() => node.size[1]"
    if page.evaluate("() => LiteGraph.vueNodesMode ?? false"):
        height = "() => document.querySelector(`[data-node-id='${node.id}']`).offsetHeight"
    before = page.evaluate(height)
    page.evaluate(CHOOSE, ["preset", "L1"])
    page.wait_for_function(f"(before) => ({height})() < before - 100", arg=before)


def test_settings_that_do_not_count_are_hidden(page):
    shown = "() => node.widgets.filter(each => !each.hidden && each.type !== 'button').map(each => each.name)"
    page.evaluate("() => { window.node = make('PSAGuard'); }")
    assert not {"judge_location", "judge_model", "more_strength"} & set(page.evaluate(shown))
    page.evaluate(CHOOSE, ["tries", 1])
    page.evaluate(CHOOSE, ["judge", "vision-language model"])
    page.evaluate(CHOOSE, ["judge_location", "http://127.0.0.1:8000/v1"])
    assert {"judge_location", "judge_model", "more_strength"} <= set(page.evaluate(shown))
    assert "sensitivity" not in page.evaluate(shown)
    page.evaluate("() => { window.node = make('PSALoadEncoder'); }")
    assert page.evaluate(shown) == ["encoder_name"]
    page.evaluate(CHOOSE, ["encoder_name", "Qwen/Qwen2.5-7B-Instruct"])
    assert page.evaluate(shown) == ["encoder_name", "templates", "banned_by", "keep_loaded"]
    page.evaluate("() => { window.node = make('PSAEvaluate'); }")
    assert not {"judge_location", "judge_model"} & set(page.evaluate(shown))
    page.evaluate(CHOOSE, ["judge", "Q16 classifier"])
    assert "judge_location" in page.evaluate(shown)


def test_a_choice_of_bans_beside_a_link_allows_nothing(page):
    page.evaluate("() => { window.node = make('PSAUserProfile'); link(make('PrimitiveInt'), node, 'age'); }")
    page.evaluate(CHOOSE, ["banned", "chosen"])
    wait(page, "node.widgets.filter(each => each.name.startsWith('ban_')).every(each => each.value === true)")
    wait(page, "node.widgets.at(-1).element.textContent.includes('All are switched on')")
    wait(page, "node.widgets.at(-1).element.textContent.includes('Propaganda')")


def test_colours_stay_when_another_palette_is_chosen(page):
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    wait(page, "LiteGraph.NODE_DEFAULT_BGCOLOR !== '#353535'")
    found = page.evaluate(
        """() => ["PSA_PROFILE", "PSA_PROMPTS", "PSA_GUARD_ROUND"].map(type => [
            LGraphCanvas.link_type_colors[type],
            app.canvas.default_connection_color_byType[type],
            getComputedStyle(document.body).getPropertyValue(`--color-datatype-${type}`).trim(),
        ])"""
    )
    assert [row[0] for row in found] == ["#e08fb3", "#6fb7d6", "#a8a29a"]
    assert all(len(set(row)) == 1 for row in found), json.dumps(found)


def test_lists_know_a_saved_effect_at_once(page):
    page.evaluate(
        """() => {
            window.list = make("PSALoadEffect");
            const save = make("PSASaveEffect", { name: "from-the-page" });
            link(make("PSALoadMini"), save, "adapter", 3);
            link(make("PSAUserProfile", { preset: "L2" }), save, "profile");
        }"""
    )
    page.evaluate(QUEUE)
    wait(page, "list.widgets[0].options.values.includes('from-the-page.safetensors')")
