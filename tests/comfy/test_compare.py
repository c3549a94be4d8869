"""PSA Compare in a real ComfyUI: its pictures are those of stock nodes, and what it keeps tells nothing of a person."""

import json
import os
import random
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph, Link, call, draw, encode, output, profile_node, queue_as, txt2img, wait
from graphs import apply as apply_to
from PIL import Image
from small_models import add_models

from psa_core import PSAAdapter, PSAError, load_adapter, save_adapter
from psa_core.comfy_server import ComfyServer
from psa_core.plots.comparison import Comparison
from psa_core.profile import CATEGORIES, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

SIZE = 64
PROMPT = "a quiet harbour at dawn"  # what txt2img draws
WIDGETS = {
    "prompts": PROMPT,
    "strengths": "0, 0.5, 1",
    "negative": "",
    "width": SIZE,
    "height": SIZE,
    "seed": 1,
    "steps": 2,
    "cfg": 7.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "filename_prefix": "compared",
}
WORDS = {"Religion": RELIGIONS, "Physical_Condition": PHYSICAL_CONDITIONS, "Mental_Condition": MENTAL_CONDITIONS}


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    """One of its own: what it writes is looked through."""
    base = tmp_path_factory.mktemp("compare")
    add_models(base, sd15_checkpoint)
    with ComfyServer(comfy, base) as running:
        yield running


def comparing(*viewers: str, adapter: str = "psa.safetensors", **widgets) -> Graph:
    """Viewers by level, or by `@` and a stored name."""
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    profiles = [
        graph.add("PSALoadProfile", profile_name=each[1:]) if each[0] == "@" else profile_node(graph, preset=each)
        for each in viewers
    ]
    more = {f"profile_{number}": profile for number, profile in enumerate(profiles[1:], start=2)}
    graph.add(
        "PSACompare",
        model=loader,
        clip=output(loader, 1),
        vae=output(loader, 2),
        adapter=graph.add("PSALoadAdapter", adapter_name=adapter),
        profile=profiles[0],
        **more,
        **WIDGETS | widgets,
    )
    return graph


def saved(server, graph: Graph, progress=None) -> tuple[list[Image.Image], str]:
    """The two saved tables, and what the node says."""
    (shown,) = server.queue(graph.prompt, progress).values()
    assert [image["type"] for image in shown["images"]] == ["output", "output"]
    (words,) = shown["text"]
    return [Image.open(BytesIO(server.image(**image))) for image in shown["images"]], words


def cells(table: Image.Image, comparison: Comparison, note: str, size: int = SIZE) -> list[list[Image.Image]]:
    """A table's pictures, cut out where a table of plain colours has them."""
    count = len(comparison.columns)
    colours = [[(9 * row + 3, 5 * column + 3, 77) for column in range(count)] for row in range(len(comparison.prompts))]
    pattern = np.asarray(comparison.grid([[Image.new("RGB", (size, size), c) for c in row] for row in colours], note))
    assert pattern.shape[1::-1] == table.size
    found = []
    for row in colours:
        places = [np.argwhere((pattern == colour).all(-1)).min(0) for colour in row]
        found.append([table.crop((x, y, x + size, y + size)).convert("RGB") for y, x in places])
    return found


def close(picture: Image.Image, drawn: np.ndarray) -> bool:
    return bool(np.abs(np.asarray(picture, float) / 255 - drawn).max() < 1.6 / 255)


NOTE = f"{SIZE} x {SIZE} pixels, 2 steps of euler (normal), CFG 7, seed 1."


def test_every_picture_is_what_stock_nodes_draw(server):
    (grid, differences), words = saved(server, comparing("L0", "L5"))
    comparison = Comparison((PROMPT,), ("L0", "L5"), (0.5, 1.0))
    (row,) = cells(grid, comparison, NOTE)
    plain = draw(server, txt2img())
    assert close(row[0], plain.pictures[0])
    for column, (viewer, strength) in list(enumerate(comparison.columns))[1:]:
        alone = draw(server, txt2img(psa(("L0", "L5")[viewer], strength)))
        assert close(row[column], alone.pictures[0]), column
        assert np.abs(alone.pictures - plain.pictures).max() > 4 / 255
    assert np.array_equal(np.asarray(grid.convert("RGB")), np.asarray(comparison.grid([row], NOTE)))
    expected = comparison.differences([row], f"In colour: what PSA changed. {NOTE}")
    assert np.array_equal(np.asarray(differences.convert("RGB")), np.asarray(expected))
    assert words.startswith("5 pictures (1 prompt: without PSA, and for 2 viewers at strength 0.5, 1).\n" + NOTE)


