"""PSA Check Dataset on the real server: its report and picture, and its sentences."""

from io import BytesIO

import pytest
from graphs import Graph
from PIL import Image
from tiny_training import write_split

from psa_core import PSAError
from psa_core.comfy_server import ComfyServer


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    with ComfyServer(comfy, tmp_path_factory.mktemp("check")) as running:
        write_split(running.base / "input" / "pairs", "train", range(4), 8)
        yield running


def run(server, **inputs):
    graph = Graph()
    report = graph.add("PSACheckDataset", **inputs)
    graph.add("SaveImage", images=[report[0], 1], filename_prefix="check")
    return server.queue(graph.prompt)


def test_report_and_picture_are_shown(server):
    outputs = run(server, folder="pairs")
    (text,) = outputs["1"]["text"]
    assert "train: 8 records of 8 pairs of pictures, 4 users" in text and "Leakage: none." in text
    (saved,) = outputs["2"]["images"]
    assert Image.open(BytesIO(server.image(**saved))).width == 900 and outputs["1"]["images"]


def test_pictures_that_change_are_looked_at_again(server):
    broken = next((server.base / "input" / "pairs" / "train").glob("*_s.png"))
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    try:
        assert broken.name in run(server, folder="pairs")["1"]["text"][0]
    finally:
        broken.write_bytes(whole)


def test_the_folder_of_one_split_is_told_from_none(server):
    with pytest.raises(PSAError, match="pairs/train is the folder of one split") as refusal:
        run(server, folder="pairs/train")
    assert str(refusal.value).count("folder of one split") == 1


@pytest.mark.parametrize("folder", ["nowhere", "", "\0"])
def test_no_data_set_there_is_said_once(server, folder):
    with pytest.raises(PSAError, match="no data set in that folder") as refusal:
        run(server, folder=folder)
    assert str(refusal.value).count("no data set") == 1


def test_a_data_set_is_chosen_or_lies_elsewhere(server, tmp_path):
    chosen = server.object_info()["PSACheckDataset"]["input"]["required"]["folder"]
    assert "pairs" in (chosen[0] if isinstance(chosen[0], list) else chosen[1]["options"])
    write_split(tmp_path / "mine", "train", range(2), 2)
    assert "train: 2 records" in run(server, folder="pairs", elsewhere=str(tmp_path / "mine"))["1"]["text"][0]


def test_pairs_stand_for_their_data_set_in_place_of_a_folder(server):
    graph = Graph()
    pairs = graph.add("PSALoadDataset", folder="pairs", split="train", skip_bad=False)
    graph.add("PSACheckDataset", folder="nowhere", dataset=pairs)
    outputs = server.queue(graph.prompt)
    assert "train: 8 records" in outputs["2"]["text"][0]
    image = graph.add("EmptyImage", width=8, height=8, batch_size=1, color=0)
    graph.add("PSACheckDataset", folder="pairs", dataset=image)
    with pytest.raises(PSAError, match="takes PSA_DATASET"):
        server.queue(graph.prompt)
