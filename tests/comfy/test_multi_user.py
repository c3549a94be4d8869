"""With `--multi-user`, each of ComfyUI's users has profiles of their own."""

import json
import os
import re
import time
import uuid

import pytest
from graphs import (
    Graph,
    add_small_picture,
    call,
    draw,
    drawing,
    encode,
    in_picture,
    output,
    profile_node,
    psa,
    psa_stored,
    queue_as,
    same,
    save,
    txt2img,
    wait,
)
from small_models import add_models
from tiny_llm import make_tiny_llm

from psa_core import LEVELS
from psa_core.comfy_server import PACK, ComfyServer
from psa_core.errors import PSAError


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    base = tmp_path_factory.mktemp("multi-user")
    add_models(base, sd15_checkpoint)
    queuer = tmp_path_factory.mktemp("queuer")
    (queuer / "__init__.py").write_text(QUEUER)
    packs = {"comfyui-psa": PACK, "queuer": queuer}
    with ComfyServer(comfy, base, packs, arguments=["--multi-user"]) as running:
        yield running


@pytest.fixture(scope="module")
def users(server) -> dict[str, str]:
    """Ada and Bo, who each store another viewer under the same name."""
    ids = {name: json.loads(call(server, "/users", {"username": name})[1]) for name in ("ada", "bo")}
    for name, level in (("ada", "L0"), ("bo", "L5")):
        body = {"name": "me", "profile": LEVELS[level].to_dict()}
        status, answer = call(server, "/psa/profiles", body, user=ids[name])
        assert (status, json.loads(answer)) == (200, {"names": ["me"]})
    return ids


def names_of(server, user: str | None) -> list[str]:
    return json.loads(call(server, "/psa/profiles", user=user)[1]).get("names", [])


def in_menu(server, user: str | None) -> list[str]:
    status, answer = call(server, "/object_info/PSALoadProfile", user=user)
    assert status == 200
    kind, *settings = json.loads(answer)["PSALoadProfile"]["input"]["required"]["profile_name"]
    return settings[0]["options"] if kind == "COMBO" else kind


def test_each_draws_for_their_own_viewer(server, users):
    ada, bo, l0, l5 = (
        draw(server, txt2img(patch), user=users[name])
        for name, patch in (("ada", psa_stored("me")), ("bo", psa_stored("me")), ("ada", psa("L0")), ("ada", psa("L5")))
    )
    assert "KSampler" in bo.ran, "another user's picture came out of the cache"
    assert same(ada, l0)
    assert same(bo, l5)
    assert not same(ada, bo)


def test_prompts_that_wait_together_keep_their_users(server, users):
    """The profile is looked up when a prompt runs, with others queued meanwhile."""
    order = ["ada", "bo", "bo", "ada", "bo"]
    waiting = []
    for number, name in enumerate(order):
        graph = txt2img(psa_stored("me"), seed=10 + number)
        save(graph)
        waiting.append(queue_as(server, graph, users[name]))
    drawings = [drawing(server, wait(server, prompt_id)) for prompt_id in waiting]
    for number, name in enumerate(order):
        level = {"ada": "L0", "bo": "L5"}[name]
        assert same(drawings[number], draw(server, txt2img(psa(level), seed=10 + number), user=users[name])), number


def test_each_sees_their_own_names(server, users):
    call(server, "/psa/profiles", {"name": "only-adas", "profile": LEVELS["L3"].to_dict()}, user=users["ada"])
    assert names_of(server, users["ada"]) == ["me", "only-adas"] == in_menu(server, users["ada"])
    assert names_of(server, users["bo"]) == ["me"] == in_menu(server, users["bo"])
    with pytest.raises(PSAError, match="no stored profile of that name"):
        draw(server, txt2img(psa_stored("only-adas")), user=users["bo"])
    assert draw(server, txt2img(psa_stored("only-adas")), user=users["ada"]).pictures.any()


def test_saving_from_a_graph_goes_to_whoever_queued_it(server, users):
    graph = txt2img(psa_stored("me"))
    (number,) = (n for n, entry in graph.prompt.items() if entry["class_type"] == "PSALoadProfile")
    graph.add("PSASaveProfile", profile=[number, 0], name="kept", overwrite=False)
    draw(server, graph, user=users["bo"])
    assert "kept" in names_of(server, users["bo"])
    assert "kept" not in names_of(server, users["ada"])