def psa(level: str, strength: float):
    def patch(graph: Graph, model: Link) -> Link:
        return apply_to(graph, model, encode(graph, profile_node(graph, preset=level)), strength=strength)

    return patch


def test_noise_that_a_sampler_adds_is_the_same_for_all(server):
    settings = {"sampler_name": "euler_ancestral", "strengths": "1"}
    note = NOTE.replace("euler", "euler_ancestral")
    (both, _), _ = saved(server, comparing("L0", "L5", **settings))
    (alone, _), _ = saved(server, comparing("L5", **settings))
    (two,) = cells(both, Comparison((PROMPT,), ("L0", "L5"), (1.0,)), note)
    (one,) = cells(alone, Comparison((PROMPT,), ("L5",), (1.0,)), note)
    assert close(two[0], np.asarray(one[0]) / 255) and close(two[2], np.asarray(one[1]) / 255)


def test_weights_in_prompts_count_as_in_stock_nodes(server):
    weighted = "a (quiet:1.9) harbour at (dawn:0.1)"

    def control(graph: Graph) -> None:
        graph.positive = graph.add("CLIPTextEncode", clip=["1", 1], text=weighted)

    (grid, _), _ = saved(server, comparing("L5", prompts=f"{weighted}\n{PROMPT}", strengths="1"))
    first, second = cells(grid, Comparison((weighted, PROMPT), ("L5",), (1.0,)), NOTE)
    assert close(first[0], draw(server, txt2img(control=control)).pictures[0])
    assert not close(second[0], np.asarray(first[0]) / 255)


def test_both_tables_go_on_through_the_graph(server):
    graph = comparing("L5", strengths="1", seed=5)
    (node,) = (number for number, each in graph.prompt.items() if each["class_type"] == "PSACompare")
    for number in (0, 1):
        graph.add("SaveImage", images=[node, number], filename_prefix=f"on{number}")
    outputs = server.queue(graph.prompt)
    own = [server.image(**image) for image in outputs[node]["images"]]
    on = [server.image(**outputs[str(int(node) + 1 + number)]["images"][0]) for number in (0, 1)]
    for one, other in zip(own, on, strict=True):
        assert np.array_equal(*(np.asarray(Image.open(BytesIO(each)).convert("RGB")) for each in (one, other)))


def test_progress_counts_every_step_of_every_picture(server):
    seen = []
    saved(server, comparing("L0", "L5", seed=2), lambda node, value, total: seen.append((node, value, total)))
    ours = [(value, total) for node, value, total in seen if node == "PSACompare" and total]
    assert ours[-1] == (5 * 2, 5 * 2) and {total for _, total in ours} == {10}
    assert ours[0][0] <= 2, "nothing was said before a whole run of the sampler"


def test_cancel_stops_it_between_two_steps_and_nothing_is_saved(server):
    reached = []

    def cancel(node: str, value: int, total: int) -> None:
        if node == "PSACompare" and value:
            reached.append(value)
            server.interrupt()

    graph = comparing("L0", "L5", steps=50, filename_prefix="cancelled")
    with pytest.raises(PSAError, match="interrupted"):
        server.run(graph.prompt, cancel)
    assert max(reached) < 50 * 3, "it drew on"
    assert not list((server.base / "output").glob("cancelled*"))
    saved(server, comparing("L5", strengths="1", steps=1))


def test_what_cannot_work_is_said_before_anything_is_drawn(server):
    psa_adapter = load_adapter(server.base / "models" / "psa_adapters" / "psa.safetensors")
    other = PSAAdapter(psa_adapter.layer_widths, psa_adapter.cross_attention_dim, 8, encoder_id="another")
    save_adapter(other, server.base / "models" / "psa_adapters" / "another.safetensors")
    for widgets, sentence in (
        ({"strengths": "much"}, "Strengths must be numbers"),
        ({"strengths": "0"}, "no strength but 0"),
        ({"prompts": " \n"}, "no prompt to compare"),
        ({"prompts": "a\n" * 200}, "600 pictures .* at most 256"),
        ({"adapter": "another.safetensors"}, "encoder 'another'"),
        ({"width": 2048, "height": 2048, "prompts": "a\n" * 6}, "at most 16 of 2048 x 2048"),
    ):
        steps: list[int] = []
        graph = comparing("L5", **{"strengths": "0.5, 1", **widgets})
        with pytest.raises(PSAError, match=sentence):
            server.queue(
                graph.prompt,
                lambda node, value, _, steps=steps: steps.append(value) if node == "PSACompare" and value else None,
            )
        assert steps == []
    with pytest.raises(PSAError, match="under that filename_prefix"):
        server.queue(comparing("L5", strengths="1", steps=1, filename_prefix="../../out").prompt)


