"""Concepts to prompts, and the user space, in a real ComfyUI."""

import json
from io import BytesIO
from pathlib import Path

import pytest
from chat_server import Server
from graphs import Graph
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
    (kept,) = (line for line in text.splitlines() if line.startswith("All answers: "))
    path = Path(kept.removeprefix("All answers: "))
    assert len([line for line in path.read_text().splitlines() if line]) == 11
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
