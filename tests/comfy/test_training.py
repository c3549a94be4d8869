"""Training on ComfyUI's MODEL: inside ComfyUI's Python, and through the server's queue."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from checkpoints import ldm_state_dict, small_unet
from graphs import Graph, apply, call, encode, output, profile_node, save, txt2img
from heard import hear
from safetensors.torch import load, load_file, save_file
from script_checks import Outcomes, check_names
from tiny_training import write_split

from psa_core import PSAError, save_adapter
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.training import DiffusersDenoiser, User, read_metrics

SCRIPTS = Path(__file__).parent / "scripts"
CHECKS = SCRIPTS / "check_training.py"


@pytest.fixture(scope="session")
def outcomes(comfy_checks, tmp_path_factory) -> Outcomes:
    folder = tmp_path_factory.mktemp("training")
    write_split(folder / "data", "train", range(0, 20), 60)
    write_split(folder / "data", "test_unseen", range(100, 110), 20)
    return comfy_checks(CHECKS, folder)


@pytest.mark.parametrize("check", check_names(CHECKS))
def test_training_on_a_model_keeps_its_promises(check, outcomes):
    outcomes.verify(check)


@pytest.mark.parametrize("num_tokens", [1, 2])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_gradients_are_those_through_diffusers_unet(family, num_tokens, comfy_python, tmp_path):
    """The same weights, loaded by ComfyUI's loader under inference mode, in the order down, up, mid."""
    unet = small_unet(family)
    layers = cross_attention_layers(unet)
    context_dim = layers[0].to_k.in_features
    adapter = random_adapter([layer.to_q.out_features for layer in layers], context_dim, 24, num_tokens=num_tokens)
    for number, layer in enumerate(adapter.psa_adapter):  # another scale in each layer, so that none can be mistaken
        layer.to_v_user[0].weight.data.mul_(1 + number / 4)
    torch.manual_seed(num_tokens)
    inputs = {
        "noisy": torch.randn(2, 4, 8, 8),
        "direction": torch.randn(2, 4, 8, 8),
        "timesteps": torch.tensor([1, 700]),
        "text": torch.randn(2, 7, context_dim),
        "sizes": torch.tensor([[64.0, 72.0, 0.0, 4.0, 64.0, 56.0], [80.0, 64.0, 8.0, 0.0, 64.0, 64.0]]),
        "user_embedding": torch.randn(2, 24),
    }
    if family == "sdxl":
        inputs["pooled"] = torch.randn(2, 1280)
    save_file({key: value.contiguous() for key, value in ldm_state_dict(unet).items()}, tmp_path / "unet.safetensors")
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    save_file(inputs, tmp_path / "inputs.safetensors")

    comfy_python(SCRIPTS / "denoiser_gradients.py", tmp_path)

    denoiser = DiffusersDenoiser(unet, torch.linspace(0.999, 0.01, 1000))
    conditioning = {name: inputs[name] for name in ("text", "sizes", "pooled") if name in inputs}
    noisy, timesteps = inputs["noisy"], inputs["timesteps"]
    with torch.no_grad():
        reference = denoiser(noisy, timesteps, conditioning)
    user = User(adapter, adapter.user_tokens(inputs["user_embedding"]))
    prediction = denoiser(noisy, timesteps, conditioning, user)
    (prediction * inputs["direction"]).sum().backward()
    expected = {"reference": reference, "prediction": prediction.detach()}
    expected |= {f"gradient.{name}": p.grad for name, p in adapter.named_parameters() if p.grad is not None}
    actual = load_file(tmp_path / "results.safetensors")
    assert actual.keys() == expected.keys()
    assert any("to_k_user" in name for name in actual) == (num_tokens > 1)
    for name, value in expected.items():
        assert value.norm() > 0, name
        assert (actual[name] - value).norm() / value.norm() < 1e-4, name


STEPS = 10
WIDGETS = {
    "preset": "custom",
    "steps": STEPS,
    "learning_rate": 1e-3,
    "batch_size": 1,
    "resolution": 64,
    "num_tokens": 2,
    "seed": 3,
    "save_every": 4,
    "preview_every": 5,
    "run_name": "cancelled",
}


@pytest.fixture
def sage(server, request) -> str:
    """A dataset in the server's input folder, by its name there; one caption is longer than CLIP's 77 tokens."""
    return write_sage(server, request.node.name, 6)


