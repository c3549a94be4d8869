"""The editor's format becomes the server's."""

import pytest

from psa_core import PSAError
from psa_core.workflow_format import ui_to_api

INFO = {
    "Load": {"input": {"required": {"name": [["a", "b"], {}]}}},
    "Picture": {"input": {"required": {"image": [["x.png"], {"image_upload": True}], "scale": ["FLOAT", {}]}}},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "mode": ["COMBO", {"options": ["fast", "fixed"]}],
            },
            "optional": {"extra": ["MODEL", {}], "note": ["STRING", {}]},
        }
    },
    "Patch": {"input": {"required": {"other": ["LATENT", {}], "model": ["MODEL", {}], "strength": ["FLOAT", {}]}}},
}


def load(id=1, link=1, **more):
    return {
        "id": id,
        "type": "Load",
        "inputs": [],
        "outputs": [{"type": "MODEL", "links": [link]}],
        "widgets_values": ["b"],
        **more,
    }


def sample(link=1, **more):
    inputs = [{"name": "model", "type": "MODEL", "link": link}, {"name": "extra", "type": "MODEL", "link": None}]
    values = [7, "randomize", 30, "fixed", "hello"]
    return {"id": 9, "type": "Sample", "inputs": inputs, "outputs": [], "widgets_values": values, **more}


def convert(nodes, links):
    return ui_to_api({"nodes": nodes, "links": links}, INFO)


def test_widgets_links_and_the_seeds_extra_value():
    assert convert([load(), sample()], [[1, 1, 0, 9, 0, "MODEL"]]) == {
        "1": {"class_type": "Load", "inputs": {"name": "b"}},
        "9": {
            "class_type": "Sample",
            "inputs": {"model": ["1", 0], "seed": 7, "steps": 30, "mode": "fixed", "note": "hello"},
        },
    }


def test_a_seed_saved_without_its_extra_value():
    node = sample(widgets_values=[7, 30, "fast", "hello"])
    assert convert([load(), node], [[1, 1, 0, 9, 0, "MODEL"]])["9"]["inputs"]["steps"] == 30


def test_an_upload_buttons_value_is_left_out():
    node = {"id": 1, "type": "Picture", "inputs": [], "widgets_values": ["x.png", "image", 2.0]}
    assert convert([node], [])["1"]["inputs"] == {"image": "x.png", "scale": 2.0}


def test_a_linked_widget_takes_the_link_and_the_others_keep_their_places():
    node = sample()
    node["inputs"].append({"name": "steps", "type": "INT", "link": 2, "widget": {"name": "steps"}})
    inputs = convert([load(), load(2, 2), node], [[1, 1, 0, 9, 0, "MODEL"], [2, 2, 0, 9, 2, "INT"]])["9"]["inputs"]
    assert inputs["steps"] == ["2", 0] and inputs["seed"] == 7 and inputs["mode"] == "fixed"


def test_a_primitive_gives_its_value():
    node = sample()
    node["inputs"].append({"name": "steps", "type": "INT", "link": 2, "widget": {"name": "steps"}})
    primitive = {"id": 3, "type": "PrimitiveNode", "outputs": [{"type": "INT"}], "widgets_values": [12, "fixed"]}
    prompt = convert([load(), primitive, node], [[1, 1, 0, 9, 0, "MODEL"], [2, 3, 0, 9, 2, "INT"]])
    assert prompt["9"]["inputs"]["steps"] == 12 and set(prompt) == {"1", "9"}


def test_notes_go_and_reroutes_are_followed():
    note = {"id": 4, "type": "MarkdownNote", "widgets_values": ["# Read me"]}
    reroutes = [
        {"id": id, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": link}], "outputs": [{"type": "*"}]}
        for id, link in ((5, 1), (6, 2))
    ]
    prompt = convert(
        [load(), note, *reroutes, sample(3)], [[1, 1, 0, 5, 0, "*"], [2, 5, 0, 6, 0, "*"], [3, 6, 0, 9, 0, "*"]]
    )
    assert prompt["9"]["inputs"]["model"] == ["1", 0] and set(prompt) == {"1", "9"}


@pytest.mark.parametrize(("mode", "model"), [(0, ["2", 0]), (4, ["1", 0]), (2, None)], ids=["on", "bypassed", "muted"])
def test_bypassed_and_muted_nodes(mode, model):
    patch = {
        "id": 2,
        "type": "Patch",
        "mode": mode,
        "inputs": [{"name": "other", "type": "LATENT", "link": None}, {"name": "model", "type": "MODEL", "link": 1}],
        "outputs": [{"type": "MODEL", "links": [2]}],
        "widgets_values": [1.0],
    }
    prompt = convert([load(), patch, sample(2)], [[1, 1, 0, 2, 1, "MODEL"], [2, 2, 0, 9, 0, "MODEL"]])
    assert prompt["9"]["inputs"].get("model") == model
    assert ("2" in prompt) == (mode == 0)


def test_other_formats_and_unknown_nodes_get_a_sentence():
    with pytest.raises(PSAError, match="lacks 'nodes' and 'links'"):
        ui_to_api({"1": {"class_type": "Load", "inputs": {}}}, INFO)
    with pytest.raises(PSAError, match="no node 'Other'"):
        convert([load(type="Other")], [])
