"""Whatever text is typed into a node that takes one: a result or a sentence, and the server goes on."""

import json

import pytest
from graphs import Graph, Link, output
from pair_sets import write_pair_set

from psa_core.comfy_server import ComfyServer
from psa_core.errors import PSAError

TEXTS = {
    "NUL": "a\0b",
    "half a pair": "\ud800",
    "long": "x" * 5000,
    "digits": "9" * 5000,
    "nobody's home": "~nobody-at-all/x",
    "device": "/dev/zero",
    "parent": "../../user/__psa_profiles",
    "backwards": "\u202egnp.a",
    "address": "http://[",
    "elsewhere": "http://evil.example/v1",
}


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    base = tmp_path_factory.mktemp("bad texts")
    write_pair_set(base / "input" / "pairs", {"train": (range(3), 2), "val": (range(3), 2)})
    with ComfyServer(comfy, base) as running:
        yield running


def given(graph: Graph, kind: object, settings: dict, mini: Link) -> object:
    """Something good for an input of that kind: as small, and as soon done, as it can be."""
    sockets = {
        "MODEL": lambda: mini,
        "CLIP": lambda: output(mini, 1),
        "VAE": lambda: output(mini, 2),
        "PSA_ADAPTER": lambda: output(mini, 3),
        "IMAGE": lambda: graph.add("EmptyImage", width=128, height=128, batch_size=1, color=0),
        "PSA_PROFILE": lambda: graph.add("PSALoadProfile", profile_name="viewer"),
        "PSA_DATASET": lambda: graph.add("PSALoadDataset", folder="pairs", split="train", skip_bad=False),
    }
    if kind in sockets:
        return sockets[kind]()
    if isinstance(kind, list) or kind == "COMBO":
        options = kind if isinstance(kind, list) else settings["options"]
        return settings.get("default", options[0])
    if kind == "INT":
        return settings.get("min", 0)
    return settings.get("default", "")


def inputs(graph: Graph, node: dict, mini: Link, **mine: object) -> dict[str, object]:
    required = node["input"].get("required", {})
    filled = {name: given(graph, kind, *(rest or [{}]), mini) for name, (kind, *rest) in required.items()}
    return filled | mine


def texts_of(node: dict) -> list[str]:
    """The names of the inputs into which a text is typed."""
    every = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return [
        name for name, (kind, *rest) in every.items() if kind == "STRING" and not (rest and rest[0].get("forceInput"))
    ]


def said_of(server: ComfyServer, graph: Graph) -> str:
    try:
        server.run(graph.prompt)
    except PSAError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_in_any_node(server, text):
    tried = 0
    for name, node in server.object_info().items():
        for typed in texts_of(node) if name.startswith("PSA") else []:
            graph = Graph()
            mini = graph.add("PSALoadMini")
            more = {"prompts": graph.add("PSAConcepts", **concepts(server))} if name == "PSABuildDataset" else {}
            if typed == "prompts_file":
                more = {}
            judge = {"judge": "vision-language model"} if typed.startswith("judge_") else {}
            link = graph.add(name, **inputs(graph, node, mini, **more, **judge, **{typed: text}))
            if not node["output_node"]:
                graph.add("PreviewAny", source=link)
            said = said_of(server, graph)
            assert "bug of ours" not in said and "Exception when" not in said and "Traceback" not in said, (typed, said)
            assert len(said) < 1000, (name, typed, said)
            tried += 1
    assert tried > 15
    assert json.loads(json.dumps(server.object_info()))  # it is still there


def concepts(server: ComfyServer) -> dict[str, object]:
    node, graph = server.object_info()["PSAConcepts"], Graph()
    return inputs(graph, node, []) | {"concepts": "", "scenes": "mini", "pairs": 1, "harmless": 0, "implied": 0.0}