def test_deleting_leaves_the_others(server, users):
    for name in ("ada", "bo"):
        call(server, "/psa/profiles", {"name": "spare", "profile": LEVELS["L1"].to_dict()}, user=users[name])
    status, _ = call(server, "/psa/profiles/spare", user=users["ada"], method="DELETE")
    assert status == 200
    assert "spare" not in names_of(server, users["ada"])
    assert "spare" in names_of(server, users["bo"])


@pytest.mark.parametrize("nobody", [None, "eve", "..", "__psa_profiles"])
def test_a_stranger_sees_nothing(nobody, server, users):
    assert names_of(server, nobody) == []
    assert in_menu(server, nobody) == ["(no profile is stored yet)"]
    with pytest.raises(PSAError, match="does not know this user"):
        draw(server, txt2img(psa_stored("me")), user=nobody or "")
    body = {"name": "mine", "profile": LEVELS["L5"].to_dict()}
    status, answer = call(server, "/psa/profiles", body, user=nobody)
    assert status == 400 and "does not know this user" in json.loads(answer)["error"]


def test_the_files_lie_apart_and_closed(server, users):
    store = server.base / "user" / "__psa_profiles"
    assert sorted(folder.name for folder in store.iterdir()) == sorted(users.values())
    for user, level in ((users["ada"], "L0"), (users["bo"], "L5")):
        path = store / user / "me.json"
        assert json.loads(path.read_text())["Age"] == LEVELS[level].age
        if os.name != "nt":
            assert path.stat().st_mode & 0o077 == 0


OURS = {"PSALoadProfile", "PSASaveProfile"}


def copying(name: str, profile: str = "me") -> Graph:
    """A graph that stores the profile `profile` a second time, as `name`."""
    graph = Graph()
    graph.add("PSASaveProfile", profile=graph.add("PSALoadProfile", profile_name=profile), name=name, overwrite=False)
    add_small_picture(graph)
    return graph


def stored(server, user: str, name: str) -> dict | None:
    path = server.base / "user" / "__psa_profiles" / user / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_waiting_jobs_id_gives_nobody_its_place(server, users):
    """Whatever another user sends under the id of a job that waits, the job keeps its own user."""
    slow = txt2img(psa("L0"), steps=40, seed=77)
    save(slow)
    queue_as(server, slow, users["ada"])
    waiting = str(uuid.uuid4())
    prompt = copying("taken-over").prompt
    status, _ = call(server, "/prompt", {"prompt": prompt, "prompt_id": waiting}, users["ada"])
    assert status == 200
    for hostile in ({}, {"1": {"class_type": "PSASaveProfile", "inputs": {}}}, {"1": "class_type"}, prompt):
        call(server, "/prompt", {"prompt": hostile, "prompt_id": waiting, "number": 1e6}, users["bo"])
        call(server, "/prompt", {"prompt": hostile, "prompt_id": waiting}, user="nobody")
    for _ in range(300):
        call(server, "/prompt", {"prompt": {}, "prompt_id": str(uuid.uuid4())}, users["bo"])
    assert json.loads(call(server, "/queue")[1])["queue_pending"], "the job did not wait"
    wait(server, queue_as(server, copying("the-end"), users["bo"]))
    time.sleep(1)
    assert stored(server, users["ada"], "taken-over") == LEVELS["L0"].to_dict()
    assert stored(server, users["bo"], "taken-over") in (None, LEVELS["L5"].to_dict())  # his own job's, if it ran


def test_a_waiting_jobs_id_and_number_stop_nobodys_work(server, users):
    """Two graphs that wait under one id and one number are two jobs: their graphs are not compared."""
    slow = txt2img(psa("L0"), steps=40, seed=78)
    save(slow)
    queue_as(server, slow, users["ada"])
    for name in ("ada", "bo", "bo"):
        body = {"prompt": copying("one number").prompt, "prompt_id": SHARED_ID, "number": 1e5}
        assert call(server, "/prompt", body, users[name])[0] == 200
    assert json.loads(call(server, "/queue")[1])["queue_pending"], "the jobs did not wait"
    wait(server, queue_as(server, copying("after them"), users["ada"]))
    for name, level in (("ada", "L0"), ("bo", "L5")):
        until_stored(server, users[name], "one number", LEVELS[level].to_dict())


SHARED_ID = str(uuid.uuid4())


def until_stored(server, user: str, name: str, profile: dict) -> None:
    deadline = time.monotonic() + 120
    while stored(server, user, name) != profile:
        assert time.monotonic() < deadline, "the job has not run"
        time.sleep(0.1)


