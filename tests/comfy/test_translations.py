"""What ComfyUI hands its page in other languages has a name for every input and output of every node, and no other."""

import json

import pytest
from graphs import call


@pytest.mark.parametrize("language", ["ko", "zh", "ja"])
def test_every_input_and_output_is_translated(server, language):
    shown = {
        name: ({each for kind in ("required", "optional") for each in node["input"].get(kind, {})}, len(node["output"]))
        for name, node in server.object_info().items()
        if name.startswith("PSA")
    }
    translated = json.loads(call(server, "/i18n")[1])[language]["nodeDefs"]
    assert shown == {
        name: (set(node.get("inputs", {})), len(node.get("outputs", {})))
        for name, node in translated.items()
        if name.startswith("PSA")
    }


def test_every_output_has_a_tooltip(server):
    nodes = {name: node for name, node in server.object_info().items() if name.startswith("PSA")}
    silent = [name for name, node in nodes.items() if not all(node.get("output_tooltips") or [not node["output"]])]
    assert silent == []
