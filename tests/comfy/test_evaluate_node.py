"""PSA Evaluate in a real ComfyUI: what it draws, what it says, and that it can be stopped."""

import json
import re
import shutil
from pathlib import Path

import pytest
from chat_server import FINE, Server
from graphs import Graph, output
from script_checks import check_names
from small_models import add_models

from psa_core import PSAAdapter, PSAError, save_adapter
from psa_core.adapter.files import load_adapter
from psa_core.encoders.everyone import EveryoneEncoder
from psa_core.mini.dataset import Sizes, write_dataset
from psa_core.training import read_split

SCRIPT = Path(__file__).parent / "scripts" / "check_evaluate.py"
PAIRS = 6
WIDGETS = {
    "judge": "mini detector",
    "judge_location": "",
    "judge_model": "",
    "count": PAIRS,
    "width": 64,
    "height": 64,
    "seed": 5,
    "steps": 2,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "normal",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mini-data")
    write_dataset(folder, sizes=Sizes(4, 4, 1, 1, 1, PAIRS, 1, 1, 1))
    return folder


@pytest.fixture(scope="module")
def adapters(server) -> dict[str, str]:
    """Adapters for the server's small model: one that changes its pictures, one that does not, and a global one."""
    folder = server.base / "models" / "psa_adapters"
    psa = load_adapter(folder / "psa.safetensors")
    shape = psa.layer_widths, psa.cross_attention_dim
    save_adapter(PSAAdapter(*shape, psa.embedding_dim, encoder_id=psa.encoder_id), folder / "zero.safetensors")
    everyone = PSAAdapter(*shape, EveryoneEncoder.dim, encoder_id=EveryoneEncoder.id)
    save_adapter(everyone, folder / "global.safetensors")
    save_adapter(PSAAdapter(*shape, 8, encoder_id="another"), folder / "another.safetensors")
    return {name: f"{name}.safetensors" for name in ("psa", "zero", "global", "another")}


def evaluation(data: Path, adapter: str, rival: str | None = None, **widgets) -> Graph:
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2)}
    inputs["adapter"] = graph.add("PSALoadAdapter", adapter_name=adapter)
    inputs["dataset"] = graph.add("PSALoadDataset", folder=str(data), split="test_unseen", skip_bad=False)
    if rival:
        inputs["rival_adapter"] = graph.add("PSALoadAdapter", adapter_name=rival)
    evaluated = graph.add("PSAEvaluate", **inputs, **WIDGETS | widgets)
    graph.add("SaveImage", images=evaluated, filename_prefix="figure")
    return graph


def table_of(server, graph: Graph) -> str:
    (text,) = (text for entry in server.queue(graph.prompt).values() for text in entry.get("text", ()) if "###" in text)
    return text


def figures(table: str, row: str) -> dict[str, tuple[float, float, float]]:
    """Column -> value, and its interval, in the first row of that name."""
    heads: list[str] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0] == row:
            return {
                head.split(" (n =")[0]: tuple(map(float, re.findall(r"[\d.]+", cell)))
                for head, cell in zip(heads[1:], cells[1:], strict=True)
                if cell != "-"
            }
        heads = heads if cells and heads else cells
    raise AssertionError(f"there is no row {row} in\n{table}")


