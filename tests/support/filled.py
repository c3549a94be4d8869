"""Any node in a graph, with good inputs that follow from its schema: as small, and as soon done, as they can be."""

from collections.abc import Collection
from typing import Any

from graphs import Graph, Link, output

LOADED = "viewer"
"""The stored profile that goes in where one is asked for."""


def inputs(graph: Graph, node: dict[str, Any], also: Collection[str] = (), **mine: object) -> dict[str, object]:
    """What a node, as `object_info` describes it, must be given; `also` optional inputs of these kinds; and `mine`."""
    optional = {name: of for name, of in node["input"].get("optional", {}).items() if of[0] in also}
    wanted = {**node["input"].get("required", {}), **optional}
    filled = {name: _good(graph, kind, *(rest or [{}])) for name, (kind, *rest) in wanted.items() if name not in mine}
    return filled | mine


def kinds(node: dict[str, Any]) -> dict[str, Any]:
    """Its inputs' kinds by name; None for a text that comes by a link alone."""
    every = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {name: None if rest and rest[0].get("forceInput") else kind for name, (kind, *rest) in every.items()}


def _good(graph: Graph, kind: object, settings: dict[str, Any]) -> object:
    sockets = {
        "MODEL": lambda: _mini(graph),
        "CLIP": lambda: output(_mini(graph), 1),
        "VAE": lambda: output(_mini(graph), 2),
        "PSA_ADAPTER": lambda: output(_mini(graph), 3),
        "IMAGE": lambda: graph.add("EmptyImage", width=128, height=128, batch_size=1, color=0),
        "PSA_PROFILE": lambda: graph.add("PSALoadProfile", profile_name=LOADED),
        "PSA_EMBEDDING": lambda: graph.add("PSAEncode", profile=graph.add("PSALoadProfile", profile_name=LOADED)),
        "PSA_DATASET": lambda: graph.add("PSALoadDataset", folder="pairs", split="train", skip_bad=False),
    }
    if kind in sockets:
        return sockets[kind]()
    if isinstance(kind, list) or kind == "COMBO":
        return settings.get("default", (kind if isinstance(kind, list) else settings["options"])[0])
    return settings.get("min", 0) if kind == "INT" else settings.get("default", "")


def _mini(graph: Graph) -> Link:
    known = [number for number, node in graph.prompt.items() if node["class_type"] == "PSALoadMini"]
    return [known[0], 0] if known else graph.add("PSALoadMini")
