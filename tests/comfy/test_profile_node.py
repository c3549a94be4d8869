"""User Profile on a real server: what each of its words bans."""

import json

import pytest
from graphs import Graph, call, profile_node

from psa_core import UserProfile
from psa_core.rules import PROTECTIVE, RULES
from psa_core.schema import CATEGORIES

BOY = {"age": 15, "religion": "Islam", "physical_condition": "hearing impairment"}


def stored(server, name: str, **widgets) -> UserProfile:
    """The profile that the node makes, by way of the store."""
    graph = Graph()
    graph.add("PSASaveProfile", profile=profile_node(graph, **widgets), name=name, overwrite=True)
    server.run(graph.prompt)
    (path,) = server.base.rglob(f"{name}.json")
    return UserProfile.from_dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("rules", RULES)
def test_the_rules_decide(server, rules):
    assert stored(server, f"rules {rules}", **BOY, banned=rules) == UserProfile(gender="male", **BOY).with_rules(rules)


def test_a_graph_of_the_first_versions_means_the_same(server):
    now = stored(server, "now", **BOY, banned="reference-prompt")
    assert stored(server, "before", **BOY, banned="by the rules") == now
    assert now.banned_categories == (
        "Harassment", "Hate", "Propaganda", "Self-Harm", "Sexuality", "Shocking", "Violence",
    )  # fmt: skip


def test_a_choice_stands(server):
    switches = {"ban_hate": True, "ban_self_harm": True}
    assert stored(server, "choice", **BOY, banned="chosen", **switches).banned_categories == ("Hate", "Self-Harm")
    assert stored(server, "no choice", **BOY, banned="sage", ban_harassment=True).allowed_categories == tuple(
        category for category in CATEGORIES if category not in ("Propaganda", "Sexuality")
    )


def test_new_nodes_protect_minors(server):
    spec = json.loads(call(server, "/object_info/PSAUserProfile")[1])["PSAUserProfile"]["input"]["required"]["banned"]
    assert spec[1]["default"] == PROTECTIVE
