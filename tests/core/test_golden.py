"""The reference code's own numbers, reproduced."""

import json

import pytest
import torch
from golden import (
    GOLDEN,
    KINDS,
    TOLERANCE,
    adapter_path,
    layer_names,
    load_unet,
    relative_error,
    run_unet,
    vectors,
)
from safetensors.torch import load_file

from psa_core import dpo_loss, load_adapter, save_adapter
from psa_core.diffusers_unet import cross_attention_layers, psa_applied


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def unet(kind):
    return load_unet(kind)


def test_user_and_unconditional_tokens(kind):
    adapter, expected = load_adapter(adapter_path(kind)), vectors(kind)
    with torch.no_grad():
        user = adapter.user_tokens(expected["user_embedding"])
        flat = adapter.user_tokens(expected["user_embedding"][:, 0])
        uncond = adapter.uncond_tokens(len(user))
    assert relative_error(user, expected["user_tokens"]) < TOLERANCE
    assert torch.equal(user, flat)
    assert relative_error(uncond, expected["uncond_tokens"]) < TOLERANCE


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_predictions_at_every_strength(kind, unet, strength):
    adapter, expected = load_adapter(adapter_path(kind)), vectors(kind)
    with torch.no_grad(), psa_applied(unet, adapter, adapter.user_tokens(expected["user_embedding"]), strength):
        eps = run_unet(unet, expected)
    assert relative_error(eps, expected[f"eps_scale_{strength}"]) < TOLERANCE


def test_unconditional_prediction(kind, unet):
    adapter, expected = load_adapter(adapter_path(kind)), vectors(kind)
    with torch.no_grad(), psa_applied(unet, adapter, adapter.uncond_tokens(2)):
        eps = run_unet(unet, expected)
    assert relative_error(eps, expected["eps_uncond_1.0"]) < TOLERANCE
    assert relative_error(eps, expected["eps_scale_1.0"]) > 10 * TOLERANCE  # the vectors do tell them apart


def test_layers_are_in_checkpoint_order(kind, unet):
    names = {id(module): name for name, module in unet.named_modules()}
    found = [f"{names[id(layer)]}.processor" for layer in cross_attention_layers(unet)]
    assert found == layer_names(kind) == [name for name in unet.attn_processors if ".attn2." in name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_converting_a_published_file_keeps_every_value(kind, tmp_path, dtype):
    published = torch.load(adapter_path(kind), weights_only=True)
    save_adapter(load_adapter(adapter_path(kind)), tmp_path / "converted.safetensors", dtype)
    converted = load_file(tmp_path / "converted.safetensors")
    expected = {f"{group}.{key}": value for group, part in published.items() for key, value in part.items()}
    assert set(converted) == set(expected)
    for key, value in load_adapter(tmp_path / "converted.safetensors").state_dict().items():
        assert torch.equal(value.float(), expected[key].float())
        assert torch.equal(converted[key].float(), expected[key].float())


def test_dpo_loss():
    tensors = load_file(GOLDEN / "dpo_loss.safetensors")
    record = json.loads((GOLDEN / "dpo_loss.json").read_text())
    out = dpo_loss(tensors["model_pred"], tensors["ref_pred"], tensors["target"], beta=record["beta_dpo"])
    assert {name: getattr(out, name).item() for name in record["expected"]} == pytest.approx(
        record["expected"], rel=1e-6
    )
