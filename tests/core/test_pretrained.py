"""Folders of transformers: what is read, and what is refused."""

import json
import shutil

import pytest
from damage import hostile_pickle
from safetensors.torch import load_file, save_file
from tiny_llm import make_tiny_llm

from psa_core import PSAError
from psa_core.pretrained import load_model, load_part, weight_files

KIND, WHAT = "AutoModelForCausalLM", "language model"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    pytest.importorskip("transformers")
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def test_a_whole_folder(whole):
    import torch

    model = load_model(whole, KIND, WHAT, dtype="float32")
    assert not model.training and {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert load_model(whole, KIND, WHAT, dtype="bfloat16").dtype == torch.bfloat16
    assert load_part(whole, "AutoConfig", WHAT).hidden_size == 64
    assert [path.name for path in weight_files(whole, WHAT)] == ["model.safetensors"]


def test_the_files_dtype_is_kept(copy):
    import torch

    weights = {name: value.bfloat16() for name, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (copy / "config.json").write_text(json.dumps(config))
    assert load_model(copy, KIND, WHAT).dtype == torch.bfloat16


def test_nothing_is_said_and_what_was_said_before_comes_back(whole, capfd):
    import transformers

    before = transformers.utils.logging.get_verbosity()
    load_model(whole, KIND, WHAT)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == before


def test_what_is_missing_or_damaged_is_one_sentence(copy, tmp_path):
    with pytest.raises(PSAError, match="no language model at"):
        load_model(tmp_path / "nowhere", KIND, WHAT)
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(PSAError, match=r"holds no language model that is whole: model\.safetensors"):
        load_model(copy, KIND, WHAT)
    weights.write_bytes(content)
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(
        PSAError, match=r"not all of a language model's: they lack 1 tensors, such as model\.norm\.weight"
    ):
        load_model(copy, KIND, WHAT)
    (copy / "config.json").write_text("{")
    with pytest.raises(PSAError, match="holds no language model in transformers' layout that can be read"):
        load_part(copy, "AutoConfig", WHAT)
    (copy / "config.json").unlink()
    with pytest.raises(PSAError, match=r"no config\.json"):
        load_part(copy, "AutoConfig", WHAT)


def test_pickles_and_code_of_the_folder_are_not_touched(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(hostile_pickle(tmp_path / "ran"))
    with pytest.raises(PSAError, match=r"\.bin"):
        load_model(copy, KIND, WHAT)
    assert not (tmp_path / "ran").exists()
