"""PSA Evaluate in a real ComfyUI: what it draws, what it says, and that it can be stopped."""

import re
from pathlib import Path

import pytest
import torch
from graphs import Graph, output
from safetensors.torch import load_file
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
    write_dataset(folder, sizes=Sizes(4, 4, 1, 1, 1, PAIRS, 1))
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


def test_it_draws_as_stock_nodes_do_each_record_for_its_user(comfy_python, sd15_checkpoint, data, tmp_path):
    add_models(tmp_path, sd15_checkpoint)
    comfy_python(SCRIPT, sd15_checkpoint, tmp_path / "models" / "psa_adapters" / "psa.safetensors", data, tmp_path)
    drawn = load_file(tmp_path / "drawn.safetensors")
    for name in ("base", "PSA"):
        assert (drawn[f"{name} ours"] - drawn[f"{name} stock"]).abs().max() < 0.01, name
    assert (drawn["base ours"] - drawn["PSA ours"]).abs().mean() > 0.005
    assert not torch.equal(drawn["base ours"][0], drawn["base ours"][1])


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
    (row,) = re.findall(r"\| PSA over base \|(.*)\|", table)
    assert [cell.strip() for cell in row.split("|")][1:4] == ["0", "5", "0"]


def test_on_psa_mini_the_shipped_adapter_wins_over_base_and_rival(server, tmp_path):
    write_dataset(tmp_path / "data", sizes=Sizes(1, 48, 1, 1, 1, 96, 1))
    graph = Graph()
    mini = graph.add("PSALoadMini")
    names = ("model", "clip", "vae", "adapter", "rival_adapter")
    inputs = {name: output(mini, place) for place, name in enumerate(names)}
    inputs["dataset"] = graph.add("PSALoadDataset", folder=str(tmp_path / "data"), split="test_unseen", skip_bad=False)
    sampling = {"width": 128, "height": 128, "steps": 12, "sampler_name": "dpmpp_2m", "count": 96}
    graph.add("PSAEvaluate", **inputs, **WIDGETS | sampling)
    table = table_of(server, graph)
    first = table.split("Win rates")[0]
    passed = {name: float(rate) for name, rate in re.findall(r"^\| (\w+) \|(?:[^|]*\|){2} ([\d.]+) \[", first, re.M)}
    assert passed["PSA"] >= 0.8 and max(passed["base"], passed["rival"]) <= 0.65, table
    for other in ("base", "rival"):
        (row,) = re.findall(rf"\| PSA over {other} \|(.*)\|", table)
        wins, _, losses = (int(cell) for cell in row.split("|")[1:4])
        assert wins >= 3 * max(1, losses), table


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
            "not this machine's",
        ),
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
