"""The objective against the golden vectors, finite differences and its definitions."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import GOLDEN, alphas_cumprod, denoiser, encode_texts, golden_unet
from torch.testing import assert_close

from psa_core import PSAAdapter, PSAError, dpo_loss, load_adapter
from psa_core.diffusers_unet import psa_applied
from psa_core.training import DiffusersDenoiser, User
from psa_core.training.losses import row_errors
from psa_core.training.objective import NoiseSchedule, Objective, draw_timesteps
from psa_core.training.standardise import Standardisation

GOLDEN_LOSS = load_file(GOLDEN / "dpo_loss.safetensors")
EXPECTED = json.loads((GOLDEN / "dpo_loss.json").read_text())["expected"]


def golden_errors():
    return [row_errors(GOLDEN_LOSS[name], GOLDEN_LOSS["target"]) for name in ("model_pred", "ref_pred")]


def test_plain_objective_is_the_golden_loss_and_dpo_loss():
    loss, metrics = Objective(beta=5000.0)(*golden_errors())
    plain = dpo_loss(GOLDEN_LOSS["model_pred"], GOLDEN_LOSS["ref_pred"], GOLDEN_LOSS["target"])
    assert torch.equal(loss, plain.loss)
    names = {"loss": "loss", "accuracy": "accuracy", "winner_error": "model_losses_w", "loser_error": "model_losses_l"}
    for ours, theirs in names.items():
        assert float(metrics[ours]) == pytest.approx(EXPECTED[theirs], rel=1e-6)
    reference = (metrics["reference_winner_error"] + metrics["reference_loser_error"]) / 2
    assert float(reference) == pytest.approx(EXPECTED["ref_mse"], rel=1e-6)


def test_terms_add_with_their_weights():
    errors, reference = golden_errors()
    anchor = torch.tensor(0.25)
    plain, metrics = Objective(1000.0)(errors, reference)
    loss, _ = Objective(1000.0, winner_weight=10.0, anchor_weight=2.0)(errors, reference, anchor)
    assert_close(loss, plain + 10 * metrics["winner_gap"] + 2 * anchor)
    errors = errors.requires_grad_()
    Objective(1e-9, winner_weight=10.0)(errors, reference)[0].backward()
    assert_close(errors.grad, torch.tensor([10 / 3] * 3 + [0.0] * 3))  # the gradient of the winners' error alone


def policy_loss(adapter, inputs, model):
    noisy, target, timesteps, text, embedding = inputs
    with torch.no_grad():
        reference = model(noisy, timesteps, {"text": text})
    prediction = model(noisy, timesteps, {"text": text}, User(adapter, adapter.user_tokens(embedding)))
    return Objective(50.0, winner_weight=3.0)(row_errors(prediction, target), row_errors(reference, target))[0]


def tiny_case(tokens: int):
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    model = denoiser()
    adapter = PSAAdapter(model.layer_widths, model.cross_attention_dim, 6, tokens)
    with torch.no_grad():
        for parameter in adapter.psa_adapter.parameters():
            parameter.copy_(noise(*parameter.shape) * 0.1)
    text = encode_texts(["a", "b", "c", "d"])["text"]
    timesteps = torch.tensor([10, 500, 10, 500])
    return adapter, (noise(4, 4, 8, 8), noise(4, 4, 8, 8), timesteps, text, noise(4, 6)), model


@pytest.mark.parametrize("tokens", [1, 2])
def test_gradients_agree_with_finite_differences(tokens):
    adapter, inputs, model = tiny_case(tokens)
    policy_loss(adapter, inputs, model).backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapter.named_parameters():
        if parameter.grad is None or "norm.bias" in name:
            continue
        gradient, start = parameter.grad, parameter.detach().clone()
        direction = gradient / gradient.norm() + 0.3 * torch.nn.functional.normalize(
            torch.randn(gradient.shape, generator=generator).flatten(), dim=0
        ).view_as(gradient)
        values, step = [], 2e-2
        with torch.no_grad():
            for sign in (-1, 1):
                parameter.copy_(start + sign * step * direction)
                values.append(policy_loss(adapter, inputs, model).item())
            parameter.copy_(start)
        slope = (values[1] - values[0]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-2, abs=2e-5), name


@pytest.mark.parametrize("tokens", [1, 2])
def test_key_has_a_gradient_for_two_tokens_and_none_for_one(tokens):
    adapter, inputs, model = tiny_case(tokens)
    policy_loss(adapter, inputs, model).backward()
    for layer in adapter.psa_adapter:
        key, value = layer.to_k_user[0].weight.grad, layer.to_v_user[0].weight.grad
        assert value.abs().max() > 0
        assert key.abs().max() > 0 if tokens == 2 else key is None or not key.any()


@pytest.mark.parametrize("tokens", [1, 2])
def test_gradient_checkpointing_changes_nothing(tokens):
    adapter, inputs, model = tiny_case(tokens)
    policy_loss(adapter, inputs, model).backward()
    plain = {
        name: parameter.grad.clone() for name, parameter in adapter.named_parameters() if parameter.grad is not None
    }
    adapter.zero_grad(set_to_none=True)
    model.unet.enable_gradient_checkpointing()
    policy_loss(adapter, inputs, model).backward()
    for name, parameter in adapter.named_parameters():
        if parameter.grad is not None:
            assert_close(parameter.grad, plain[name])
    model.release()
    assert not any(module._forward_pre_hooks for module in model.unet.modules())


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_denoiser_is_the_golden_unet_with_and_without_the_user(kind):
    golden = load_file(GOLDEN / kind / "expected.safetensors")
    adapter = load_adapter(GOLDEN / kind / "psa_adapter.bin")
    model = DiffusersDenoiser(golden_unet(kind), alphas_cumprod())
    conditioning = {"text": golden["text"]}
    if kind == "sdxl":
        conditioning |= {"pooled": golden["text_embeds"], "sizes": golden["time_ids"]}
    with torch.no_grad():
        user = User(adapter, adapter.user_tokens(golden["user_embedding"]))
        eps = model(golden["latents"], golden["timesteps"], conditioning, user)
        assert_close(eps, golden["eps_scale_1.0"], rtol=1e-4, atol=1e-5)
        eps = model(golden["latents"], golden["timesteps"], conditioning)
        assert_close(eps, golden["eps_scale_0.0"], rtol=1e-4, atol=1e-5)


def test_noise_schedule_by_its_definitions():
    alphas = alphas_cumprod()
    x, n, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([0, 700])
    epsilon, velocity = NoiseSchedule(alphas), NoiseSchedule(alphas, "v_prediction")
    signal, spread = (value.view(2, 1, 1, 1).float() for value in (alphas[t].sqrt(), (1 - alphas[t]).sqrt()))
    assert_close(epsilon.noisy(x, n, t), signal * x + spread * n)
    assert epsilon.target(x, n, t) is n
    noisy, v = velocity.noisy(x, n, t), velocity.target(x, n, t)
    assert_close(signal * noisy - spread * v, x, rtol=1e-4, atol=1e-5)  # x and n come back from the velocity
    assert_close(spread * noisy + signal * v, n, rtol=1e-4, atol=1e-5)
    with pytest.raises(PSAError, match="sample"):
        NoiseSchedule(alphas, "sample")


def test_a_schedule_that_ends_in_noise_alone_has_its_right_weights():
    """Zero terminal SNR: the limit of min(SNR, gamma) / SNR is 1, that of min(SNR, gamma) / (SNR + 1) is 0."""
    alphas = alphas_cumprod()
    alphas[-1], alphas[0] = 0.0, 1.0
    for kind, last in (("epsilon", 1.0), ("v_prediction", 0.0)):
        table = NoiseSchedule(alphas, kind).timestep_table("min-snr", 0, 1000, 5.0)
        weights = table.diff(prepend=table.new_zeros(1))
        assert torch.isfinite(table).all() and weights[0] == 0
        snr = alphas[1:-1] / (1 - alphas[1:-1])
        expected = snr.clamp(max=5) / (snr if kind == "epsilon" else snr + 1)
        assert_close(weights[1:], torch.cat([expected, alphas.new_tensor([last])]) / (expected.sum() + last))
    with pytest.raises(PSAError, match="timesteps without noise"):
        NoiseSchedule(alphas).timestep_table("min-snr", 0, 1, 5.0)
    for bad in (float("nan"), -0.1, 1.1):
        alphas[5] = bad
        with pytest.raises(PSAError, match="noise schedule is damaged"):
            NoiseSchedule(alphas)


@pytest.mark.parametrize("sampling", ["uniform", "min-snr"])
def test_timesteps_follow_their_weights_within_the_range(sampling):
    schedule = NoiseSchedule(alphas_cumprod())
    table = schedule.timestep_table(sampling, 100, 900, 5.0)
    when = (torch.arange(400_000).double() + 0.5) / 400_000
    counts = torch.bincount(draw_timesteps(table, when), minlength=1000).double() / 400_000
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weights = torch.ones(1000).double() if sampling == "uniform" else snr.clamp(max=5) / snr
    weights[:100] = weights[900:] = 0
    assert_close(counts, weights / weights.sum(), rtol=0.0, atol=1e-5)
    assert draw_timesteps(table, torch.tensor([0.0, 1 - 1e-12])).tolist() == [100, 899]
    with pytest.raises(PSAError, match="timestep_range"):
        schedule.timestep_table(sampling, 0, 1001, 5.0)


def test_standardisation_folds_into_the_file_exactly():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(40, 7, generator=generator) * torch.tensor([1, 70, 0.01, 1, 1, 1, 0]) + 3
    statistics = Standardisation.fit(embeddings)
    z = statistics.apply(embeddings)
    assert_close(z[:, :6].mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    assert_close(z[:, :6].std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)
    assert torch.equal(z[:, 6], embeddings[:, 6])  # the same for everyone: no scale, and no mean for the file to hold

    adapter = PSAAdapter([8], 16, 7, 2)
    trained, empty = adapter.user_tokens(z), adapter.user_tokens(statistics.apply(torch.zeros(1, 7)))
    statistics.fold(adapter)
    assert_close(adapter.user_tokens(embeddings), trained, atol=1e-3, rtol=1e-3)
    assert_close(adapter.uncond_tokens(1), empty, atol=1e-3, rtol=1e-3)


def test_released_denoiser_leaves_no_trace():
    unet = golden_unet()
    model = DiffusersDenoiser(unet, alphas_cumprod())
    adapter = PSAAdapter(model.layer_widths, model.cross_attention_dim, 6)
    model(
        torch.randn(1, 4, 8, 8),
        torch.tensor([5]),
        {"text": torch.randn(1, 4, 64)},
        User(adapter, adapter.uncond_tokens(1)),
    )
    model.release()
    with psa_applied(unet, adapter, adapter.uncond_tokens(1), 0.0):
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in unet.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in unet.parameters())
