"""The example workflows as files: whole, tidy, and without anything of a person. Others run them in ComfyUI."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from psa_core import LEVELS
from psa_core.mini import SYMBOLS, parse_prompt

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "workflows"
NAMES = [
    "psa_1_start_here",
    "psa_levels_sd15",
    "psa_published_weights",
    "psa_sd15_basic",
    "psa_sdxl_basic",
    "psa_train_sd15",
    "psa_viewer_mini",
    "psa_words_mini",
    "psa_words_sd15",
    "psa_words_sdxl",
]
WORDS = [name for name in NAMES if name.startswith("psa_words")]
STOCK = {
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "EmptyLatentImage",
    "KSampler",
    "LatentBatchSeedBehavior",
    "MarkdownNote",
    "PreviewImage",
    "PrimitiveInt",
    "SaveImage",
    "VAEDecode",
}
OURS = {path.stem for path in (ROOT / "web" / "docs").glob("PSA*.md")}  # each node has a page
WITH_CONTROL_AFTER_GENERATE = {
    "KSampler",
    "PrimitiveInt",
}  # one more saved value than inputs: what a seed does next
TITLE_HEIGHT = 30  # above a node's saved position
THUMBNAIL_BYTES = 150_000
PAGES = "https://github.com/comfyui-psa/comfyui-psa/blob/main/docs/"


@pytest.fixture(params=NAMES)
def workflow(request) -> dict:
    return read(request.param)


def read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def of_type(workflow: dict, kind: str) -> list[dict]:
    return [node for node in workflow["nodes"] if node["type"] == kind]


def only(workflow: dict, kind: str) -> dict:
    (node,) = of_type(workflow, kind)
    return node


def source(workflow: dict, node: dict, name: str) -> dict | None:
    """The node that feeds the input `name`; `None` for an unconnected one."""
    (link,) = (entry["link"] for entry in node["inputs"] if entry["name"] == name)
    origins = {entry[0]: entry[1] for entry in workflow["links"]}
    return next((other for other in workflow["nodes"] if other["id"] == origins.get(link)), None)


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y if node["flags"].get("collapsed") else y + height


def overlap(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_the_folder_holds_these_workflows_and_their_thumbnails():
    # ComfyUI's template browser asks for <name>.jpg.
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(
        f"{name}.{ending}" for name in NAMES for ending in ("json", "jpg")
    )


@pytest.mark.parametrize("name", NAMES)
def test_thumbnails_are_small_jpegs(name):
    path = FOLDER / f"{name}.jpg"
    with Image.open(path) as image:
        assert image.format == "JPEG"
        image.load()
    assert path.stat().st_size < THUMBNAIL_BYTES


def test_every_node_type_is_known(workflow):
    assert {node["type"] for node in workflow["nodes"]} <= STOCK | OURS


def test_ids_are_unique_and_counted(workflow):
    nodes, links = [node["id"] for node in workflow["nodes"]], [link[0] for link in workflow["links"]]
    assert len(set(nodes)) == len(nodes) and len(set(links)) == len(links)
    assert workflow["last_node_id"] == max(nodes) and workflow["last_link_id"] == max(links)


def test_links_and_slots_tell_the_same(workflow):
    listed = {tuple(link) for link in workflow["links"]}
    ends, starts = set(), set()
    for node in workflow["nodes"]:
        for slot, entry in enumerate(node.get("inputs", [])):
            if entry.get("link") is not None:
                ends.add((entry["link"], node["id"], slot, entry["type"]))
        for slot, entry in enumerate(node.get("outputs", [])):
            starts.update((link, node["id"], slot, entry["type"]) for link in entry.get("links") or [])
    assert starts == {(link, node, slot, kind) for link, node, slot, _, _, kind in listed}
    assert ends == {(link, node, slot, kind) for link, _, _, node, slot, kind in listed}


def test_sockets_are_connected_but_for_optional_ones(workflow):
    loose = {
        (node["type"], entry["name"])
        for node in workflow["nodes"]
        for entry in node.get("inputs", [])
        if entry.get("link") is None and "widget" not in entry
    }
    optional = {("PSAEncode", name) for name in ("encoder", *(f"profile_{number}" for number in range(2, 9)))}
    optional |= {("PSAUserSpace", "encoder"), ("PSAApply", "effect")}
    optional |= {("PSALabelGrid", f"images_{number}") for number in range(2, 5)}
    optional |= {("PSATrain", name) for name in ("encoder", "held_out", "harmless")}
    optional |= {("PSAEvaluate", name) for name in ("encoder", "rival_adapter")}
    assert loose <= optional


def test_every_widget_has_a_value(workflow):
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        widgets = [entry for entry in node["inputs"] if "widget" in entry]
        expected = len(widgets) + (node["type"] in WITH_CONTROL_AFTER_GENERATE)
        assert len(node.get("widgets_values", [])) == expected, node["type"]


def test_nothing_is_muted_or_left_to_chance(workflow):
    assert {node["mode"] for node in workflow["nodes"]} == {0}
    for kind in WITH_CONTROL_AFTER_GENERATE:
        assert all("fixed" in node["widgets_values"] for node in of_type(workflow, kind)), kind


def test_no_nodes_overlap(workflow):
    boxes = {f"{node['type']} {node['id']}": box(node) for node in workflow["nodes"]}
    assert [pair for pair in combinations(boxes, 2) if overlap(*(boxes[name] for name in pair))] == []


def test_every_node_but_a_note_lies_in_one_titled_group(workflow):
    for node in workflow["nodes"]:
        x0, y0, x1, y1 = box(node)
        around = []
        for group in workflow["groups"]:
            x, y, width, height = group["bounding"]
            if x <= x0 and y <= y0 and x1 <= x + width and y1 <= y + height:
                around.append(group["title"])
        assert len(around) == (node["type"] != "MarkdownNote"), (node["type"], around)
        assert all(around)


def test_a_note_explains_each_workflow(workflow):
    text = of_type(workflow, "MarkdownNote")[0]["widgets_values"][0]
    assert "models/checkpoints" in text and "models/psa_adapters" in text


def test_no_workflow_holds_a_person(workflow):
    profiles = of_type(workflow, "PSAUserProfile")
    assert profiles
    for node in profiles:
        preset, *fields = node["widgets_values"]
        assert re.fullmatch("L[0-5]", preset)
        assert fields == [30, "male", "None", "healthy", "healthy", "protective", *[False] * 7]  # the node's defaults


@pytest.mark.parametrize("name", ["psa_sd15_basic", "psa_sdxl_basic"])
def test_basic_pictures_differ_in_the_viewer_alone(name):
    workflow = read(name)
    samplers = of_type(workflow, "KSampler")
    assert sorted(source(workflow, node, "model")["type"] for node in samplers) == [
        "CheckpointLoaderSimple",
        "PSAApply",
    ]
    one, other = samplers
    assert one["widgets_values"] == other["widgets_values"]
    for shared in ("seed", "positive", "negative", "latent_image"):
        assert source(workflow, one, shared) is source(workflow, other, shared) is not None


def levels_encoded(workflow: dict) -> list[str]:
    encode = only(workflow, "PSAEncode")
    names = ["profile", *(f"profile_{number}" for number in range(2, 7))]
    return [source(workflow, encode, name)["widgets_values"][0] for name in names]


@pytest.mark.parametrize("name", ["psa_levels_sd15", "psa_1_start_here"])
def test_levels_are_encoded_and_drawn_in_order(name):
    workflow = read(name)
    assert levels_encoded(workflow) == ["L0", "L1", "L2", "L3", "L4", "L5"]
    assert only(workflow, "EmptyLatentImage")["widgets_values"][2] == 6


def test_levels_are_labelled_in_order():
    workflow = read("psa_levels_sd15")
    assert only(workflow, "PSALabelGrid")["widgets_values"][0].splitlines() == levels_encoded(workflow)


@pytest.mark.parametrize("name", ["psa_levels_sd15", "psa_1_start_here"])
def test_levels_share_one_noise(name):
    workflow = read(name)
    assert only(workflow, "LatentBatchSeedBehavior")["widgets_values"] == ["fixed"]
    for sampler in of_type(workflow, "KSampler"):
        assert source(workflow, sampler, "latent_image")["type"] == "LatentBatchSeedBehavior"
        assert not re.search("ancestral|sde", sampler["widgets_values"][4])  # these add other noise to each picture


def test_the_first_workflow_by_name_needs_no_file():
    assert not {"CheckpointLoaderSimple", "PSALoadAdapter"} & {node["type"] for node in read(min(NAMES))["nodes"]}


def test_the_minis_labels_say_what_each_viewer_bans():
    workflow = read("psa_1_start_here")
    grid = only(workflow, "PSALabelGrid")
    batches = [source(workflow, grid, name) for name in ("images", "images_2", "images_3")]
    samplers = [source(workflow, batch, "samples") for batch in batches]
    expected = []
    for sampler in samplers:
        symbol = parse_prompt(source(workflow, sampler, "positive")["widgets_values"][0]).symbol
        (category,) = (category for category, name in SYMBOLS.items() if name == symbol)
        for level, profile in LEVELS.items():
            expected.append(f"{level}: {symbol} {'banned' if category in profile.banned_categories else 'fine'}")
    labels, columns = grid["widgets_values"]
    assert labels.splitlines() == expected and columns == len(LEVELS)


def test_a_stored_viewer_is_for_the_artist_to_choose_and_drawn_beside_one_who_bans_nothing():
    workflow = read("psa_viewer_mini")
    (chosen,) = only(workflow, "PSALoadProfile")["widgets_values"]
    assert chosen.startswith("(")  # no profile's name begins so: nobody's slips in, and the page asks for one
    encode = only(workflow, "PSAEncode")
    assert source(workflow, encode, "profile")["type"] == "PSALoadProfile"
    assert source(workflow, encode, "profile_2")["widgets_values"][0] == "L0"
    assert (
        only(workflow, "EmptyLatentImage")["widgets_values"][2]
        == 2
        == only(workflow, "PSALabelGrid")["widgets_values"][1]
    )
    assert source(workflow, only(workflow, "KSampler"), "latent_image")["type"] == "LatentBatchSeedBehavior"
    assert parse_prompt(source(workflow, only(workflow, "KSampler"), "positive")["widgets_values"][0]).symbol


def test_published_weights_are_read_as_they_were_trained():
    workflow = read("psa_published_weights")
    encoder = source(workflow, only(workflow, "PSAEncode"), "encoder")
    assert encoder["widgets_values"][:2] == ["Qwen2.5-7B-Instruct", "published"]
    assert only(workflow, "PSALoadAdapter")["widgets_values"] == ["psa_adapter.bin"]


def test_what_was_trained_is_kept_and_drawn_for_both_ends_of_the_scale():
    workflow = read("psa_train_sd15")
    train, encode = only(workflow, "PSATrain"), only(workflow, "PSAEncode")
    splits = [source(workflow, train, name)["widgets_values"][1] for name in ("dataset", "held_out")]
    assert splits == ["train", "val"]
    assert source(workflow, only(workflow, "PSASaveAdapter"), "adapter") is train
    assert source(workflow, only(workflow, "PSAApply"), "adapter") is train
    assert source(workflow, only(workflow, "PreviewImage"), "images") is train
    levels = [source(workflow, encode, name)["widgets_values"][0] for name in ("profile", "profile_2")]
    assert levels == ["L0", "L5"] == only(workflow, "PSALabelGrid")["widgets_values"][0].splitlines()
    assert only(workflow, "EmptyLatentImage")["widgets_values"][2] == len(levels)
    assert source(workflow, only(workflow, "KSampler"), "latent_image")["type"] == "LatentBatchSeedBehavior"


def wiring(name: str, left_out: str = "") -> list[tuple]:
    """Links by the titles and types at their ends, whichever loader there is; nodes of the type `left_out` are not."""
    workflow = read(name)
    loaders = ("CheckpointLoaderSimple", "PSALoadMini")
    nodes = {
        node["id"]: "loader" if node["type"] in loaders else f"{node['type']} {node.get('title', '')}"
        for node in workflow["nodes"]
        if node["type"] != left_out
    }
    ends = ((link[1], link[2], link[3], link[4]) for link in workflow["links"])
    return sorted((nodes[a], slot, nodes[b], place) for a, slot, b, place in ends if a in nodes and b in nodes)


@pytest.mark.parametrize("name", ["psa_words_sd15", "psa_words_sdxl"])
def test_from_words_to_pictures_only_the_loader_differs(name):
    """Measuring is left out: which judge somebody has, nobody knows."""
    assert wiring(name) == wiring("psa_words_mini", "PSAEvaluate")
    places, minis = ({n["id"]: (n["pos"], n["size"]) for n in read(each)["nodes"]} for each in (name, "psa_words_mini"))
    assert places.items() <= minis.items()  # which is run in a page: no node covers another


@pytest.mark.parametrize("name", WORDS)
def test_words_become_an_adapter_and_pictures_for_viewers(name):
    workflow = read(name)
    built, train, apply = (only(workflow, kind) for kind in ("PSABuildDataset", "PSATrain", "PSAApply"))
    assert source(workflow, built, "prompts")["type"] == "PSAConcepts"
    for node, feeds in ((train, "dataset"), (only(workflow, "PSACheckDataset"), "dataset")):
        assert source(workflow, node, feeds) is built
    for node in (apply, only(workflow, "PSASaveAdapter")):
        assert source(workflow, node, "adapter") is train
    model = source(workflow, built, "model")
    assert source(workflow, train, "model") is source(workflow, apply, "model") is model
    assert train["widgets_values"][0] == "recommended"
    assert only(workflow, "EmptyLatentImage")["widgets_values"][2] == len(of_type(workflow, "PSAUserProfile"))
    assert only(workflow, "PSAUserSpace")["widgets_values"][0] == built["widgets_values"][1]  # the users that are shown
    if name != "psa_words_mini":
        assert train["widgets_values"][1] == train["widgets_values"][3] == 0  # steps and batch size are the preset's


def test_the_minis_words_are_measured_on_pairs_that_nothing_learned_from():
    workflow = read("psa_words_mini")
    evaluate, built = only(workflow, "PSAEvaluate"), only(workflow, "PSABuildDataset")
    (link,) = (entry["link"] for entry in evaluate["inputs"] if entry["name"] == "dataset")
    (origin, slot) = next((entry[1], entry[2]) for entry in workflow["links"] if entry[0] == link)
    assert (origin, built["outputs"][slot]["name"]) == (built["id"], "held_out")
    assert source(workflow, only(workflow, "PSATrain"), "held_out") is None
    for node in of_type(workflow, "CLIPTextEncode"):
        assert not node["widgets_values"][0] or parse_prompt(node["widgets_values"][0]).symbol


@pytest.mark.parametrize("name", NAMES)
def test_model_files_say_where_they_are_to_be_had(name):
    """In the form that ComfyUI's dialog of missing models reads, which fetches what hubs have as .safetensors."""
    workflow = read(name)
    folders = {"CheckpointLoaderSimple": "checkpoints", "PSALoadAdapter": "psa_adapters"}
    for node in workflow["nodes"]:
        if node["type"] not in folders:
            continue
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0] and model["directory"] == folders[node["type"]]
        if node["type"] == "CheckpointLoaderSimple":
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(f"/{model['name']}")
        elif model["url"].startswith(PAGES):  # an adapter of one's own: the page that says how to make it
            assert (ROOT / "docs" / model["url"].removeprefix(PAGES)).is_file()
        else:
            assert model["url"] in (ROOT / "docs" / "published-weights.md").read_text(encoding="utf-8")


def test_the_published_weights_name_the_language_model_that_the_dialog_cannot_look_for_by_its_folder():
    workflow = read("psa_published_weights")
    (model,) = workflow["models"]
    (folder, file), repository = model["name"].split("/"), model["url"].removeprefix("https://huggingface.co/")
    assert folder == only(workflow, "PSALoadEncoder")["widgets_values"][0] == repository.split("/")[1]
    assert model["directory"] == "LLM" and file.endswith(".safetensors")
    assert repository in (ROOT / "docs" / "published-weights.md").read_text(encoding="utf-8")
