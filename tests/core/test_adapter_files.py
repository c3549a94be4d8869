"""Adapter files: both published formats in, ours out, and every kind of bad file."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from adapters import published_layout, random_adapter, save_bin
from damage import Touch, cuts, flipped, hostile_pickle
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import psa_core.adapter.files
from psa_core import PSAError, load_adapter, save_adapter
from psa_core.adapter.files import adapter_id
from psa_core.tensor_files import save_file as save_tensors

FORMATS = ("psa_adapter.bin", "legacy.bin", "adapter.safetensors")


def write(folder, name, adapter=None):
    """An adapter file of one of `FORMATS`."""
    adapter, path = adapter or random_adapter(), folder / name
    if path.suffix == ".safetensors":
        save_adapter(adapter, path)
        return path
    return save_bin(adapter, path, _use_new_zipfile_serialization=name != "legacy.bin")


def assert_refused(path, *words):
    before = path.read_bytes()
    with pytest.raises(PSAError) as caught:
        load_adapter(path)
    message = str(caught.value)
    assert path.name in message
    assert message.endswith(".")
    assert all(word in message for word in words), message
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tokens", [1, 2])
def test_every_format_gives_the_same_adapter(tmp_path, name, tokens):
    original = random_adapter(num_tokens=tokens)
    loaded = load_adapter(str(write(tmp_path, name, original)))
    assert loaded.layer_widths == (8, 16, 8)
    assert (loaded.cross_attention_dim, loaded.embedding_dim, loaded.num_tokens) == (12, 10, tokens)
    for key, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    embedding = torch.randn(2, 10)
    assert torch.equal(loaded.user_tokens(embedding), original.user_tokens(embedding))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_precision_round_trips(tmp_path, dtype):
    original, path = random_adapter(), tmp_path / "adapter.safetensors"
    save_adapter(original, path, dtype)
    loaded = load_adapter(path)
    for key, value in loaded.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, original.state_dict()[key].to(dtype))
    save_adapter(loaded, tmp_path / "again.safetensors", dtype)
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[key], value) and again[key].dtype == dtype for key, value in load_file(path).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_published_files_of_other_precisions_load(tmp_path, dtype):
    path = save_bin(random_adapter().to(dtype), tmp_path / "psa_adapter.bin")
    assert load_adapter(path).user_tokens(torch.ones(1, 10)).dtype == torch.float32


def test_metadata_says_what_the_adapter_is(tmp_path):
    summary = {"steps": 5000, "lr": 5e-6, "data": "Sage"}
    adapter = random_adapter(cross_attention_dim=768, num_tokens=2, encoder_id="structured-v1", training=summary)
    save_adapter(adapter, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["family"] == "SD1.5"
    assert json.loads(metadata["layer_widths"]) == [8, 16, 8]
    assert (metadata["num_tokens"], metadata["encoder_id"]) == ("2", "structured-v1")
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert (loaded.encoder_id, loaded.training_summary, loaded.family) == ("structured-v1", summary, "SD1.5")


def test_a_published_safetensors_file_has_no_metadata(tmp_path):
    save_file(random_adapter().state_dict(), tmp_path / "published.safetensors")
    loaded = load_adapter(tmp_path / "published.safetensors")
    assert (loaded.encoder_id, loaded.training_summary, loaded.num_tokens) == (None, {}, 1)


def test_layers_are_numbered_not_sorted_as_words(tmp_path):
    """Twelve layers: as words, '10' comes before '2'."""
    widths = tuple(range(4, 16))
    for name in FORMATS:
        assert load_adapter(write(tmp_path, name, random_adapter(widths))).layer_widths == widths


def test_a_loaded_adapter_can_be_trained_further(tmp_path):
    for name in FORMATS:
        adapter = load_adapter(write(tmp_path, name))
        assert all(parameter.requires_grad for parameter in adapter.parameters())
        assert not any(parameter.is_meta for parameter in adapter.parameters())
        adapter.key_values(adapter.user_tokens(torch.ones(1, 10)))[0].value.sum().backward()


def test_changing_a_loaded_adapter_leaves_its_file_alone(tmp_path):
    path = write(tmp_path, "adapter.safetensors")
    before = path.read_bytes()
    adapter = load_adapter(path)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1)
    save_adapter(adapter, path)  # over the very file it may be mapped from
    assert path.read_bytes() != before
    assert torch.equal(load_adapter(path).user_proj.proj.weight, adapter.user_proj.proj.weight)


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused_at_every_length(tmp_path, name):
    content = write(tmp_path, name).read_bytes()
    path = tmp_path / f"cut-{name}"
    for size in cuts(len(content), count=40):
        path.write_bytes(content[:size])
        assert_refused(path)


@pytest.mark.filterwarnings("ignore")  # torch has its say on some files before it refuses them
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("within", [None, 600], ids=["anywhere", "in the header"])
def test_random_damage_gives_an_adapter_or_a_sentence(tmp_path, name, within):
    content = write(tmp_path, name, random_adapter((4, 4), 6, 5)).read_bytes()
    path = tmp_path / f"damaged-{name}"
    refused = 0
    for damaged in flipped(content, 500, seed=7, within=within):
        path.write_bytes(damaged)
        try:
            adapter = load_adapter(path)
            adapter.key_values(adapter.user_tokens(torch.ones(1, adapter.embedding_dim)))
        except PSAError as error:
            refused += 1
            assert str(error).endswith(".")
    assert refused > 100
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors", "a.pt"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    assert_refused(tmp_path / name, "empty")


@pytest.mark.parametrize("name", ["absent.bin", "a\0b.safetensors", ".", "x" * 5000], ids=lambda name: name[:10])
def test_a_path_without_a_file_is_refused(tmp_path, name):
    with pytest.raises(PSAError):
        load_adapter(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors", "a.ckpt"])
@pytest.mark.parametrize(
    "content",
    [b"x", b"\0" * 64, b"<!DOCTYPE html>\n<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name)


# What is done to the flat tensors of a good file, and a word that the message must hold.
DAMAGE = {
    "no value of a layer": (lambda t: t.pop("psa_adapter.1.to_v_user.0.weight"), "psa_adapter.1.to_v_user"),
    "no layer in the middle": (
        lambda t: [t.pop(f"psa_adapter.1.to_{kind}_user.0.weight") for kind in "kv"],
        "psa_adapter.1",
    ),
    "no layers": (lambda t: [t.pop(key) for key in list(t) if key.startswith("psa_adapter")], ""),
    "no projection": (lambda t: t.pop("user_proj.proj.weight"), "user_proj.proj.weight"),
    "no bias": (lambda t: t.pop("user_proj.proj.bias"), "user_proj.proj.bias"),
    "an unknown entry": (lambda t: t.update({"user_proj.more": torch.ones(1)}), "user_proj.more"),
    "a zero-padded layer": (
        lambda t: t.update({"psa_adapter.01.to_k_user.0.weight": t.pop("psa_adapter.1.to_k_user.0.weight")}),
        "",
    ),
    "several pairs": (
        lambda t: t.update({"psa_adapter.0.to_k_user.1.weight": torch.ones(8, 12)}),
        "several projection pairs",
    ),
    "several pairs throughout": (
        lambda t: t.update({key.replace("user.0", "user.1"): value.clone() for key, value in t.items()}),
        "several projection pairs",
    ),
    "NaN": (lambda t: t["psa_adapter.2.to_v_user.0.weight"].view(-1)[5:6].fill_(torch.nan), "psa_adapter.2.to_v_user"),
    "infinity": (lambda t: t["user_proj.norm.bias"][-1:].fill_(-torch.inf), "user_proj.norm.bias"),
    "integers": (lambda t: t.update({"user_proj.norm.weight": torch.ones(12, dtype=torch.int64)}), "norm.weight"),
    "booleans": (lambda t: t.update({"user_proj.norm.weight": torch.ones(12, dtype=torch.bool)}), "norm.weight"),
    "complex numbers": (lambda t: t.update({"user_proj.proj.bias": torch.ones(12) + 0j}), "proj.bias"),
    "8-bit floats": (
        lambda t: t.update({"user_proj.proj.bias": torch.ones(12).to(torch.float8_e4m3fn)}),
        "user_proj.proj.bias",
    ),
    "a key of another width": (
        lambda t: t.update({"psa_adapter.0.to_k_user.0.weight": torch.ones(9, 12)}),
        "psa_adapter.0.to_k_user",
    ),
    "a value of another context": (
        lambda t: t.update({"psa_adapter.0.to_v_user.0.weight": torch.ones(8, 13)}),
        "psa_adapter.0.to_v_user",
    ),
    "a flat value": (lambda t: t.update({"psa_adapter.0.to_v_user.0.weight": torch.ones(96)}), ""),
    "a flat projection": (lambda t: t.update({"user_proj.proj.weight": torch.ones(120)}), ""),
    "a scalar norm": (lambda t: t.update({"user_proj.norm.weight": torch.tensor(1.0)}), ""),
    "an empty projection": (lambda t: t.update({"user_proj.proj.weight": torch.ones(12, 0)}), ""),
    "an empty norm": (lambda t: t.update({"user_proj.norm.weight": torch.ones(0)}), ""),
    "an empty layer": (
        lambda t: t.update({f"psa_adapter.0.to_{kind}_user.0.weight": torch.ones(0, 12) for kind in "kv"}),
        "",
    ),
    "a projection that is no multiple": (
        lambda t: t.update({"user_proj.proj.weight": torch.ones(13, 10)}),
        "user_proj",
    ),
    "a bias of another size": (lambda t: t.update({"user_proj.proj.bias": torch.ones(24)}), "user_proj.proj.bias"),
}


@pytest.mark.parametrize("name", ["psa_adapter.bin", "adapter.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_wrong_contents_are_refused(tmp_path, name, damage):
    change, word = DAMAGE[damage]
    tensors, path = {key: value.clone() for key, value in random_adapter().state_dict().items()}, tmp_path / name
    change(tensors)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        parts = {"psa_adapter": {}, "user_proj": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        torch.save(parts, path)
    assert_refused(path, word)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        torch.ones(3),
        None,
        {"psa_adapter": {}},
        {"psa_adapter": {}, "user_proj": {}},
        {"psa_adapter": [], "user_proj": []},
        {"state_dict": random_adapter().state_dict()},
        dict(random_adapter().state_dict()),
        {**published_layout(random_adapter()), "psa_adapter": {"0.to_k_user.0.weight": "text"}},
        {**published_layout(random_adapter()), "user_proj": {0: torch.ones(1)}},
    ],
    ids=range(11),
)
def test_torch_files_of_other_things_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.bin")
    assert_refused(tmp_path / "other.bin")


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_are_refused(tmp_path):
    for number, odd in enumerate(
        [
            torch.ones(12).to_sparse(),
            torch.ones(12, device="meta"),
            torch.quantize_per_tensor(torch.ones(12), 0.1, 0, torch.qint8),
        ]
    ):
        parts = published_layout(random_adapter())
        parts["user_proj"]["norm.weight"] = odd
        path = tmp_path / f"{number}.bin"
        torch.save(parts, path)
        assert_refused(path)


@pytest.mark.parametrize("training", ["{", "[" * 100_000, "9" * 10_000, "[]", "null", "1", '"a"'], ids=lambda t: t[:4])
def test_a_training_summary_that_is_no_json_object_is_refused(tmp_path, training):
    save_file(random_adapter().state_dict(), tmp_path / "a.safetensors", metadata={"training": training})
    assert_refused(tmp_path / "a.safetensors", "training summary")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("family", "SDXL"),
        ("cross_attention_dim", "13"),
        ("layer_widths", "[8, 16]"),
        ("num_tokens", "2"),
        ("embedding_dim", "{}"),
        ("num_tokens", None),
    ],
)
def test_metadata_that_contradicts_the_weights_is_refused(tmp_path, key, value):
    path = tmp_path / "a.safetensors"
    save_adapter(random_adapter(), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    changed = {k: v for k, v in {**metadata, key: value}.items() if v is not None}
    save_file(load_file(path), path, metadata=changed)
    assert_refused(path, key)
    save_file(load_file(path), path, metadata={**changed, "format": "another tool's"})
    assert load_adapter(path).layer_widths == (8, 16, 8)


def test_the_same_adapter_gives_the_same_bytes_in_every_process(tmp_path):
    summary = {f"setting {number}": number for number in range(20)}
    adapter = random_adapter(encoder_id="structured-v1", training=summary)
    for number in range(2):
        save_adapter(adapter, tmp_path / f"{number}.safetensors")
    script = "import sys; from psa_core import *; save_adapter(load_adapter(sys.argv[1]), sys.argv[2])"
    for number in range(2, 5):
        command = [sys.executable, "-c", script, tmp_path / "0.safetensors", tmp_path / f"{number}.safetensors"]
        subprocess.run(command, check=True, timeout=120)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_an_adapter_is_known_by_what_it_draws(tmp_path):
    half = random_adapter().to(torch.float16)
    published = load_adapter(save_bin(half, tmp_path / "psa_adapter.bin"))
    paths = [tmp_path / f"{name}.safetensors" for name in ("half", "float", "twice")]
    save_adapter(published, paths[0], torch.float16)
    published.encoder_id, published.training_summary = "language-model", {"steps": 1}
    save_adapter(published, paths[1])
    save_adapter(load_adapter(paths[1]), paths[2])
    assert {adapter_id(load_adapter(path)) for path in paths} == {adapter_id(published)}
    with torch.no_grad():
        published.psa_adapter[1].to_v_user[0].weight[0, 0] += 1e-3
    other = random_adapter((16, 8, 8)).to(torch.float16)
    assert len({adapter_id(adapter) for adapter in (half, published, other)}) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int16, torch.bool])
def test_tensors_written_by_us_are_read_by_others(tmp_path, dtype):
    tensors = {
        "a": torch.arange(6).reshape(2, 3).T.to(dtype),
        "ö": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "flat": torch.ones(3),
    }
    save_tensors(tensors, tmp_path / "t.safetensors", {"word": 'a "quoted" wörd\n'})
    read = load_file(tmp_path / "t.safetensors")
    assert set(read) == set(tensors)
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in tensors.items())
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        assert file.metadata() == {"word": 'a "quoted" wörd\n'}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_hostile_pickles_do_not_run(tmp_path):
    marker = tmp_path / "it-ran"
    torch.save({"payload": Touch(marker)}, tmp_path / "works.bin")
    torch.load(tmp_path / "works.bin", weights_only=False)
    assert marker.exists()  # the payload does work where pickles are run
    marker.rmdir()
    parts = published_layout(random_adapter())
    torch.save({**parts, "payload": Touch(marker)}, tmp_path / "zip.bin")
    torch.save({**parts, "payload": Touch(marker)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({**parts, "psa_adapter": Touch(marker)}, tmp_path / "inside.pt")
    for name in ("raw.bin", "raw.safetensors", "raw.npy", "raw", "raw.ckpt"):
        (tmp_path / name).write_bytes(hostile_pickle(marker))
    for name in ("zip.safetensors", "zip.npy"):
        (tmp_path / name).write_bytes((tmp_path / "zip.bin").read_bytes())
    with open(tmp_path / "numpy.bin", "wb") as file:
        np.save(file, np.array([Touch(marker)], dtype=object), allow_pickle=True)
    (tmp_path / "works.bin").unlink()
    hostile = list(tmp_path.iterdir())
    assert len(hostile) == 11
    for path in hostile:
        assert_refused(path)
        assert not marker.exists(), path.name


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write(tmp_path, "adapter.safetensors")
    before = path.read_bytes()

    def dies_halfway(_tensors, temporary, metadata):
        temporary.write_bytes(before[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(psa_core.adapter.files, "save_file", dies_halfway)
    with pytest.raises(PSAError, match="No space left"):
        save_adapter(random_adapter(seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("adapter.bin", 1.0, torch.float32),
        ("adapter", 1.0, torch.float32),
        ("adapter.safetensors", 1.0, torch.int8),
        ("adapter.safetensors", 1.0, torch.float64),
        ("adapter.safetensors", 1.0, "fp16"),
        ("adapter.safetensors", torch.nan, torch.float32),
        ("adapter.safetensors", 1e6, torch.float16),  # beyond half precision
        ("folder.safetensors", 1.0, torch.float32),
        ("a\0b.safetensors", 1.0, torch.float32),
    ],
)
def test_what_cannot_be_saved_changes_nothing(tmp_path, name, value, dtype):
    (tmp_path / "folder.safetensors").mkdir()
    adapter = random_adapter()
    with torch.no_grad():
        adapter.psa_adapter[1].to_v_user[0].weight[0, 0] = value
    with pytest.raises(PSAError):
        save_adapter(adapter, f"{tmp_path}/{name}", dtype)
    assert os.listdir(tmp_path) == ["folder.safetensors"]


def test_saving_makes_the_folder_and_no_other_file(tmp_path):
    save_adapter(random_adapter(), tmp_path / "new" / "a.safetensors")
    assert os.listdir(tmp_path / "new") == ["a.safetensors"]
    assert re.match(r"[\x00-\xff]{8}\{", (tmp_path / "new" / "a.safetensors").read_bytes()[:9].decode("latin1"))
    assert set(load_file(tmp_path / "new" / "a.safetensors")) == set(random_adapter().state_dict())


def test_no_header_takes_more_memory_than_a_model_needs(tmp_path):
    """Each entry and each layer is a hundred bytes in the file, and thousands in memory."""
    long = tmp_path / "long.safetensors"
    with open(long, "wb") as file:
        file.write((20 << 20).to_bytes(8, "little") + b"{}")
        file.truncate(8 + (20 << 20))
    assert_refused(long, "truncated or damaged")
    many = tmp_path / "many.safetensors"
    names = [f"psa_adapter.{layer}.to_{kind}_user.0.weight" for layer in range(1001) for kind in "kv"]
    names += [f"user_proj.{name}" for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")]
    save_tensors({name: torch.ones(1, 1) for name in names}, many)
    assert_refused(many, "1001 layers")