@pytest.fixture
def two_pairs(server, request) -> str:
    """The same with two pairs: before its first step a run looks at each, which takes longer than the steps."""
    return write_sage(server, request.node.name, 2)


def write_sage(server, name: str, pairs: int) -> str:
    train = write_split(server.base / "input" / name, "train", range(0, 4), pairs) / "metadata.jsonl"
    train.write_text(train.read_text().replace("a quiet street", "a (quiet) street, " * 60))
    write_split(server.base / "input" / name, "val", range(4, 6), 3)
    return name


def training_graph(sage: str, **widgets) -> Graph:
    """Train, and draw for a viewer with what was trained."""

    def patch(graph: Graph, model):
        dataset = graph.add("PSALoadDataset", folder=sage, split="train", skip_bad=False)
        held_out = graph.add("PSALoadDataset", folder=sage, split="val", skip_bad=False)
        inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2), "dataset": dataset}
        trained = graph.add("PSATrain", **inputs, held_out=held_out, **WIDGETS | widgets)
        return apply(graph, model, encode(graph, profile_node(graph, preset="L5")), trained)

    return txt2img(patch)


class Watch:
    """Notes which nodes run and the training steps they do; cancels the run at one of them."""

    def __init__(self, server, cancel_at: int | None = None) -> None:
        self.server, self.cancel_at = server, cancel_at
        self.ran: set[str] = set()
        self.steps: list[int] = []

    def __call__(self, node: str, value: int, steps: int) -> None:
        self.ran.add(node)
        if node == "PSATrain" and steps == STEPS:
            self.steps.append(value)
            if self.cancel_at is not None and value >= self.cancel_at:
                self.server.interrupt()


def latents(server, graph: Graph) -> tuple[torch.Tensor, Watch]:
    """What a graph samples, and what ran for it."""
    save(graph)
    watch = Watch(server)
    outputs = server.queue(graph.prompt, watch).values()
    (file,) = (file for entry in outputs for file in entry.get("latents", ()))
    return load(server.image(**file))["latent_tensor"], watch


def test_cancel_then_the_same_graph_again_ends_as_an_uninterrupted_run(server, two_pairs):
    runs = server.base / "user" / "__psa_training"
    plain, _ = latents(server, txt2img())
    with pytest.raises(PSAError, match="interrupted"):
        server.run(training_graph(two_pairs).prompt, Watch(server, cancel_at=5))
    reached = len(read_metrics(runs / "cancelled"))
    assert 5 <= reached < STEPS and (runs / "cancelled" / "state.safetensors").is_file()

    trained, watch = latents(server, training_graph(two_pairs))
    assert reached < min(watch.steps) and max(watch.steps) == STEPS  # quick ones may be left out
    assert [row["step"] for row in read_metrics(runs / "cancelled")] == list(range(1, STEPS + 1))
    whole, watch = latents(server, training_graph(two_pairs, run_name="whole"))
    assert min(watch.steps) < reached and max(watch.steps) == STEPS
    ours, theirs = (load_file(runs / name / "last.safetensors") for name in ("cancelled", "whole"))
    assert ours.keys() == theirs.keys() and all(value.equal(theirs[key]) for key, value in ours.items())
    assert trained.equal(whole)
    assert not trained.equal(plain)  # as two runs of one adapter do
    assert not (server.base / "output" / "psa_training").exists()
    with pytest.raises(PSAError):
        server.image("state.safetensors", "../user/__psa_training/whole", "output")

    again, watch = latents(server, txt2img())
    assert "KSampler" in watch.ran and again.equal(plain), "training left the model changed"


def test_a_finished_run_gives_its_adapter_at_once(server, two_pairs):
    first, watch = latents(server, training_graph(two_pairs, run_name="finished"))
    assert watch.steps
    again, watch = latents(server, training_graph(two_pairs, run_name="finished"))
    assert "PSATrain" not in watch.ran
    latents(server, txt2img())  # ComfyUI keeps the results of the last graph alone
    loaded, watch = latents(server, training_graph(two_pairs, run_name="finished"))
    assert "PSATrain" in watch.ran and watch.steps == []
    assert first.equal(again) and first.equal(loaded)


