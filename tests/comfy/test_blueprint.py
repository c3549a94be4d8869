"""The subgraph blueprint: listed where ComfyUI knows of such, true to the nodes in it, and drawing for its viewers."""

import json
from io import BytesIO
from urllib.parse import quote

import numpy as np
from comfy_cli.workflow_to_api import convert_ui_to_api
from graphs import call
from PIL import Image

from psa_core.comfy_server import PACK

NAME = "PSA for viewers"
FILE = PACK / "subgraphs" / f"{NAME}.json"
INPUTS = ["model", "adapter", "profile", *(f"profile_{number}" for number in range(2, 7)), "encoder"]


def blueprint() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_newer_servers_list_it_and_older_ones_are_unharmed(server):
    status, answer = call(server, "/global_subgraphs")
    if status == 404:
        assert server.comfyui.version < (0, 4), "this version should know of subgraphs"
        assert server.object_info()["PSAEncode"]
        return
    ours = {key: entry for key, entry in json.loads(answer).items() if entry["info"]["node_pack"].endswith("psa")}
    assert [entry["name"] for entry in ours.values()] == [NAME]
    _, answer = call(server, f"/global_subgraphs/{quote(next(iter(ours)))}")
    assert json.loads(json.loads(answer)["data"]) == blueprint()


def test_it_takes_a_model_an_adapter_and_six_viewers_and_gives_model_and_labels(server):
    (subgraph,) = blueprint()["definitions"]["subgraphs"]
    (instance,) = blueprint()["nodes"]
    for side, expected in (("inputs", INPUTS), ("outputs", ["model", "labels"])):
        assert [each["name"] for each in subgraph[side]] == expected == [each["name"] for each in instance[side]]
        assert [each["type"] for each in subgraph[side]] == [each["type"] for each in instance[side]]
    assert instance["type"] == subgraph["id"] and subgraph["name"] == NAME


def test_its_nodes_have_the_inputs_and_outputs_that_the_server_describes(server):
    info = server.object_info()
    (subgraph,) = blueprint()["definitions"]["subgraphs"]
    assert [node["type"] for node in subgraph["nodes"]] == ["PSAEncode", "PSAApply"]
    kinds = {(-10, slot): each["type"] for slot, each in enumerate(subgraph["inputs"])}
    takes = {(-20, slot): each["type"] for slot, each in enumerate(subgraph["outputs"])}
    for node in subgraph["nodes"]:
        described = info[node["type"]]
        inputs = {**described["input"]["required"], **described["input"].get("optional", {})}
        assert {each["name"] for each in node["inputs"]} == set(inputs)
        for slot, each in enumerate(node["inputs"]):
            kind = inputs[each["name"]][0]
            assert each["type"] == (kind if isinstance(kind, str) else "COMBO"), each["name"]
            takes[node["id"], slot] = each["type"]
        assert [each["name"] for each in node["outputs"]] == described["output_name"]
        assert [each["type"] for each in node["outputs"]] == described["output"]
        kinds |= {(node["id"], slot): kind for slot, kind in enumerate(described["output"])}
        widgets = [each["name"] for each in node["inputs"] if "widget" in each]
        assert len(node["widgets_values"]) == len(widgets)
        for name, value in zip(widgets, node["widgets_values"], strict=True):
            assert value == inputs[name][1].get("default"), name
    for link in subgraph["links"]:
        start, end = (link["origin_id"], link["origin_slot"]), (link["target_id"], link["target_slot"])
        assert kinds[start] == takes[end] == link["type"], link
    linked = {link["id"] for link in subgraph["links"]}
    named = {each["link"] for node in subgraph["nodes"] for each in node["inputs"]} - {None}
    for each in (*subgraph["inputs"], *subgraph["outputs"]):
        named |= set(each["linkIds"])
    assert named == linked


