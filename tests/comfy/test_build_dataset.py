"""PSA Build Dataset in a real ComfyUI: what it draws, that it can be stopped, and what learns from it."""

import json
import threading
from pathlib import Path

import pytest
from building import WIDGETS
from chat_server import Server
from graphs import Graph, output
from heard import cancel_when_it_says
from PIL import Image

from psa_core import PSAError
from psa_core.concepts.pairs import PromptPair, write_prompt_pairs
from psa_core.dataset import read_split
from psa_core.population import sample_users
from psa_core.review import AnswerBook, Review
from psa_core.users import write_users

PLACES, COLOURS = ("meadow", "desert", "sea"), ("red", "blue", "green")
PICTURES = 2 * len(PLACES) * len(COLOURS) + 1


@pytest.fixture(scope="module")
def prompts(server) -> str:
    pairs = [
        PromptPair("Violence", "heart", f"a {place} with a {colour} circle and a heart",
                   f"a {place} with a {colour} circle", "named", "by hand")
        for place in PLACES
        for colour in COLOURS
    ]  # fmt: skip
    scene = "a sea with a green square"
    (server.base / "input").mkdir(exist_ok=True)
    write_prompt_pairs(
        server.base / "input" / "prompts.jsonl", [*pairs, PromptPair(None, "", scene, scene, "named", "by hand")]
    )
    return "prompts.jsonl"


def building(prompts: str, **widgets) -> tuple[Graph, list, list]:
    """(graph, PSA Build Dataset, the model)"""
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2), "prompts_file": prompts}
    return graph, graph.add("PSABuildDataset", **inputs, **{"name": "small"} | WIDGETS | widgets), model


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_cancel_keeps_what_is_drawn_and_run_goes_on_to_the_same_files(server, prompts):
    place = server.base / "input" / "psa_datasets"
    (shown,) = server.queue(building(prompts, name="whole")[0].prompt).values()
    whole = files(place / "whole")
    assert len([name for name in whole if name.endswith(".jpg")]) == PICTURES
    (text,) = shown["text"]
    assert "pairs, 8 users" in text and "Virtual users only" in text and len(shown["images"]) == 1
    assert not any(word in text for word in ("male", "Islam", "Buddhism", "healthy"))

    def cancel(node: str, value: int, total: int) -> None:
        if node == "PSABuildDataset" and total == PICTURES and value > 0:
            server.interrupt()

    widgets = {"name": "stopped", "sampler_name": "euler_ancestral"}  # one picture at a time
    with pytest.raises(PSAError, match="interrupted"):
        server.queue(building(prompts, **widgets)[0].prompt, cancel)
    drawn = files(place / "stopped")
    assert 0 < len([name for name in drawn if name.endswith(".jpg")]) < PICTURES and "pairs.jsonl" not in drawn
    server.queue(building(prompts, **widgets)[0].prompt)
    again = files(place / "stopped")
    assert all(again[name] == content for name, content in drawn.items() if name not in (".lock", "dataset.json"))
    server.queue(building(prompts, **widgets | {"name": "unstopped"})[0].prompt)
    assert files(place / "unstopped") == again
    assert read_split(place / "whole", "train").users == 8
    assert json.loads(whole["dataset.json"])["people"].startswith("virtual users only")


def test_other_settings_are_refused_by_name(server, prompts):
    server.queue(building(prompts, name="taken")[0].prompt)
    with pytest.raises(PSAError, match=r"holds another data set. What differs: .*sampling"):
        server.queue(building(prompts, name="taken", steps=3)[0].prompt)
    with pytest.raises(PSAError, match="data set's name cannot be used"):
        server.queue(building(prompts, name="../out")[0].prompt)
    with pytest.raises(PSAError, match="one of the two"):
        server.queue(building("")[0].prompt)


def test_both_pictures_of_a_pair_start_from_one_seed(server, prompts):
    """Without guidance by the prompt they are the same picture."""
    server.queue(building(prompts, name="unguided", cfg=0.0, sampler_name="euler_ancestral")[0].prompt)
    folder = server.base / "input" / "psa_datasets" / "unguided"
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for line in lines:
        shows, without = (Image.open(folder / line["pictures"][name]) for name in ("shows", "without"))
        assert shows.tobytes() == without.tobytes()
    assert len({Image.open(folder / line["pictures"]["shows"]).tobytes() for line in lines}) > 1


def run(server, prompts: str, **widgets) -> tuple[set[str], str]:
    """The nodes that ran, and what PSA Build Dataset said."""
    ran: set[str] = set()
    graph, built, _ = building(prompts, **widgets)
    graph.add("PreviewImage", images=output(built, 2))
    outputs = server.queue(graph.prompt, lambda node, *_: ran.add(node))
    return ran, outputs[built[0]]["text"][0]


