"""What nodes say when they are done, and that it is said once."""

import pytest
from graphs import Graph, apply, encode, output, profile_node, txt2img
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


def test_a_grid_labels_its_pictures_itself_and_says_who_has_none(server):
    def patch(graph, model):
        return apply(graph, model, encode(graph, *(profile_node(graph, preset=level) for level in ("L0", "L5"))))

    graph = txt2img(patch, batch=1, seed=71)
    images = graph.add("VAEDecode", samples=graph.samples, vae=graph.vae)
    graph.add("PreviewImage", images=graph.add("PSALabelGrid", images=images, labels="", columns=2))
    outputs = server.queue(graph.prompt).values()
    (said,) = (text for entry in outputs for text in entry.get("text", ()))
    assert "none for L5" in said
    assert len([image for entry in outputs for image in entry.get("images", ())]) == 2  # on the grid, and after it


def test_the_menu_of_data_sets_lists_those_of_the_input_folder(server):
    write_split(server.base / "input" / "chosen" / "deeper", "train", range(0, 2), 2)
    options = server.object_info()["PSALoadDataset"]["input"]["required"]["folder"]
    names = options[0] if isinstance(options[0], list) else options[1]["options"]
    assert "chosen/deeper" in names and "chosen" not in names


@pytest.mark.parametrize(
    ("folder", "split", "words"),
    [("none", "train", "no metadata of the split 'train'"), ("whole/train", "train", "is the folder of one split")],
)
def test_what_is_wrong_with_a_data_set_is_said_once(server, folder, split, words):
    if not (server.base / "input" / "whole").exists():
        write_split(server.base / "input" / "whole", "train", range(0, 2), 2)
    graph = Graph()
    graph.add("PSALoadDataset", folder=folder, split=split, skip_bad=False)
    with pytest.raises(PSAError) as refusal:
        server.queue(graph.prompt)
    assert str(refusal.value).count(words) == 1


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