def test_nothing_of_a_stored_profile_but_its_name_is_kept(server):
    """Profiles drawn at random: pictures with their settings, history, queue, log and every file but the store."""
    rng = random.Random()
    told: set[str] = set()
    names = ["anna & bob", "émile's", "viewer 9"]
    for name in names:
        fields = {
            field: rng.choice([word for word in words if len(word) > 4 and word not in ("healthy", *CATEGORIES)])
            for field, words in WORDS.items()
        }
        told |= set(fields.values())
        fields |= {"Age": rng.randrange(101), "Gender": rng.choice(["male", "female"])}
        fields["Banned_Categories"] = rng.sample(list(CATEGORIES), 3)
        status, _ = call(server, "/psa/profiles", {"name": name, "profile": fields})
        assert status == 200
    graph = comparing(*(f"@{name}" for name in names), strengths="1", seed=rng.randrange(10**6))
    prompt_id = wait(server, queue_as(server, graph, "default"))
    ((shown),) = (each for each in server.history(prompt_id)["outputs"].values())
    for image in shown["images"]:
        texts = Image.open(BytesIO(server.image(**image))).text
        assert set(texts) == {"psa_compare"}, "more than the settings is in the picture"
        settings = json.loads(texts["psa_compare"])
        assert settings.pop("viewers") == names
        (compare,) = (node["inputs"] for node in graph.prompt.values() if node["class_type"] == "PSACompare")
        assert settings == {
            "prompts": [PROMPT],
            "strengths": [1.0],
            "negative": "",
            "size": [SIZE, SIZE],
            **{name: compare[name] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler")},
        }
    said = {path: call(server, path)[1] for path in ("/history", "/queue", "/internal/logs", "/internal/logs/raw")}
    said["the log"] = server.log.encode()
    for path in files_of(server.base):
        said[str(path)] = path.read_bytes()
    assert len(said) > 8
    for where, content in said.items():
        for word in (*told, "Banned_Categories", "Age_Group"):
            assert word.encode() not in content, f"{where} holds {word!r}"


def files_of(base: Path) -> list[Path]:
    outside = (base / "user" / "__psa_profiles", base / "models", base / "custom_nodes")
    files = (Path(folder, name) for folder, _, names in os.walk(base) for name in names)
    return [path for path in files if not any(path.is_relative_to(folder) for folder in outside)]


def test_a_typed_profile_is_called_by_its_place(server):
    graph = comparing("L0", strengths="1", steps=1)
    typed = next(node for node in graph.prompt.values() if node["class_type"] == "PSAUserProfile")
    typed["inputs"] |= {"preset": "custom", "religion": "Buddhism", "age": 67}
    (grid, differences), _ = saved(server, graph)
    for table in (grid, differences):
        assert json.loads(table.text["psa_compare"])["viewers"] == ["viewer 1"]
        assert "Buddhism" not in str(table.text)


def test_no_file_is_ever_replaced(server):
    folder = server.base / "output"

    def run(prefix: str, seed: int) -> list[str]:
        graph = comparing("L5", strengths="1", steps=1, filename_prefix=prefix, seed=seed)
        before = {path: path.read_bytes() for path in folder.glob("kept*")}
        (shown,) = server.queue(graph.prompt).values()
        assert all(path.read_bytes() == content for path, content in before.items())
        return [image["filename"] for image in shown["images"]]

    assert run("kept", 1) == ["kept_00001_.png", "kept_differences_00001_.png"]
    (folder / "kept_00001_.png").unlink()
    assert run("kept", 2) == ["kept_00002_.png", "kept_differences_00002_.png"]
    assert run("kept_differences", 3) == ["kept_differences_00003_.png", "kept_differences_differences_00003_.png"]
    assert run("kept", 4) == ["kept_00004_.png", "kept_differences_00004_.png"]
