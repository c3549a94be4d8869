"""PSA Guard in a real ComfyUI: hiding, drawing again, and what it says."""

import json
import re
import secrets
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph, Link, encode, output, profile_node
from heard import hear
from PIL import Image
from script_checks import check_names

from psa_core import PSAError
from psa_core.guard import hide
from psa_core.mini import render, sample_scene
from psa_core.schema import CATEGORIES

SCRIPT = Path(__file__).parent / "scripts" / "check_guard.py"
WIDGETS = {
    "judge": "mini classifier",
    "judge_location": "",
    "judge_model": "",
    "sensitivity": 0.5,
    "hide_by": "blur",
    "tries": 0,
    "more_strength": 0.5,
}
HEART = "a meadow with a red circle and a heart"
STEPS = {"steps": 8, "cfg": 3.0, "sampler_name": "dpmpp_2m"}


@pytest.fixture(scope="module")
def scene():
    """A symbol that L5 bans, and that nobody could miss."""
    rng = np.random.default_rng(0)
    return next(found for found in iter(lambda: sample_scene(rng, "heart"), None) if found.symbol.size == "large")


@pytest.fixture(scope="module")
def pictures(server, scene) -> dict[str, Image.Image]:
    drawn = {"heart": render(scene), "safe": render(scene.without_symbol())}
    for name, picture in drawn.items():
        picture.save(server.base / "input" / f"{name}.png")
    return drawn


@pytest.fixture(scope="module")
def outcomes(comfy_checks):
    return comfy_checks(SCRIPT)


@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_inside_comfyui(check, outcomes):
    outcomes.verify(check)


def batch(graph: Graph, *names: str) -> Link:
    several = None
    for name in names:
        one = graph.add("LoadImage", image=f"{name}.png")
        several = one if several is None else graph.add("ImageBatch", image1=several, image2=one)
    return several


def guard(graph: Graph, images: Link, *levels: str, **inputs) -> Link:
    viewers = [profile_node(graph, preset=level) for level in levels]
    more = {f"profile_{number}": viewer for number, viewer in enumerate(viewers[1:], start=2)}
    return graph.add("PSAGuard", images=images, profile=viewers[0], **more, **WIDGETS | inputs)


def look(server, graph: Graph, guarded: Link) -> tuple[list[np.ndarray], str]:
    """What the guard lets through, and its words, which stand on the node that the person sees."""
    saved = graph.add("SaveImage", images=guarded, filename_prefix="guarded")
    shown = graph.add("PreviewAny", source=output(guarded, 1))
    outputs = server.queue(graph.prompt)
    files = [server.image(**image) for image in outputs[saved[0]]["images"]]
    (words,) = outputs[shown[0]]["text"]
    others = (entry for node, entry in outputs.items() if node != shown[0])
    (on_node,) = (text for entry in others for text in entry.get("text", ()))
    assert on_node == words
    return [np.asarray(Image.open(BytesIO(file)).convert("RGB")) for file in files], words


def same(drawn: np.ndarray, expected) -> bool:
    return bool(np.abs(drawn.astype(int) - np.asarray(expected).astype(int)).max() <= 1)


def test_each_viewer_is_shown_what_they_allow(server, pictures):
    graph = Graph()
    names, levels = ("heart", "heart", "safe"), ("L0", "L5", "L5")
    drawn, words = look(server, graph, guard(graph, batch(graph, *names), *levels))
    assert same(drawn[0], pictures["heart"]) and same(drawn[2], pictures["safe"])
    assert same(drawn[1], hide(pictures["heart"], "blur"))
    assert words.startswith("3 pictures looked at by mini classifier: 2 shown, 1 hidden.")
    assert "Picture 2 (viewer 2): blurred." in words
    assert not any(category.lower() in words.lower() for category in CATEGORIES)


def test_a_replaced_picture_is_the_replacement(server, pictures):
    graph = Graph()
    card = graph.add("EmptyImage", width=40, height=64, batch_size=1, color=0x0000FF)
    drawn, _ = look(server, graph, guard(graph, batch(graph, "heart"), "L5", hide_by="replace", replacement=card))
    assert np.array_equal(np.unique(drawn[0].reshape(-1, 3), axis=0), [[0, 0, 255]])


def mini(graph: Graph, strength: float, *levels: str, count: int = 2, **settings) -> Link:
    """Pictures of the mini model with its adapter at some strength."""
    loader = graph.add("PSALoadMini")
    graph.positive = graph.add("CLIPTextEncode", clip=output(loader, 1), text=HEART)
    graph.negative = graph.add("CLIPTextEncode", clip=output(loader, 1), text="")
    embedding = encode(graph, *(profile_node(graph, preset=level) for level in levels))
    widgets = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0}
    model = graph.add("PSAApply", model=loader, adapter=output(loader, 3), embedding=embedding, **widgets | settings)
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=count)
    return graph.add("VAEDecode", samples=graph.sample(model, latent, **STEPS), vae=output(loader, 2))


