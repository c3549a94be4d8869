"""After an error that nobody foresaw, ComfyUI's report, history and log hold nothing of a profile but its name."""

import asyncio
import json
import os
import random
from pathlib import Path

import aiohttp
import pytest
from filled import inputs, kinds
from graphs import Graph, call

from psa_core import UserProfile
from psa_core.comfy_server import PACK, ComfyServer
from psa_core.profile import CATEGORIES, GENDERS, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

SPOILED = {"PSA_PROFILE", "PSA_EMBEDDING"}
LINKED = ("PSA_ADAPTER", "PSA_EMBEDDING")
SPOILER = """
import sys
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
SPOILED = {"PSA_PROFILE": ("profile", "UserProfile"), "PSA_EMBEDDING": ("encoders.embedding", "UserEmbedding")}

def fail(value, name):
    own = {**type(value).__dataclass_fields__, **vars(type(value))}
    printing = sys._getframe(1).f_code.co_name in ("__repr__", "__len__", "dim")
    if name.startswith("__") or name not in own or printing:  # ComfyUI looks whether it is a model, and prints it
        return object.__getattribute__(value, name)
    raise KeyError(str(object.__getattribute__(value, "__dict__")))

@PromptServer.instance.routes.post("/spoil/{kind}/{how}")
async def spoil(request):
    module, name = SPOILED[request.match_info["kind"]]
    found = [m for key, m in sys.modules.items() if key.endswith("psa_core." + module)]
    for each in found:
        kind = getattr(each, name)
        if request.match_info["how"] == "on":
            kind.__getattribute__ = fail
        elif "__getattribute__" in vars(kind):
            del kind.__getattribute__
    return web.json_response(len(found))
"""


# What some nodes ask for before they look at a profile.
MORE = {"PSAGuard": {"judge": "mini classifier"}, "PSACompare": {"prompts": "a meadow"}}


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    base = tmp_path_factory.mktemp("error-reports")
    spoiler = tmp_path_factory.mktemp("spoiler")
    (spoiler / "__init__.py").write_text(SPOILER)
    with ComfyServer(comfy, base, {"comfyui-psa": PACK, "spoiler": spoiler}) as running:
        yield running


@pytest.fixture(scope="module")
def words(server) -> set[str]:
    """The telling words of a profile drawn at random, which is stored as `viewer` and as `unread`."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = random.Random(seed)
    fields = {
        "Age": rng.randrange(101),
        "Gender": rng.choice(GENDERS),
        "Religion": rng.choice([word for word in RELIGIONS if word != "None"]),
        "Physical_Condition": rng.choice([word for word in PHYSICAL_CONDITIONS if word != "healthy"]),
        "Mental_Condition": rng.choice([word for word in MENTAL_CONDITIONS if word not in ("healthy", "war")]),
        "Banned_Categories": rng.sample([word for word in CATEGORIES if word != "Hate"], 3),
    }  # "war" and "Hate" are in other words, too
    profile = UserProfile.from_dict(fields).to_dict()
    for name in ("viewer", "unread"):
        assert call(server, "/psa/profiles", {"name": name, "profile": profile})[0] == 200
    telling = [fields[key] for key in ("Religion", "Physical_Condition", "Mental_Condition")]
    return {*telling, *fields["Banned_Categories"], "'age'", "'religion'", "'vectors'"}  # as a printed dict has them


def report(server: ComfyServer, graph: Graph) -> dict:
    """What the page is sent when a graph fails."""

    async def run() -> dict:
        async with (
            aiohttp.ClientSession(server.url) as session,
            session.ws_connect("/ws", params={"clientId": "page"}, max_msg_size=0) as socket,
        ):
            body = {"prompt": graph.prompt, "client_id": "page"}
            async with session.post("/prompt", json=body) as response:
                assert response.status == 200, await response.text()
            async for message in socket:
                event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
                assert event.get("type") != "execution_success", "it did not fail"
                if event.get("type") == "execution_error":
                    return event["data"]
        raise AssertionError("the connection was closed")

    return asyncio.run(asyncio.wait_for(run(), 300))


def failed(server: ComfyServer, graph: Graph, kind: str) -> dict:
    """The report of a graph that fails where a profile's or an embedding's content is asked for."""
    assert json.loads(call(server, f"/spoil/{kind}/on", {})[1]) == 1
    try:
        return report(server, graph)
    finally:
        call(server, f"/spoil/{kind}/off", {})


def check_silence(server: ComfyServer, said: dict, words: set[str]) -> None:
    assert "bug of ours (KeyError)" in said["exception_message"], said
    assert said["traceback"]  # where it happened is told
    for path in ("/history", "/queue", "/api/jobs", "/internal/logs", "/internal/logs/raw"):
        answer = call(server, path)[1].decode("utf-8", "replace")
        assert not [word for word in words if word in answer], path
    assert not [word for word in words if word in json.dumps(said)], said
    store = server.base / "user" / "__psa_profiles"
    for folder, _, names in os.walk(server.base):
        place = Path(folder)
        if not any(place.is_relative_to(other) for other in (store, server.base / "models")):
            for path in (place / name for name in names):
                content = path.read_bytes()
                assert not [word for word in words if word.encode() in content], path


def test_a_failing_node_tells_nothing_of_its_profile(server, words):
    """Every node that takes a profile or an embedding."""
    nodes = {name: node for name, node in server.object_info().items() if name.startswith("PSA")}
    taking = {name: set(kinds(node).values()) & SPOILED for name, node in nodes.items()}
    taking = {name: kind.pop() for name, kind in taking.items() if kind}
    assert {"PSAEncode", "PSASaveProfile", "PSAApply", "PSAGuard"} <= set(taking)
    for name, kind in taking.items():
        before = Graph()  # what comes before the node runs whole, and then comes out of the cache
        for link in [link for link in inputs(before, nodes[name], LINKED).values() if isinstance(link, list)]:
            before.add("PreviewAny", source=link)
        server.run(before.prompt)
        graph = Graph()
        graph.add("PreviewAny", source=graph.add(name, **inputs(graph, nodes[name], LINKED, **MORE.get(name, {}))))
        said = failed(server, graph, kind)
        assert said["node_type"] == name
        check_silence(server, said, words)


def test_a_profile_that_cannot_be_read_is_not_told(server, words):
    graph = Graph()
    graph.add("PreviewAny", source=graph.add("PSALoadProfile", profile_name="unread"))
    said = failed(server, graph, "PSA_PROFILE")
    assert said["node_type"] == "PSALoadProfile"
    check_silence(server, said, words)


def test_a_failing_route_tells_nothing_of_what_it_was_sent(server, words):
    store = server.base / "user" / "__psa_profiles" / "default"
    profile = json.loads((store / "viewer.json").read_text())
    assert json.loads(call(server, "/spoil/PSA_PROFILE/on", {})[1]) == 1
    try:
        for path, body in (
            ("/psa/profiles", {"name": "new", "profile": profile}),
            ("/psa/banned", profile),
            ("/psa/profiles/viewer/read", {}),
        ):
            status, answer = call(server, path, body)
            assert status == 500 and b"bug of ours (KeyError)" in answer
            assert not [word for word in words if word in answer.decode() + server.log]
    finally:
        call(server, "/spoil/PSA_PROFILE/off", {})
