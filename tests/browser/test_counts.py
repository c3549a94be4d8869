"""In a real page a node shows the settings that count, and no others."""

from in_page import add, choose, shown

CASES = [
    ("PSAConcepts", ["templates"], {"scenes": "mini"}, {"scenes": "everyday"}),
    ("PSAConcepts", ["server_address", "server_model"], {"writer": "templates"}, {"writer": "server"}),
    ("PSABuildDataset", ["users", "rules", "departures"], {"users_file": "people.csv"}, {"users_file": ""}),
    ("PSABuildDataset", ["judge_location"], {"judge": "nobody"}, {"judge": "vision-language model"}),
    (
        "PSABuildDataset",
        ["judge_model"],
        {"judge": "vision-language model", "judge_location": "models/judge"},
        {"judge": "vision-language model", "judge_location": "http://127.0.0.1:8000/v1"},
    ),
    ("PSAUserSpace", ["count", "seed", "rules", "departures"], {"users": "people.csv"}, {"users": " "}),
    ("PSALoadDataset", ["folder"], {"elsewhere": "/data"}, {"elsewhere": ""}),
    (
        "PSALoadEncoder",
        ["templates", "banned_by", "keep_loaded"],
        {"encoder_name": "structured"},
        {"encoder_name": "Q"},
    ),
    ("PSATrain", ["learning_rate", "resolution", "num_tokens"], {"preset": "published"}, {"preset": "custom"}),
    (
        "PSAEvaluate",
        ["judge_model"],
        {"judge": "Q16 classifier", "judge_location": "http://x"},
        {"judge": "vision-language model", "judge_location": "http://x"},
    ),
    ("PSAGuard", ["sensitivity"], {"judge": "NudeNet"}, {"judge": "zero-shot CLIP"}),
    ("PSAGuard", ["more_strength"], {"tries": 0}, {"tries": 1}),
]


def set_all(page, values: dict) -> None:
    for widget, value in values.items():
        choose(page, widget, value)


def test_what_does_not_count_is_hidden_and_comes_back_with_its_value(page):
    for kind, names, without, with_them in CASES:
        page.evaluate("() => app.graph.clear()")
        add(page, kind)
        set_all(page, with_them)
        all_shown = shown(page)
        assert set(names) <= set(all_shown), (kind, names)
        height = page.evaluate("() => node.size[1]")
        set_all(page, without)
        assert not set(names) & set(shown(page)), (kind, names)
        assert page.evaluate("() => node.size[1]") < height, (kind, names)
        set_all(page, with_them)
        assert shown(page) == all_shown, (kind, names)
        assert page.evaluate("() => node.size[1]") == height, (kind, names)


def test_a_data_set_that_is_connected_hides_the_folder(page):
    page.evaluate(
        """() => {
            const make = (kind) => { const each = LiteGraph.createNode(kind); app.graph.add(each); return each; };
            window.node = make('PSACheckDataset');
            window.slot = node.inputs.findIndex((each) => each.name === 'dataset');
            make('PSALoadDataset').connect(0, node, slot);
        }"""
    )
    assert "folder" not in shown(page) and "users" in shown(page)
    page.evaluate("() => node.disconnectInput(slot)")
    assert "folder" in shown(page)


def test_what_depends_on_a_value_from_another_node_is_shown(page):
    page.evaluate(
        """() => {
            const make = (kind) => { const each = LiteGraph.createNode(kind); app.graph.add(each); return each; };
            window.node = make('PSABuildDataset');
            node.widgets.find((each) => each.name === 'users_file').value = 'people.csv';
            const slot = node.inputs.findIndex((each) => each.name === 'users_file');
            make('PrimitiveString').connect(0, node, slot);
        }"""
    )
    assert {"users", "rules", "departures"} <= set(shown(page))


def test_a_saved_graph_opens_with_what_counts(page):
    add(page, "PSABuildDataset")
    choose(page, "users_file", "people.csv")
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()); window.node = app.graph.nodes[0]; }")
    assert shown(page)["users_file"] == "people.csv" and "users" not in shown(page)


def test_hidden_text_is_drawn_nowhere(page):
    add(page, "PSAConcepts")
    texts = "() => [...document.querySelectorAll('textarea')].filter((each) => each.checkVisibility()).length"
    page.wait_for_function(f"() => ({texts})() === 2")
    choose(page, "scenes", "mini")
    page.wait_for_function(f"() => ({texts})() === 1")