def test_what_fails_is_drawn_again_with_more_strength(server):
    """Whatever the judge sees, each picture is the one that the strength gives which its words tell of."""
    controls = []
    for strength in (0.0, 0.75, 1.5):
        graph = Graph()
        saved = graph.add("SaveImage", images=mini(graph, strength, "L0", "L5"), filename_prefix="control")
        files = server.queue(graph.prompt)[saved[0]]["images"]
        controls.append([np.asarray(Image.open(BytesIO(server.image(**file))).convert("RGB")) for file in files])
    graph = Graph()
    guarded = guard(graph, mini(graph, 0.0, "L0", "L5"), "L0", "L5", tries=2, more_strength=0.75)
    drawn, words = look(server, graph, guarded)
    for number, picture in enumerate(drawn):
        line = next((line for line in words.splitlines() if line.startswith(f"Picture {number + 1} ")), "")
        again = re.search(r"drawn again (once|2 times)", line)
        tries = 0 if again is None else {"once": 1, "2 times": 2}[again[1]]
        expected = Image.fromarray(controls[tries][number])
        assert same(picture, hide(expected, "blur") if "blurred" in line else expected), line
        assert (number % 2 == 1) or not line  # L0 bans nothing
    assert "drawn again" in words  # a base model that draws no heart in either picture is none


def test_the_second_try_is_reached_and_the_last_hides(server, scene):
    """With no effect left of the adapter the same picture comes again, until the tries are used up."""
    graph = Graph()
    guarded = guard(
        graph, mini(graph, 0.0, "L5", count=2, start_percent=1.0), "L5", tries=2, more_strength=0.5, hide_by="replace"
    )
    drawn, words = look(server, graph, guarded)
    assert "replaced. It was drawn again 2 times with more strength" in words
    assert any((picture == 128).all() for picture in drawn)


def fails(server, graph: Graph, guarded: Link) -> str:
    graph.add("SaveImage", images=guarded, filename_prefix="guarded")
    with pytest.raises(PSAError) as error:
        server.queue(graph.prompt)
    return str(error.value)


def test_what_cannot_be_drawn_again_is_said(server, pictures):
    graph = Graph()
    assert "through PSA Apply to Model" in fails(server, graph, guard(graph, batch(graph, "safe"), "L5", tries=1))
    graph = Graph()
    images = mini(graph, 0.0, "L5", count=1)
    strength = graph.add("PrimitiveFloat", value=1.0)
    apply = next(node for node in graph.prompt.values() if node["class_type"] == "PSAApply")
    apply["inputs"]["strength"] = strength
    assert "comes from another node" in fails(server, graph, guard(graph, images, "L5", tries=1))


def test_pictures_and_viewers_must_go_round(server, pictures):
    graph = Graph()
    assert "2 viewers and 3 pictures" in fails(
        server, graph, guard(graph, batch(graph, "safe", "safe", "heart"), "L5", "L0")
    )


def test_a_judge_that_lacks_something_says_so(server, pictures):
    for inputs, sentence in (
        ({"judge": "zero-shot CLIP"}, "both of its towers"),
        ({"judge": "Q16 classifier"}, "PSA Guard needs to know where the Q16 classifier is"),
        ({"judge": "mini classifier", "judge_location": "/somewhere"}, "Leave judge_location empty"),
        (
            {"judge": "vision-language model", "judge_location": "http://10.0.0.1/v1", "judge_model": "m"},
            "no other machine",
        ),
    ):
        graph = Graph()
        assert sentence in fails(server, graph, guard(graph, batch(graph, "safe"), "L5", **inputs))


def new_strength() -> float:
    """One that nothing was drawn with yet: what ComfyUI has from before does not run."""
    return secrets.randbelow(10**9) / 10**9


def drawn_first(server, graph: Graph, guarded: Link) -> set[str]:
    """The classes of the nodes that ran before a guard that fails."""
    graph.add("SaveImage", images=guarded, filename_prefix="guarded")
    heard = hear(server, graph.prompt)
    events = [json.loads(message) for message in heard.messages]
    assert events[-1]["type"] == "execution_error" and events[-1]["data"]["node_type"] == "PSAGuard"
    started = {event["data"]["node"] for event in events if event["type"] == "executing" and event["data"]["node"]}
    return {graph.prompt[node]["class_type"] for node in started}


@pytest.mark.parametrize(
    "inputs",
    [
        {"judge": "zero-shot CLIP"},
        {"judge": "Q16 classifier", "judge_location": "/nowhere"},
        {"judge": "vision-language model", "judge_location": "/nowhere"},
        {"judge": "vision-language model", "judge_location": "http://127.0.0.1:9/v1", "judge_model": "away"},
        {"judge": "mini classifier", "judge_location": "somewhere"},
    ],
)
def test_a_judge_that_could_not_look_is_told_of_before_anything_is_drawn(server, inputs):
    graph = Graph()
    guarded = guard(graph, mini(graph, new_strength(), "L0", "L5"), "L0", "L5", **inputs)
    assert "KSampler" not in drawn_first(server, graph, guarded)


def test_what_could_not_be_drawn_again_is_told_of_before_it_is_drawn(server):
    graph = Graph()
    images = mini(graph, 1.0, "L5", count=1)
    apply = next(node for node in graph.prompt.values() if node["class_type"] == "PSAApply")
    apply["inputs"]["strength"] = graph.add("PrimitiveFloat", value=new_strength())
    assert "KSampler" not in drawn_first(server, graph, guard(graph, images, "L5", tries=1))


def test_the_models_own_judge_is_minis_for_mini_and_nobody_for_another(server, pictures):
    graph = Graph()
    _, words = look(server, graph, guard(graph, mini(graph, 1.0, "L0", "L5"), "L0", "L5", judge="the model's own"))
    assert words.startswith("2 pictures looked at by mini classifier")
    assert server.object_info()["PSAGuard"]["input"]["required"]["judge"][1]["default"] == "the model's own"
    graph = Graph()
    guarded = guard(graph, batch(graph, "safe"), "L5", judge="the model's own")
    assert "Only PSA Mini has a judge of its own" in fails(server, graph, guarded)
