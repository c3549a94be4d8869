"""With `--multi-user`, each of ComfyUI's users has profiles of their own."""

import json
import os

import pytest
from graphs import call, draw, drawing, psa, psa_stored, queue_as, same, save, txt2img, wait
from small_models import add_models

from psa_core import LEVELS
from psa_core.comfy_server import ComfyServer
from psa_core.errors import PSAError


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    base = tmp_path_factory.mktemp("multi-user")
    add_models(base, sd15_checkpoint)
    with ComfyServer(comfy, base, arguments=["--multi-user"]) as running:
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
    assert in_menu(server, nobody) == []
    with pytest.raises(PSAError, match="no stored profile of that name"):
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