def test_what_a_run_warns_of_stays_on_its_node_to_the_end(server, two_pairs):
    """Two people are few enough to warn of."""
    graph = training_graph(two_pairs, run_name="warned", steps=2, preview_every=0)
    save(graph)
    heard = hear(server, graph.prompt)
    said = heard.said["PSATrain"]
    since = next(number for number, text in enumerate(said) if "can find out" in text)
    assert len(said) > since + 2 and all("can find out" in text for text in said[since:])
    events = [json.loads(message) for message in heard.messages]
    (node,) = (number for number, entry in graph.prompt.items() if entry["class_type"] == "PSATrain")
    (done,) = (
        event["data"]["output"] for event in events if event["type"] == "executed" and event["data"]["node"] == node
    )
    (text,) = done["text"]
    assert text.startswith("All 2 steps are done.") and "can find out" in text


def test_a_run_name_that_cannot_be_is_refused_before_anything_is_trained(server, sage):
    """The data set's nodes are outputs of their own: ComfyUI shows these, and leaves out what hangs on the name."""
    graph = save_of(training_graph(sage, run_name="../other"))
    _, answer = call(server, "/prompt", {"prompt": graph})
    ((number, entry),) = json.loads(answer)["node_errors"].items()
    assert graph[number]["class_type"] == "PSATrain"
    assert [error["details"].count("name cannot be used") for error in entry["errors"]] == [1]
    latent = next(number for number, node in graph.items() if node["class_type"] == "SaveLatent")
    assert {number, latent} <= set(entry["dependent_outputs"])


def save_of(graph: Graph) -> dict:
    save(graph)
    return graph.prompt


def test_what_a_run_rests_on_is_looked_at_before_its_result_comes_from_the_cache(server, two_pairs):
    run = server.base / "user" / "__psa_training" / "looked at"

    def queue() -> Watch:
        return latents(server, training_graph(two_pairs, run_name="looked at"))[1]

    assert queue().steps
    watch = queue()
    assert not {"PSATrain", "KSampler"} & watch.ran, "drawn again for an adapter that is the same"
    shutil.rmtree(run)
    watch = queue()
    assert watch.steps and "KSampler" in watch.ran and (run / "last.safetensors").is_file()
    pictures = sorted((server.base / "input" / two_pairs / "train").rglob("*.png"))
    pictures[0].write_bytes(pictures[1].read_bytes())
    with pytest.raises(PSAError, match="another dataset"):
        queue()


def dataset_graph(folder: str, split: str = "train", skip_bad: bool = False) -> Graph:
    graph = Graph()
    graph.add("PSALoadDataset", folder=folder, split=split, skip_bad=skip_bad)
    return graph


def test_a_dataset_shows_counts_and_sample_pairs_and_no_profile(server, sage):
    (shown,) = server.queue(dataset_graph(sage).prompt).values()
    (text,) = shown["text"]
    assert "6 pairs, 4 users" in text and "Violence 6" in text
    assert not any(word in text for word in ("male", "Islam", "Buddhism", "healthy"))
    (picture,) = shown["images"]
    assert picture["type"] == "temp" and len(server.image(**picture)) > 1000


def test_a_changed_dataset_is_read_again(server, sage):
    metadata = server.base / "input" / sage / "train" / "metadata.jsonl"
    ran: list[str] = []

    def queue(**options):
        ran.clear()
        return server.queue(dataset_graph(sage, **options).prompt, lambda name, *_: ran.append(name))

    queue()
    queue()
    assert "PSALoadDataset" not in ran
    lines = metadata.read_text().splitlines(keepends=True)
    metadata.write_text("".join(lines[:4]))
    (shown,) = queue().values()
    assert "4 pairs" in shown["text"][0]
    metadata.write_text("".join(lines[:4]) + "{broken\n")
    with pytest.raises(PSAError, match=r"train/metadata.jsonl, line 5: .*valid JSON"):
        queue()
    (shown,) = queue(skip_bad=True).values()
    assert "1 records left out" in shown["text"][0] and "line 5" in shown["text"][0]


def test_a_folder_without_the_split_is_refused_before_anything_runs(server, sage):
    with pytest.raises(PSAError, match="There is no metadata of the split 'test_seen'"):
        server.queue(dataset_graph(sage, split="test_seen").prompt)


def test_a_run_of_other_settings_is_refused(server, two_pairs):
    server.run(training_graph(two_pairs, steps=1, run_name="taken").prompt)
    with pytest.raises(PSAError, match=r"learning_rate.*Choose another folder"):
        server.run(training_graph(two_pairs, steps=1, run_name="taken", learning_rate=1e-4).prompt)
    with pytest.raises(PSAError, match="run name cannot be used"):
        server.run(training_graph(two_pairs, steps=1, run_name="../out").prompt)
