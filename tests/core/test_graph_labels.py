"""Labels that are read off a graph: for whom a picture was drawn, and from which prompt."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "nodes" / "comfy" / "graph_labels.py"
spec = importlib.util.spec_from_file_location("graph_labels", FILE)  # the nodes' package opens in ComfyUI alone
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture
def graph() -> dict:
    """Three viewers, two prompts in two batches, and a base model's batch that nothing takes yet."""
    return {
        "level": node("PSAUserProfile", preset="L0"),
        "stored": node("PSALoadProfile", profile_name="山田"),
        "typed": node("PSAUserProfile", preset="custom", age=7, religion="Islam"),
        "encode": node("PSAEncode", profile=["level", 0], profile_2=["stored", 0], profile_3=["typed", 0]),
        "mini": node("PSALoadMini"),
        "apply": node("PSAApply", model=["mini", 0], adapter=["mini", 3], embedding=["encode", 0]),
        "meadow": node("CLIPTextEncode", text="a meadow\nwith a heart", clip=["mini", 1]),
        "beach": node("CLIPTextEncode", text="a beach", clip=["mini", 1]),
        "latent": node("EmptyLatentImage"),
        "first": node("KSampler", model=["apply", 0], positive=["meadow", 0], latent_image=["latent", 0]),
        "second": node("KSampler", model=["apply", 0], positive=["beach", 0], latent_image=["latent", 0]),
        "base": node("KSampler", model=["mini", 0], positive=["meadow", 0], latent_image=["latent", 0]),
        "both": node("LatentBatch", samples1=["first", 0], samples2=["second", 0]),
        "decode": node("VAEDecode", samples=["first", 0], vae=["mini", 2]),
        "grid": node("PSALabelGrid", images=["decode", 0], labels=""),
    }


def labels(graph: dict, pictures: int, samples: str = "first") -> tuple[list[str], list[str]]:
    graph["decode"]["inputs"]["samples"] = [samples, 0]
    return module.labels_for(graph, "grid", pictures)


def test_viewers_are_named_and_a_typed_profile_is_not_told(graph):
    assert labels(graph, 3) == (["L0", "山田", "viewer 3"], [])
    assert labels(graph, 6) == (["L0", "山田", "viewer 3"] * 2, [])


def test_several_prompts_are_told_apart(graph):
    viewers = ["L0", "山田", "viewer 3"]
    meadow, beach = ([f"{viewer}: {text}" for viewer in viewers] for text in ("a meadow with a heart", "a beach"))
    assert labels(graph, 6, "both") == (meadow + beach, [])


def test_viewers_without_a_picture_are_named(graph):
    assert labels(graph, 2) == (["L0", "山田"], ["viewer 3"])


def test_a_second_pass_is_no_second_batch(graph):
    graph["second"]["inputs"]["latent_image"] = ["first", 0]
    assert labels(graph, 3, "second") == (["L0", "山田", "viewer 3"], [])


def test_the_base_model_stands_beside_viewers(graph):
    graph["both"]["inputs"]["samples1"] = ["base", 0]
    graph["second"]["inputs"]["positive"] = ["meadow", 0]
    assert labels(graph, 4, "both") == (["base model", "L0", "山田", "viewer 3"], [])


def test_what_the_graph_does_not_say_is_numbered(graph):
    assert labels(graph, 4) == (["1", "2", "3", "4"], [])
    assert module.labels_for({}, "grid", 2) == (["1", "2"], [])
    graph["first"]["inputs"]["model"] = ["first", 0]  # a circle ends, too
    assert len(labels(graph, 2)[0]) == 2


def test_several_batches_in_one_grid_are_labelled_in_their_order(graph):
    graph["more"] = node("VAEDecode", samples=["second", 0], vae=["mini", 2])
    graph["grid"]["inputs"] |= {"images_2": ["more", 0]}
    assert labels(graph, 6)[0][2:4] == ["viewer 3: a meadow with a heart", "L0: a beach"]
    graph["grid"]["inputs"] |= {"images": ["more", 0], "images_2": ["decode", 0]}
    assert labels(graph, 6)[0][2:4] == ["viewer 3: a beach", "L0: a meadow with a heart"]


def test_a_profile_that_nodes_hand_on_keeps_its_name(graph):
    graph["saved"] = node("PSASaveProfile", profile=["level", 0], name="somebody")
    graph["encode"]["inputs"]["profile"] = ["saved", 0]
    assert labels(graph, 3)[0] == ["L0", "山田", "viewer 3"]
    graph["saved"]["inputs"]["profile"] = ["typed", 0]  # its name in the store is all that may be told
    assert labels(graph, 3)[0] == ["somebody", "山田", "viewer 3"]


def test_an_audience_is_called_by_its_viewers(graph):
    people = {"profile": ["level", 0], "profile_2": ["stored", 0], "profile_3": ["typed", 0]}
    graph["audience"] = node("PSAAudience", adapter=["mini", 3], **people)
    graph["encode"]["inputs"] = {"profile": ["audience", 1], "profile_2": ["level", 0]}
    assert labels(graph, 2)[0] == ["L0 + 山田 + viewer 3", "L0"]
    graph["apply"]["inputs"] = {"model": ["mini", 0], "effect": ["audience", 0]}
    graph["first"]["inputs"]["model"] = ["apply", 0]
    assert labels(graph, 2)[0] == ["L0 + 山田 + viewer 3"] * 2


def test_an_effect_is_called_by_its_file_or_by_both_whom_it_lies_between(graph):
    graph["apply"]["inputs"] = {"model": ["mini", 0], "effect": ["effect", 0]}
    graph["effect"] = node("PSALoadEffect", effect_name="family.safetensors")
    assert labels(graph, 1)[0] == ["family.safetensors"]
    graph["other"] = node("PSAEncode", profile=["level", 0])
    graph["encode"]["inputs"] = {"profile": ["stored", 0]}
    graph["effect"] = node("PSAMixViewers", adapter=["mini", 3], first=["other", 0], second=["encode", 0], share=0.5)
    assert labels(graph, 1)[0] == ["L0 + 山田"]
    assert module.names_behind(graph, "effect", "first") == "L0" and module.names_behind(graph, "grid", "first") == ""


def test_profiles_in_a_circle_and_very_many_audiences_end(graph):
    graph["saved"] = node("PSASaveProfile", profile=["saved", 0], name="")
    graph["encode"]["inputs"] = {"profile": ["saved", 0]}
    assert labels(graph, 1)[0] == ["viewer 1"]
    inputs = ["profile", *(f"profile_{number}" for number in range(2, 9))]
    for number in range(200):
        before = f"audience {number - 1}" if number else "level"
        graph[f"audience {number}"] = node("PSAAudience", **{name: [before, 0] for name in inputs})
    graph["encode"]["inputs"] = {"profile": ["audience 20", 0], "profile_2": ["audience 199", 0]}
    assert labels(graph, 2)[0] == ["L0", "viewer 2"]


def test_the_viewers_of_a_node_are_called_as_their_nodes_have_them(graph):
    assert module.viewer_names(graph, "encode", 3) == ["L0", "山田", "viewer 3"]
    assert module.viewer_names(graph, "encode", 2) == ["viewer 1", "viewer 2"]  # a graph that says something else
    assert module.viewer_names({}, "encode", 1) == ["viewer 1"]
