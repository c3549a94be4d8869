"""Drawing again with more strength: the nodes that drew a picture, once more, from PSA Apply to Model on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from comfy_execution.graph_utils import GraphBuilder, is_link

from ...psa_core.adapter.model import MAX_STRENGTH
from ...psa_core.errors import PSAError

_APPLY, _STRENGTH = "PSAApply", "strength"
_INSTEAD = "or set the guard's tries to 0"

Nodes = Callable[[str], Mapping[str, Any]]
"""A node of the running graph by its id: `class_type` and `inputs`."""


def before(nodes: Nodes, link: Any) -> Iterator[str]:
    """The ids of all nodes that what comes over `link` follows from, each once."""
    seen: set[str] = set()
    waiting = [link]
    while waiting:
        link = waiting.pop()
        if is_link(link) and link[0] not in seen:
            seen.add(link[0])
            yield link[0]
            waiting += nodes(link[0])["inputs"].values()


def applied_before(nodes: Nodes, link: Any) -> list[str]:
    """The ids of the nodes that drew what comes over `link`, from PSA Apply to Model on: each after those it reads.

    Raises:
        PSAError: where no PSA Apply to Model is among them, or its strength is another node's to say.
    """
    found: list[str] = []
    seen: set[str] = set()
    waiting = [(link[0], False)] if is_link(link) else []
    while waiting:  # not by recursion: graphs may be deep
        name, is_done = waiting.pop()
        node = nodes(name)
        sources = [value[0] for value in node["inputs"].values() if is_link(value)]
        if is_done:
            if node["class_type"] == _APPLY or any(source in found for source in sources):
                found.append(name)
        elif name not in seen:
            seen.add(name)
            waiting += [(name, True), *((source, False) for source in sources)]
    applies = [name for name in found if nodes(name)["class_type"] == _APPLY]
    if not applies:
        raise PSAError(
            "The guard cannot have pictures drawn again that were not drawn through PSA Apply to Model. Connect those "
            f"that were, {_INSTEAD}."
        )
    if any(not isinstance(nodes(name)["inputs"].get(_STRENGTH), int | float) for name in applies):
        raise PSAError(
            "The strength of PSA Apply to Model comes from another node, so the guard cannot raise it. Write it there, "
            f"{_INSTEAD}."
        )
    return found


def draw_again(graph: GraphBuilder, nodes: Nodes, link: Any, more: float) -> Any:
    """Put a copy of the nodes that drew what comes over `link` into `graph`, with `more` strength; returns its link.

    Raises:
        PSAError: as `applied_before` does.
    """
    copies: dict[str, Any] = {}
    for name in applied_before(nodes, link):
        node = nodes(name)
        inputs = {key: _relinked(value, copies) for key, value in node["inputs"].items()}
        if node["class_type"] == _APPLY:
            inputs[_STRENGTH] = min(MAX_STRENGTH, inputs[_STRENGTH] + more)
        copies[name] = graph.node(node["class_type"], name)
        copies[name].inputs.update(inputs)  # not as keywords: an input may be called "id"
    return copies[link[0]].out(link[1])


def _relinked(value: Any, copies: Mapping[str, Any]) -> Any:
    return copies[value[0]].out(value[1]) if is_link(value) and value[0] in copies else value
