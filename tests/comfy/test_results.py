"""What nodes say when they are done, and that it is said once."""

import json
import re

import pytest
from graphs import Graph, apply, call, encode, output, profile_node, txt2img
from heard import hear
from tiny_training import write_split

from psa_core import PSAError


def texts(server, graph: Graph) -> list[str]:
    return [text for entry in server.queue(graph.prompt).values() for text in entry.get("text", ())]


def test_what_is_saved_is_said(server):
    graph = Graph()
    graph.add("PSASaveProfile", profile=profile_node(graph, preset="L1"), name="émile's", overwrite=True)
    adapter = graph.add("PSALoadAdapter", adapter_name="psa.safetensors")
    graph.add("PSASaveAdapter", adapter=adapter, name="said", precision="float32")
    profile, saved = sorted(texts(server, graph), key=lambda text: "Saved" in text)
    assert "émile's" in profile and "said" in saved and saved.startswith("Saved")


def grid(server, batch: int, labels: str | None = None) -> str:
    """What a grid of so many pictures for two viewers says; `labels` `None` takes them from PSA Encode."""
    encoded = []

    def patch(graph, model):
        encoded.append(encode(graph, *(profile_node(graph, preset=level) for level in ("L0", "L5"))))
        return apply(graph, model, encoded[0])

    graph = txt2img(patch, batch=batch, seed=71)
    images = graph.add("VAEDecode", samples=graph.samples, vae=graph.vae)
    graph.add(
        "PreviewImage",
        images=graph.add(
            "PSALabelGrid", images=images, labels=output(encoded[0], 1) if labels is None else labels, columns=2
        ),
    )
    outputs = server.queue(graph.prompt).values()
    assert len([image for entry in outputs for image in entry.get("images", ())]) == 2  # on the grid, and after it
    (said,) = (text for entry in outputs for text in entry.get("text", ()))
    return said


def test_a_grid_labels_its_pictures_itself_and_says_who_has_none_until_all_have_one(server):
    assert "none for L5. Set batch_size of the latent to 2" in grid(server, 1, "")
    assert grid(server, 2, "") == "2 pictures, each with its label."


def test_wired_labels_start_over_with_the_viewers_and_say_what_to_set_where_they_do_not(server):
    assert grid(server, 4) == "4 pictures, each with its label."
    with pytest.raises(PSAError, match="1 picture and 2 labels"):
        grid(server, 1)


def test_nodes_that_show_no_picture_say_what_they_did(server):
    graph = Graph()
    graph.add(
        "PSASaveProfile", profile=profile_node(graph, age=11, religion="Buddhism"), name="somebody", overwrite=True
    )
    server.queue(graph.prompt)
    graph = Graph()
    people = [graph.add("PSALoadProfile", profile_name="somebody"), profile_node(graph, preset="L5")]
    adapter = graph.add("PSALoadAdapter", adapter_name="psa.safetensors")
    audience = graph.add("PSAAudience", adapter=adapter, profile=people[0], profile_2=people[1], how="strictest bans")
    embeddings = [encode(graph, person) for person in people]
    mixed = graph.add("PSAMixViewers", adapter=adapter, first=embeddings[0], second=embeddings[1], share=0.25)
    saved = graph.add("PSASaveEffect", adapter=adapter, profile=people[1], name="for a text")
    for link in (audience, mixed, saved):
        graph.add("PreviewAny", source=link)
    heard = hear(server, graph.prompt)
    assert heard.said["PSAAudience"] == ["One picture for somebody, L5: strictest bans."]
    assert heard.said["PSAMixViewers"] == ["75% for somebody, 25% for L5."]
    assert not any(word in message for message in heard.messages for word in ("Buddhism", "Sexuality", "Shocking"))
    graph = Graph()
    graph.add("PreviewAny", source=graph.add("PSALoadEffect", effect_name="for a text.safetensors"))
    (said,) = hear(server, graph.prompt).said["PSALoadEffect"]
    assert re.fullmatch(r"for SD1\.5: \d+ layers, 1 token", said)


def test_a_name_that_cannot_be_is_refused_before_anything_runs(server):
    for kind, name in (("PSASaveAdapter", "a/b"), ("PSASaveEffect", "..")):
        graph = Graph()
        inputs = {"adapter": graph.add("PSALoadAdapter", adapter_name="psa.safetensors"), "name": name}
        more = {"precision": "float32"} if kind == "PSASaveAdapter" else {"profile": profile_node(graph, preset="L1")}
        graph.add(kind, **inputs, **more)
        status, answer = call(server, "/prompt", {"prompt": graph.prompt})
        (entry,) = json.loads(answer)["node_errors"].values()
        assert status == 400 and [error["details"].count("name cannot be used") for error in entry["errors"]] == [1]


def test_the_menu_of_data_sets_lists_those_of_the_input_folder(server):
    write_split(server.base / "input" / "chosen" / "deeper", "train", range(0, 2), 2)
    options = server.object_info()["PSALoadDataset"]["input"]["required"]["folder"]
    names = options[0] if isinstance(options[0], list) else options[1]["options"]
    assert "chosen/deeper" in names and "chosen" not in names


@pytest.mark.parametrize(
    ("folder", "split", "words"),
    [
        ("none", "train", "no metadata of the split 'train'"),
        ("whole", "val", "Choose a split that is there: train."),
        ("whole/train", "train", "is the folder of one split"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_said_once(server, folder, split, words):
    if not (server.base / "input" / "whole").exists():
        write_split(server.base / "input" / "whole", "train", range(0, 2), 2)
    graph = Graph()
    graph.add("PSALoadDataset", folder=folder, split=split, skip_bad=False)
    with pytest.raises(PSAError) as refusal:
        server.queue(graph.prompt)
    assert str(refusal.value).count(words) == 1


def test_a_check_of_one_split_asks_for_the_folder_around_it(server):
    write_split(server.base / "input" / "around", "train", range(0, 2), 2)
    graph = Graph()
    graph.add("PSACheckDataset", folder="around/train")
    with pytest.raises(PSAError, match="is the folder of one split"):
        server.queue(graph.prompt)


def test_a_data_set_elsewhere(server, tmp_path):
    write_split(tmp_path / "data", "train", range(0, 2), 2)
    graph = Graph()
    graph.add("PSALoadDataset", folder="none", split="train", skip_bad=False, elsewhere=str(tmp_path / "data"))
    (said,) = texts(server, graph)
    assert "2 pairs" in said


def test_a_model_without_a_judge_of_its_own_is_told_before_any_picture(server):
    write_split(server.base / "input" / "judged", "val", range(0, 2), 2)
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    graph.add(
        "PSAEvaluate",
        model=model,
        clip=output(model, 1),
        vae=output(model, 2),
        adapter=graph.add("PSALoadAdapter", adapter_name="psa.safetensors"),
        dataset=graph.add("PSALoadDataset", folder="judged", split="val", skip_bad=False),
        judge="the model's own",
        judge_location="",
        judge_model="",
        count=1,
        width=0,
        height=0,
        seed=0,
        steps=1,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
    )
    with pytest.raises(PSAError, match="Only PSA Mini has a judge of its own"):
        server.queue(graph.prompt)
