"""Bad input on the real server: one clear sentence, nothing run, nothing changed on disk, the server goes on."""

import json
import re

import numpy as np
import pytest
import torch
from adapters import published_layout, random_adapter, save_bin
from damage import hostile_pickle
from graphs import Graph, apply, call, draw, encode, profile_node, psa, psa_embedding, psa_stored, save, txt2img
from safetensors.torch import load_file, save_file
from small_models import write_lora

from psa_core import LEVELS, load_adapter, save_adapter
from psa_core.errors import PSAError

NAMES = {"parent": "../psa", "absolute": "/etc/passwd", "nul": "psa\0", "drive": "C:\\psa", "folder": "sub/psa"}


@pytest.fixture(scope="module", autouse=True)
def spoiled(server):
    """Broken and hostile files in the server's model folders, for the time of this module."""
    folders = [server.base / "models" / name for name in ("psa_adapters", "psa_embeddings")]
    before = {path for folder in folders for path in folder.glob("*")}
    spoil_adapters(folders[0], server.base / "ran-adapter")
    spoil_embeddings(folders[1], server.base / "ran-embedding")
    yield
    for folder in folders:
        for path in set(folder.iterdir()) - before:
            path.unlink()


def spoil_adapters(folder, marker) -> None:
    good = load_adapter(folder / "psa.safetensors")
    content = (folder / "psa.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(content[: len(content) // 2])
    whole = save_bin(good, folder / "whole.bin").read_bytes()
    (folder / "truncated.bin").write_bytes(whole[: len(whole) // 2])
    for name in ("empty.safetensors", "empty.bin"):
        (folder / name).touch()
    tensors = load_file(folder / "psa.safetensors")
    damaged = {key: value.clone() for key, value in tensors.items()}
    damaged["psa_adapter.3.to_v_user.0.weight"][0, 0] = torch.nan
    save_file(damaged, folder / "nan.safetensors")
    save_file(tensors | {"psa_adapter.3.to_v_user.0.weight": torch.zeros(320, 767)}, folder / "shape.safetensors")
    write_lora(folder / "lora.safetensors")
    parts = published_layout(good)
    parts["psa_adapter"]["0.to_k_user.1.weight"] = parts["psa_adapter"]["0.to_k_user.0.weight"]
    torch.save(parts, folder / "two-pairs.bin")
    (folder / "hostile.bin").write_bytes(hostile_pickle(marker, psa_adapter={}, user_proj={}))
    widths = good.layer_widths
    save_adapter(random_adapter(widths, 2048, good.embedding_dim), folder / "sdxl.safetensors")
    save_adapter(random_adapter(widths[:-1], 768, good.embedding_dim), folder / "fewer-layers.safetensors")
    save_adapter(
        random_adapter(widths, 768, good.embedding_dim, encoder_id="some-language-model"),
        folder / "other-encoder.safetensors",
    )


def spoil_embeddings(folder, marker) -> None:
    folder.mkdir(exist_ok=True)
    vector = np.ones(35, dtype=np.float32)
    np.save(folder / "good.npy", vector)
    content = (folder / "good.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(content[:-20])
    (folder / "empty.npy").touch()
    np.save(folder / "nan.npy", vector * np.nan)
    np.save(folder / "whole-numbers.npy", vector.astype(np.int64))
    np.save(folder / "four-dimensions.npy", vector.reshape(1, 1, 1, 35))
    np.save(folder / "size.npy", np.ones(3584, dtype=np.float32))
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    fields = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    (folder / "hostile.npy").write_bytes(header + fields.ljust(117) + b"\n" + hostile_pickle(marker))
    save_file({"weight": torch.ones(35)}, folder / "something-else.safetensors")


def on_disk(server) -> dict:
    """Every file that a person keeps, with its content's size and time."""
    kept = (path for folder in ("models", "user", "input") for path in (server.base / folder).rglob("*"))
    return {
        str(path.relative_to(server.base)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in kept
        if path.is_file() and not path.name.startswith("comfyui.db")
    }


def check_refused(server, graph: Graph, sentence: str, ending: str = ".") -> str:
    """The graph is refused in so many words, changes no file, and the server draws on; returns the words."""
    before, logged = on_disk(server), len(server.log)
    with pytest.raises(PSAError) as refusal:
        server.run(graph.prompt)
    said = str(refusal.value)
    assert re.search(sentence, said), said
    assert "\n" not in said and "Traceback" not in said and len(said) < 500, said
    assert said.rstrip(")").endswith(ending), said
    assert on_disk(server) == before
    assert "KSampler" in draw(server, txt2img(psa("L1"), seed=logged)).ran
    return said


def drawing_graph(patch) -> Graph:
    graph = txt2img(patch)
    save(graph)
    return graph


@pytest.mark.parametrize(
    "file, sentence",
    [
        ("truncated.safetensors", "truncated or damaged"),
        ("truncated.bin", "truncated, damaged"),
        ("empty.safetensors", "is empty"),
        ("empty.bin", "is empty"),
        ("nan.safetensors", "NaN or infinite"),
        ("shape.safetensors", r"damaged: .*\(320, 767\)"),
        ("lora.safetensors", "not a whole PSA adapter"),
        ("two-pairs.bin", "several projection pairs"),
        ("sdxl.safetensors", "This adapter is for SDXL .*the model is SD1.5"),
        ("fewer-layers.safetensors", "other layer widths or count"),
        ("other-encoder.safetensors", "Encode the profile with 'some-language-model'"),
        ("absent.safetensors", "no such file in models/psa_adapters: 'absent.safetensors'. Adapters are published"),
    ],
)
def test_an_adapter(file, sentence, server):
    check_refused(server, drawing_graph(psa("L5", adapter=file)), sentence)


def test_an_adapter_that_tries_to_run_code(server):
    check_refused(server, drawing_graph(psa("L5", adapter="hostile.bin")), "tries to run code")
    assert not (server.base / "ran-adapter").exists()


@pytest.mark.parametrize(
    "file, sentence",
    [
        ("truncated.npy", "truncated, damaged"),
        ("empty.npy", "is empty"),
        ("nan.npy", "NaN or infinite"),
        ("whole-numbers.npy", "int64"),
        ("four-dimensions.npy", r"\(1, 1, 1, 35\)"),
        ("size.npy", r"embeddings of size 35.*\(1, 3584\)"),
        ("something-else.safetensors", "not a PSA profile embedding"),
        ("absent.npy", "no such file in models/psa_embeddings: 'absent.npy'. Embeddings are published"),
    ],
)
def test_an_embedding(file, sentence, server):
    check_refused(server, drawing_graph(psa_embedding(file)), sentence)


def test_an_embedding_that_tries_to_run_code(server):
    check_refused(server, drawing_graph(psa_embedding("hostile.npy")), "holds objects")
    assert not (server.base / "ran-embedding").exists()


@pytest.mark.parametrize(
    "widgets, sentence",
    [
        ({"age": -1}, "Age must be a whole number from 0 to 100"),
        ({"age": 200}, "Age must be a whole number from 0 to 100"),
        ({"religion": "Pastafarianism"}, "Religion must be one of: Christianity, Islam, Buddhism, None"),
        ({"gender": "a ghost"}, "Gender must be one of"),
        ({"physical_condition": "see the note below"}, "Physical_Condition must be one of"),
        ({"mental_condition": ""}, "Mental_Condition must be one of"),
        ({"preset": "L9"}, "preset must be one of"),
        ({"banned": "spiders"}, "'banned' must be"),
    ],
    ids=str,
)
def test_an_impossible_profile(widgets, sentence, server):
    logged = len(server.log)

    def patch(graph: Graph, model):
        return apply(graph, model, encode(graph, profile_node(graph, **widgets)))

    said = check_refused(server, drawing_graph(patch), sentence)
    (value,) = widgets.values()
    if isinstance(value, str) and value:
        assert value not in said and value not in server.log[logged:]


@pytest.mark.parametrize(
    "profile", [{"Age": -1}, {"Age": 200}, {"Religion": "Pastafarianism"}, {"Banned_Categories": ["Spiders"]}, 7]
)
def test_an_impossible_profile_for_the_store(profile, server):
    before = on_disk(server)
    data = LEVELS["L5"].to_dict() | profile if isinstance(profile, dict) else profile
    status, answer = call(server, "/psa/profiles", {"name": "impossible", "profile": data})
    error = json.loads(answer)["error"]
    assert status == 400 and error.endswith(".") and "\n" not in error
    assert "Pastafarianism" not in error + server.log and "Spiders" not in error + server.log
    assert on_disk(server) == before


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_to_load(name, server):
    for patch in (psa("L5", adapter=f"{name}.safetensors"), psa_embedding(f"{name}.npy"), psa_stored(name)):
        check_refused(server, drawing_graph(patch), "no such file|no stored profile")


@pytest.mark.parametrize("name", [*NAMES.values(), "", "nul", "x" * 300], ids=[*NAMES, "none", "device", "long"])
def test_names_to_save(name, server):
    graph = Graph()
    graph.add("PSASaveProfile", profile=profile_node(graph, preset="L5"), name=name, overwrite=True)
    check_refused(server, graph, "profile name cannot be used")
    graph = Graph()
    adapter = graph.add("PSALoadAdapter", adapter_name="psa.safetensors")
    graph.add("PSASaveAdapter", adapter=adapter, name=name, precision="float32")
    check_refused(server, graph, "adapter name cannot be used")
    before = on_disk(server)
    status, answer = call(server, "/psa/profiles", {"name": name, "profile": LEVELS["L5"].to_dict(), "overwrite": True})
    assert status == 400 and "profile name cannot be used" in json.loads(answer)["error"]
    assert on_disk(server) == before


def test_a_taken_name_is_kept(server):
    for level in ("L0", "L5"):
        graph = Graph()
        graph.add("PSASaveProfile", profile=profile_node(graph, preset=level), name="taken", overwrite=False)
        if level == "L0":
            server.run(graph.prompt)
        else:
            check_refused(server, graph, "'taken' is taken")


def test_a_range_that_ends_before_it_starts(server):
    check_refused(server, drawing_graph(psa("L5", start_percent=0.6, end_percent=0.4)), "start_percent <= end_percent")


def test_a_missing_language_model(server):
    def patch(graph: Graph, model):
        encoder = graph.add(
            "PSALoadEncoder",
            encoder_name="Qwen2.5-7B-Instruct",
            templates="ours",
            banned_by="profile",
            keep_loaded=False,
        )
        return apply(graph, model, encode(graph, profile_node(graph, preset="L5"), encoder=encoder))

    said = check_refused(server, drawing_graph(patch), "no language model at", ending="Qwen2.5-7B-Instruct")
    assert str(server.base / "models" / "LLM" / "Qwen2.5-7B-Instruct") in said


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_language_models(name, server):
    def patch(graph: Graph, model):
        encoder = graph.add(
            "PSALoadEncoder", encoder_name=name, templates="ours", banned_by="profile", keep_loaded=False
        )
        return apply(graph, model, encode(graph, profile_node(graph, preset="L5"), encoder=encoder))

    check_refused(server, drawing_graph(patch), "folder name cannot be used")