def test_a_saving_node_never_comes_out_of_the_cache(server, users):
    graph = copying("again")
    for name, level in (("ada", "L0"), ("bo", "L5"), ("ada", "L0")):
        wait(server, queue_as(server, graph, users[name]))
        assert stored(server, users[name], "again") == LEVELS[level].to_dict()
        status, _ = call(server, "/psa/profiles/again", user=users[name], method="DELETE")
        assert status == 200


def test_another_users_fingerprints_are_of_no_use(server, users):
    """The graph in a picture, sent by another: with the fingerprints that were ComfyUI's keys to the cached results."""
    prompt_id = wait(server, queue_as(server, copying("first"), users["ada"]))
    executed = in_picture(server, server.history(prompt_id))
    assert {node["class_type"] for node in executed.values() if "is_changed" in node} == OURS
    for node in executed.values():
        if "name" in node["inputs"]:
            node["inputs"]["name"] = "second"
    graph = Graph()
    graph.prompt = executed
    wait(server, queue_as(server, graph, users["bo"]))
    assert stored(server, users["bo"], "second") == LEVELS["L5"].to_dict()
    assert stored(server, users["ada"], "second") is None


def test_a_fingerprint_tells_nothing(server, users):
    graphs = [copying(f"copy {number}") for number in range(2)]
    finished = [
        server.history(wait(server, queue_as(server, graph, users[name])))
        for graph, name in zip(graphs, ("ada", "bo"), strict=True)
    ]
    nodes = [
        node for history in finished for node in in_picture(server, history).values() if node["class_type"] in OURS
    ]
    assert len({str(node["is_changed"]) for node in nodes}) == 4
    for node in nodes:
        (fingerprint,) = node["is_changed"]
        assert re.fullmatch("[0-9a-f]{32,64}", fingerprint)
    for history in finished:  # nor does a job name its user
        assert not any(user in json.dumps(history) for user in users.values())


def test_nobody_learns_from_anothers_embeddings_what_they_are_of(server, users):
    """What is kept of a language model's embeddings is kept for its user: a guess at another's profile takes as long
    as any.
    """
    make_tiny_llm(server.base / "models" / "LLM" / "tiny")
    cache = server.base / "user" / "__psa_cache"

    def encoding(profile) -> Graph:
        graph = Graph()
        settings = {"templates": "ours", "banned_by": "profile", "keep_loaded": False}
        encoder = graph.add("PSALoadEncoder", encoder_name="tiny", **settings)
        graph.add("PreviewAny", source=output(encode(graph, profile(graph), encoder=encoder), 1))
        return graph

    wait(server, queue_as(server, encoding(lambda graph: graph.add("PSALoadProfile", profile_name="me")), users["ada"]))
    assert [path.name for path in cache.iterdir()] == [users["ada"]]
    hers = sorted(path.name for path in (cache / users["ada"]).iterdir())
    guess = encoding(lambda graph: profile_node(graph, preset="L0"))
    wait(server, queue_as(server, guess, users["bo"]))
    assert len(list((cache / users["bo"]).glob("*.safetensors"))) == 1, "it was there, or came from ComfyUI's cache"
    wait(server, queue_as(server, guess, users["ada"]))
    assert sorted(path.name for path in (cache / users["ada"]).iterdir()) == hers
    assert len(hers) == 2  # the folder's secret, and one embedding


QUEUER = """
import threading, uuid
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}

@PromptServer.instance.routes.post("/queuer")
async def queue(request):
    prompt = await request.json()
    prompt_id = str(uuid.uuid4())
    outputs = [number for number, node in prompt.items() if "Save" in node["class_type"]]
    item = (0, prompt_id, prompt, {}, outputs, {})  # older versions ignore the last
    thread = threading.Thread(target=PromptServer.instance.prompt_queue.put, args=(item,))
    thread.start()
    thread.join()
    return web.json_response({"prompt_id": prompt_id})
"""


def test_a_job_that_nobody_queued_fails(server, users):
    """Another pack may queue prompts by itself: whose they are, nobody knows."""
    answer = call(server, "/queuer", copying("nobodys").prompt, users["ada"])[1]
    with pytest.raises(PSAError, match="does not know this user"):
        wait(server, json.loads(answer)["prompt_id"])
    assert stored(server, users["ada"], "nobodys") is None
    assert not (server.base / "user" / "__psa_profiles" / "default").exists()