def test_it_draws_its_viewers_with_their_labels(server):
    """On PSA Mini, with two of the six sockets in use."""
    prompt = convert_ui_to_api(workflow("L0", "L5"), server.object_info())
    kinds = {node["class_type"] for node in prompt.values()}
    assert {"PSAEncode", "PSAApply"} <= kinds
    outputs = server.queue(prompt)
    (saved,) = (node for node, each in prompt.items() if each["class_type"] == "SaveImage")
    (grid,) = (Image.open(BytesIO(server.image(**image))) for image in outputs[saved]["images"])
    assert ["L0\nL5"] in [entry["text"] for entry in outputs.values() if "text" in entry]
    pixels = np.asarray(grid.convert("RGB"), float)
    width = grid.width // 2
    assert grid.width > 2 * 128 and np.abs(pixels[:, 4:width] - pixels[:, width : 2 * width - 4]).max() > 20


def workflow(*levels: str) -> dict:
    """The blueprint in a graph, as the editor saves it."""
    made = blueprint()
    (instance,) = made["nodes"]
    nodes: dict[int, dict] = {instance["id"]: instance}
    links: list[list] = []

    def add(kind: str, inputs: list[tuple[str, str]], outputs: list[str], *values) -> int:
        number = max(nodes) + 1
        nodes[number] = {
            "id": number,
            "type": kind,
            "mode": 0,
            "inputs": [{"name": name, "type": type_, "link": None} for name, type_ in inputs],
            "outputs": [{"name": type_, "type": type_, "links": []} for type_ in outputs],
            "properties": {},
            "widgets_values": list(values),
        }
        return number

    def link(source: int, slot: int, target: int, name: str) -> None:
        place = next(place for place, each in enumerate(nodes[target]["inputs"]) if each["name"] == name)
        kind = nodes[source]["outputs"][slot]["type"]
        links.append([len(links) + 1, source, slot, target, place, kind])
        nodes[target]["inputs"][place]["link"] = len(links)
        nodes[source]["outputs"][slot].setdefault("links", []).append(len(links))

    viewers = instance["id"]
    mini = add("PSALoadMini", [], ["MODEL", "CLIP", "VAE", "PSA_ADAPTER", "PSA_ADAPTER"])
    link(mini, 0, viewers, "model")
    link(mini, 3, viewers, "adapter")
    for name, level in zip(INPUTS[2:], levels, strict=False):
        fields = [30, "male", "None", "healthy", "healthy", "protective", *[False] * 7]
        link(add("PSAUserProfile", [], ["PSA_PROFILE"], level, *fields), 0, viewers, name)
    texts = [add("CLIPTextEncode", [("clip", "CLIP")], ["CONDITIONING"], text) for text in (HEART, "")]
    for text in texts:
        link(mini, 1, text, "clip")
    latent = add("EmptyLatentImage", [], ["LATENT"], 128, 128, len(levels))
    sampler = add(
        "KSampler",
        [("model", "MODEL"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("latent_image", "LATENT")],
        ["LATENT"],
        *(1, "fixed", 8, 3.0, "dpmpp_2m", "karras", 1.0),
    )
    link(viewers, 0, sampler, "model")
    link(texts[0], 0, sampler, "positive")
    link(texts[1], 0, sampler, "negative")
    link(latent, 0, sampler, "latent_image")
    decode = add("VAEDecode", [("samples", "LATENT"), ("vae", "VAE")], ["IMAGE"])
    link(sampler, 0, decode, "samples")
    link(mini, 2, decode, "vae")
    labels = {"name": "labels", "type": "STRING", "widget": {"name": "labels"}, "link": None}
    grid = add("PSALabelGrid", [("images", "IMAGE")], ["IMAGE"], "", 2)
    nodes[grid]["inputs"].append(labels)
    link(decode, 0, grid, "images")
    link(viewers, 1, grid, "labels")
    link(grid, 0, add("SaveImage", [("images", "IMAGE")], [], "viewers"), "images")
    link(viewers, 1, add("PreviewAny", [("source", "*")], []), "source")
    return {
        **made,
        "nodes": list(nodes.values()),
        "links": links,
        "last_node_id": max(nodes),
        "last_link_id": len(links),
    }


HEART = "a meadow with a red circle and a heart"
