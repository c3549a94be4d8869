"""ComfyUI's two graph formats: the one its editor saves, and the one its server runs."""

from collections.abc import Mapping
from typing import Any

from .errors import PSAError

_MUTED, _BYPASSED = 2, 4
_NOT_ON_SERVER = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
_AFTER_SEED = {"fixed", "increment", "decrement", "randomize"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def ui_to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a workflow as the editor saves it into the prompt graph that the server's `/prompt` takes.

    Notes go; reroutes, primitives, bypassed and muted nodes are resolved as the editor does it.

    Args:
        workflow: the saved file's content: `nodes` and `links`.
        object_info: the server's `/object_info`: which inputs each node has, in order.

    Raises:
        PSAError: for a file of another format, subgraphs, or node types that the server lacks.
    """
    if not isinstance(workflow.get("nodes"), list) or not isinstance(workflow.get("links"), list):
        raise PSAError("This is no workflow as ComfyUI's editor saves it: it lacks 'nodes' and 'links'.")
    graph = _Graph(workflow)
    prompt = {}
    for node in graph.nodes.values():
        if node["type"] in _NOT_ON_SERVER or node.get("mode", 0) in (_MUTED, _BYPASSED):
            continue
        if node["type"] not in object_info:
            raise PSAError(
                f"This ComfyUI has no node {node['type']!r}, which the workflow needs. Install the pack it comes from."
            )
        inputs = _widget_inputs(node, object_info[node["type"]]["input"])
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                inputs.pop(slot["name"], None)
                source = graph.source(slot["link"])
                if source is not None:
                    inputs[slot["name"]] = source
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


class _Graph:
    def __init__(self, workflow: Mapping[str, Any]) -> None:
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: (link[1], link[2]) for link in workflow["links"]}

    def source(self, link: int) -> Any:
        """What a link brings: [node id, output slot], a primitive's value, or `None` where it ends in nothing."""
        while link in self.links:
            node_id, slot = self.links[link]
            node = self.nodes[node_id]
            if node["type"] == "PrimitiveNode":
                return node["widgets_values"][0]
            if node["type"] != "Reroute" and node.get("mode", 0) not in (_MUTED, _BYPASSED):
                return [str(node_id), slot]
            if node.get("mode", 0) == _MUTED:
                return None
            link = self._link_past(node, slot)
        return None

    @staticmethod
    def _link_past(node: Mapping[str, Any], slot: int) -> Any:
        """The input link that a reroute or bypassed node passes on to its output `slot`."""
        inputs = node.get("inputs", [])
        if node["type"] == "Reroute":
            return inputs[0].get("link") if inputs else None
        wanted = node["outputs"][slot]["type"]
        same_place = inputs[slot : slot + 1]  # the editor prefers the input at the output's own place
        return next((entry.get("link") for entry in (*same_place, *inputs) if entry["type"] == wanted), None)


def _widget_inputs(node: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """The node's widget values by input name."""
    values = node.get("widgets_values") or []
    if isinstance(values, Mapping):  # some packs save them by name
        return dict(values)
    remaining = list(values)
    inputs = {}
    for name, (kind, *rest) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
        options = rest[0] if rest else {}
        if not remaining or options.get("forceInput") or not (isinstance(kind, list) or kind in _WIDGET_TYPES):
            continue
        inputs[name] = remaining.pop(0)
        extra = remaining[0] if remaining else None
        seed = kind == "INT" and (options.get("control_after_generate") or name in ("seed", "noise_seed"))
        if (seed and extra in _AFTER_SEED) or (options.get("image_upload") and extra == "image"):
            remaining.pop(0)  # the editor's own widget after a seed or a file menu
    return inputs
