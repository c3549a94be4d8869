"""Whatever text is typed into a node that takes one: a result or a sentence, and the server goes on."""

import pytest
from filled import inputs, kinds
from graphs import Graph
from pair_sets import write_pair_set

from psa_core.comfy_server import ComfyServer
from psa_core.errors import PSAError

TEXTS = {
    "NUL": "a\0b",
    "half a pair": "\ud800",
    "long": "x" * 5000,
    "digits": "9" * 5000,
    "home of NUL": "~\0x",
    "nobody's home": "~nobody-at-all/x",
    "device": "/dev/zero",
    "parent": "../../user/__psa_profiles",
    "backwards": "\u202egnp.a",
    "address": "http://[",
    "elsewhere": "http://evil.example/v1",
    "lines": "a\n" * 5000,
    "parentheses": "(" * 5000 + ")" * 5000,
    "numbers": ", ".join(f"{number / 1000:g}" for number in range(1, 5000)),
    "letters": "".join(map(chr, range(0x4E00, 0x4E00 + 5000))),
}

FEW_PROMPTS = {"concepts": "", "scenes": "mini", "pairs": 1, "harmless": 0, "implied": 0.0}


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    base = tmp_path_factory.mktemp("bad texts")
    write_pair_set(base / "input" / "pairs", {"train": (range(3), 2), "val": (range(3), 2)})
    with ComfyServer(comfy, base) as running:
        yield running


def said_of(server: ComfyServer, graph: Graph) -> str:
    try:
        server.run(graph.prompt)
    except PSAError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_in_any_node(server, text):
    nodes = {name: node for name, node in server.object_info().items() if name.startswith("PSA")}
    typed = [(name, field) for name, node in nodes.items() for field, kind in kinds(node).items() if kind == "STRING"]
    for name, field in typed:
        graph = Graph()
        more = {"judge": "vision-language model"} if field.startswith("judge_") else {}
        if name == "PSABuildDataset" and field != "prompts_file":
            more["prompts"] = graph.add("PSAConcepts", **inputs(graph, nodes["PSAConcepts"], **FEW_PROMPTS))
        link = graph.add(name, **inputs(graph, nodes[name], **more, **{field: text}))
        if not nodes[name]["output_node"]:
            graph.add("PreviewAny", source=link)
        said = said_of(server, graph)
        assert "bug of ours" not in said and "Exception when" not in said and "Traceback" not in said, (field, said)
        assert len(said) < 1000, (name, field, said)
    assert len(typed) > 15
    assert server.object_info()  # it is still there