@pytest.fixture(scope="session")
def outcomes(comfy_checks, sd15_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_dataset(folder / "data", sizes=Sizes(4, 4, 1, 1, 1, PAIRS, 1, 1, 1))
    add_models(folder, sd15_checkpoint)
    return comfy_checks(
        SCRIPT, sd15_checkpoint, folder / "models" / "psa_adapters" / "psa.safetensors", folder / "data"
    )


@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_inside_comfyui(check, outcomes):
    outcomes.verify(check)


def test_the_table_has_every_method_and_nothing_of_a_user(server, data, adapters):
    table = table_of(server, evaluation(data, adapters["psa"], adapters["global"]))
    assert "test_unseen" in table and "mini detector" in table
    assert f"{PAIRS} records of" in table and "64 x 64 pixels, 2 steps of euler (normal), CFG 3, seed 5" in table
    for comparison in ("rival over base", "PSA over base", "PSA over rival"):
        assert comparison in table
    users = read_split(data, "test_unseen").profiles
    assert not any(user.user_id in table for user in users)
    assert not re.search("male|Islam|Buddhism|Christianity|impairment|depression|anxiety|healthy", table)


def test_an_adapter_that_does_nothing_ties_with_the_base_model(server, data, adapters):
    table = table_of(server, evaluation(data, adapters["zero"], count=5))
    found = figures(table, "PSA over base")
    assert (found["wins"][0], found["ties"][0], found["losses"][0]) == (0, 1, 0)


@pytest.mark.slow
def test_on_psa_mini_the_shipped_adapter_wins_over_base_and_rival(server, tmp_path):
    write_dataset(tmp_path / "data", sizes=Sizes(1, 48, 1, 1, 1, 96, 1, 1, 1))
    graph = Graph()
    mini = graph.add("PSALoadMini")
    names = ("model", "clip", "vae", "adapter", "rival_adapter")
    inputs = {name: output(mini, place) for place, name in enumerate(names)}
    inputs["dataset"] = graph.add("PSALoadDataset", folder=str(tmp_path / "data"), split="test_unseen", skip_bad=False)
    sampling = {"width": 128, "height": 128, "steps": 12, "sampler_name": "dpmpp_2m", "count": 96}
    graph.add("PSAEvaluate", **inputs, **WIDGETS | sampling)
    table = table_of(server, graph)
    passed = {name: figures(table, name)["pass rate"] for name in ("PSA", "base", "rival")}
    for other in ("base", "rival"):
        # Both are drawn in this run, and the whole intervals lie apart: rounding moves a picture or two of the 96.
        assert passed["PSA"][1] > passed[other][2], table
        assert figures(table, f"PSA over {other}")["win rate"][1] > 0.5, table


def test_the_figure_is_a_picture(server, data, adapters):
    outputs = server.queue(evaluation(data, adapters["psa"], count=2).prompt)
    saved = [image for entry in outputs.values() for image in entry.get("images", ()) if image["type"] == "output"]
    assert len(saved) == 1 and len(server.image(**saved[0])) > 3000


def test_more_records_than_there_are_means_all(server, data, adapters):
    assert f"{PAIRS} records of" in table_of(server, evaluation(data, adapters["zero"], count=999, steps=1))


def test_cancel_stops_it_between_two_steps(server, data, adapters):
    reached = []

    def cancel(node: str, value: int, steps: int) -> None:
        if node == "PSAEvaluate" and value:
            reached.append(value)
            server.interrupt()

    with pytest.raises(PSAError, match="interrupted"):
        server.run(evaluation(data, adapters["psa"], steps=50).prompt, cancel)
    assert max(reached) < PAIRS * 50, "it drew all of the base model's pictures first"
    assert f"{PAIRS} records" in table_of(server, evaluation(data, adapters["zero"], steps=1)), "a run after it fails"


@pytest.mark.parametrize(
    ("adapter", "widgets", "sentence"),
    [
        ("psa", {"judge": "Q16 classifier"}, "where the Q16 classifier is"),
        ("psa", {"judge_location": "/somewhere"}, "Leave judge_location empty"),
        ("psa", {"judge": "vision-language model", "judge_location": "http://127.0.0.1:1/v1"}, "judge_model"),
        ("psa", {"judge": "Q16 classifier", "judge_location": "/nowhere"}, "no Q16 prompt file"),
        ("psa", {"judge": "vision-language model", "judge_location": "/nowhere"}, "/nowhere"),
        (
            "psa",
            {"judge": "vision-language model", "judge_location": "http://judge.example/v1", "judge_model": "x"},
            "Run the model on this machine, or judge with the command psa evaluate",
        ),
        (
            "psa",
            {"judge": "vision-language model", "judge_location": "http://127.0.0.1:1/v1", "judge_model": "x"},
            "could not be reached",
        ),
        ("psa", {"judge": "NudeNet", "judge_location": "/somewhere"}, "Leave judge_location empty"),
        ("another", {}, "trained on profile embeddings of the encoder 'another'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_drawn(server, data, adapters, adapter, widgets, sentence):
    steps = []
    with pytest.raises(PSAError, match=sentence):
        server.queue(
            evaluation(data, adapters[adapter], **widgets).prompt,
            lambda node, value, _: steps.append(value) if node == "PSAEvaluate" and value else None,
        )
    assert steps == []


def test_a_prompt_that_the_detector_does_not_know_is_found_before_anything_is_drawn(server, data, adapters, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    file = folder / "test_unseen" / "metadata.jsonl"
    *lines, last = file.read_text(encoding="utf-8").splitlines()
    lines.append(json.dumps({**json.loads(last), "caption": "a photo of a street"}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps = []
    with pytest.raises(PSAError, match="does not know the prompt 'a photo of a street'"):
        server.queue(
            evaluation(folder, adapters["psa"]).prompt,
            lambda node, value, _: steps.append(value) if node == "PSAEvaluate" and value else None,
        )
    assert steps == []


def test_a_judge_that_failed_at_the_last_picture_is_not_asked_about_the_others_again(server, data, adapters):
    asked_in_all = 2 * 2 + 1  # two methods' pictures, and whether the server is there
    judge = Server(lambda _body, number: (400, {}) if number == asked_in_all else json.dumps(FINE))
    try:
        graph = evaluation(
            data,
            adapters["psa"],
            count=2,
            steps=1,
            judge="vision-language model",
            judge_location=judge.address,
            judge_model="tiny",
        )
        with pytest.raises(PSAError, match="answered 400"):
            server.queue(graph.prompt)
        judge.bodies.clear()
        judge.answer = lambda _body, _number: json.dumps(FINE)
        assert "vision-language (tiny)" in table_of(server, graph)
        assert len(judge.bodies) <= 1 + 2  # of two that were in flight at the failure, one may have been lost
    finally:
        judge.shutdown()
        judge.server_close()