def test_answers_by_hand_count_at_the_next_run(server, prompts):
    for _ in range(2):  # once there is a data set, and once it is known
        run(server, prompts, name="answered")
    assert "PSABuildDataset" not in run(server, prompts, name="answered")[0]
    folder = server.base / "input" / "psa_datasets" / "answered"
    review = Review(read_split(folder, "train", answers=False), AnswerBook(folder))
    state = review.state()
    review.answer(state["question"]["number"], state["question"]["token"], "bad", state["seen"])
    ran, text = run(server, prompts, name="answered")
    assert {"PSABuildDataset", "PreviewImage"} <= ran and "train: by hand" in text
    assert "PSABuildDataset" not in run(server, prompts, name="answered")[0]


@pytest.mark.parametrize("file", ["users_file", "prompts_file"])
def test_what_a_given_file_holds_counts_at_the_next_run(server, prompts, file):
    folder, name = server.base / "input", f"given-{file.partition('_')[0]}"
    given = {"users_file": f"{name}.csv", "prompts_file": f"{name}.jsonl"}
    write_users(folder / given["users_file"], sample_users(10, 1))
    whole = (folder / prompts).read_text().splitlines(keepends=True)
    (folder / given["prompts_file"]).write_text("".join(whole))
    widgets = {"name": name, "users_file": given["users_file"]}
    for _ in range(2):
        run(server, given["prompts_file"], **widgets)
    assert "PSABuildDataset" not in run(server, given["prompts_file"], **widgets)[0]
    if file == "users_file":
        write_users(folder / given[file], sample_users(10, 2))
        assert (
            "The lists are written anew, for this has changed: the users"
            in run(server, given["prompts_file"], **widgets)[1]
        )
        return
    (folder / given[file]).write_text("".join(whole[1:]))
    with pytest.raises(PSAError, match=r"holds another data set\. What differs: .*the prompts"):
        run(server, given["prompts_file"], **widgets)


def test_from_prompts_to_an_adapter_in_one_graph(server, prompts):
    graph, built, model = building(prompts, name="trained")
    inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2)}
    training = {"preset": "custom", "steps": 2, "learning_rate": 1e-3, "batch_size": 1, "resolution": 64, "seed": 0}
    training |= {"num_tokens": 1, "save_every": 10, "preview_every": 0, "run_name": "of-built", "flip": False}
    graph.add("PSATrain", **inputs, dataset=built, held_out=output(built, 1), **training)
    graph.add("PreviewImage", images=output(built, 2))
    outputs = server.queue(graph.prompt)
    assert any("2 steps are done" in text for entry in outputs.values() for text in entry.get("text", ()))
    loaded = Graph()
    loaded.add("PSALoadDataset", folder="psa_datasets/trained", split="harmless", skip_bad=False)
    (shown,) = server.queue(loaded.prompt).values()
    assert "harmless: 1 pairs" in shown["text"][0]


def test_a_judge_labels_or_sets_aside(server, prompts):
    """By PSA Mini's own detector, on its own pictures; a model without a judge of its own says so before it draws."""
    graph = Graph()
    mini = graph.add("PSALoadMini")
    inputs = {"model": mini, "clip": output(mini, 1), "vae": output(mini, 2), "prompts_file": prompts}
    drawing = {"name": "judged", "width": 0, "height": 0, "judge": "the model's own", "labels": "judge"}
    graph.add("PSABuildDataset", **inputs, **WIDGETS | {"steps": 12} | drawing)
    (shown,) = server.queue(graph.prompt).values()
    folder = server.base / "input" / "psa_datasets" / "judged"
    told = json.loads((folder / "dataset.json").read_text())
    assert (told["labels"], told["judge"]) == ("judge", "mini detector") and "128 x 128 pixels" in told["sampling"]
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert {line["label"] for line in lines} == {"judge"} and (folder / "judged.jsonl").is_file()
    assert "by the judge" in shown["text"][0] and not (folder / ".answers").exists()
    for widgets, words in (
        ({"judge": "the model's own"}, "Only PSA Mini has a judge of its own"),
        ({"judge": "nobody", "labels": "judge"}, "Labels by a judge need one"),
        ({"judge": "NudeNet", "judge_location": "/somewhere"}, "Leave judge_location empty"),
    ):
        with pytest.raises(PSAError, match=words):
            server.queue(building(prompts, name="refused", **widgets)[0].prompt)
    assert not (server.base / "input" / "psa_datasets" / "refused").exists()


def test_cancel_ends_the_wait_for_a_judging_server(server, prompts):
    """Before anything is drawn it is asked whether it is there."""
    done = threading.Event()
    judge = Server(lambda _body, _number: done.wait(400) and (400, {}))
    widgets = {"judge": "vision-language model", "judge_location": judge.address, "judge_model": "m"}
    graph, built, _ = building(prompts, name="judged-elsewhere", **widgets)
    try:
        words = "waiting for the vision-language server"
        assert words in cancel_when_it_says(server, graph.prompt, built[0], words)
        assert not (server.base / "input" / "psa_datasets" / "judged-elsewhere").exists()
    finally:
        done.set()
        judge.shutdown()
        judge.server_close()
