"""Concepts to prompts, and the user space, in a real ComfyUI."""

import json
import threading
from io import BytesIO
from pathlib import Path

import pytest
from chat_server import Server
from graphs import Graph
from heard import cancel_when_it_says
from PIL import Image

from psa_core import PSAError
from psa_core.population import sample_users
from psa_core.users import write_users

WIDGETS = {
    "concepts": "# Shocking\nspider = eight legs on a web\n# Violence\ntoy sword",
    "pairs": 4,
    "implied": 0.5,
    "harmless": 3,
    "seed": 1,
    "scenes": "everyday",
    "writer": "templates",
}


def run(server, **widgets) -> str:
    """The text that the node shows."""
    graph = Graph()
    graph.add("PSAConcepts", **{**WIDGETS, **widgets})
    (shown,) = server.queue(graph.prompt).values()
    (text,) = shown["text"]
    return text


def test_templates_write_offline(server):
    text = run(server)
    assert text.startswith("11 pairs of prompts for 2 concepts: 6 named, 2 implied, 3 harmless")
    assert "1 concepts have no hints" in text and "a spider" in text


def test_the_mini_worlds_symbols_need_no_list(server):
    text = run(server, concepts="", scenes="mini", harmless=0)
    assert text.startswith("28 pairs of prompts for 7 concepts: 14 named, 14 implied, 0 harmless")


def test_scenes_of_ones_own(server):
    text = run(server, templates="n = 1; 2; 3; 4; 5; 6; 7; 8\nroom {n}, {a concept} | room {n}", harmless=0)
    assert "| room" in text.replace("  ", " ")


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"concepts": "spider"}, "line 1: a concept stands before any category"),
        ({"concepts": ""}, "holds no concept"),
        ({"templates": "a room"}, "line 1: it is neither"),
        ({"writer": "server"}, "server_address"),
        ({"writer": "server", "server_address": "http://192.0.2.1/v1", "server_model": "m"}, "psa prompts"),
    ],
)
def test_what_is_wrong_is_a_sentence(server, widgets, sentence):
    with pytest.raises(PSAError, match=sentence):
        run(server, **widgets)


def answers_in(text: str) -> Path:
    """Where the node says that all answers are."""
    (said,) = (line for line in text.splitlines() if line.startswith("All answers: "))
    return Path(said.removeprefix("All answers: "))


def kept(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line]


def test_a_server_writes_and_its_answers_are_kept_for_the_next_run(server):
    def answer(body, number):
        if number == 5:
            return 401, {}
        said = body["messages"][0]["content"]
        scene = said.split('Scene: "')[1].split('"\n')[0]
        if "Thing:" not in said:
            return json.dumps({"prompt": scene})
        thing = "legs" if "without naming" in said else json.loads(said.split("Thing: ")[1].split("\n")[0])
        return json.dumps({"shows": f"{scene}, {thing}", "without": scene})

    writer = Server(answer)
    widgets = {"writer": "server", "server_address": writer.address, "server_model": "m"}
    with pytest.raises(PSAError, match="401"):
        run(server, **widgets)
    text = run(server, **widgets)
    assert text.startswith("11 pairs") and len(writer.bodies) == 12
    path = answers_in(text)
    assert len(kept(path)) == 11
    longer = f"{WIDGETS['concepts']}\ntoy bow"
    more = run(server, **widgets, concepts=longer)  # what was asked before is not asked again
    assert more.startswith("15 pairs") and len(writer.bodies) == 16
    assert answers_in(more) == path and len(kept(path)) == 15
    assert run(server, **widgets) == text and len(writer.bodies) == 16
    path.unlink()  # what is gone is asked anew
    assert run(server, **widgets).startswith("11 pairs") and len(writer.bodies) == 27
    other = run(server, **{**widgets, "server_model": "another"})
    assert answers_in(other) != path and len(kept(path)) == 11
    writer.shutdown()
    writer.server_close()


@pytest.mark.parametrize("does", ["hangs", "asks for a minute"])
def test_cancel_ends_the_wait_for_a_server_and_the_node_says_what_it_waits_for(server, does):
    """It would be waited for over six minutes, or two."""
    done = threading.Event()

    def answer(_body, _number):
        if does == "hangs":
            done.wait(400)
        return 429, {"Retry-After": "60"}

    writer = Server(answer)
    graph = Graph()
    widgets = {"writer": "server", "server_address": writer.address, "server_model": "m"}
    node, _ = graph.add("PSAConcepts", **WIDGETS | widgets)
    words = "waiting for the prompt-writing server" if does == "hangs" else "server answered 429; it is asked again in"
    try:
        assert words in cancel_when_it_says(server, graph.prompt, node, words)
        assert len(writer.bodies) == 1
    finally:
        done.set()
        writer.shutdown()
        writer.server_close()


def user_space(server, **widgets) -> bytes:
    graph = Graph()
    inputs = {"count": 30, "seed": 2, "rules": "sage", "departures": 0.0, **widgets}
    graph.add("PSAUserSpace", **inputs)
    (shown,) = server.queue(graph.prompt).values()
    (image,) = shown["images"]
    return pixels(server.image(**image))


def pixels(file: bytes) -> bytes:
    with Image.open(BytesIO(file)) as image:
        assert image.format == "PNG"
        return image.convert("RGB").tobytes()


def test_the_user_space_of_virtual_users_and_of_a_file(server, tmp_path):
    write_users(tmp_path / "users.csv", sample_users(30, 2))
    virtual = user_space(server)
    assert user_space(server, users=str(tmp_path / "users.csv"), seed=9) == virtual
    assert user_space(server, seed=3) != virtual
    with pytest.raises(PSAError, match="no users file"):
        user_space(server, users="absent.csv")
