"""The DPO loss: its gradient, its symmetries and what it refuses."""

import math

import pytest
import torch

from psa_core import PSAError, dpo_loss


@pytest.fixture
def preds():
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_gradient_is_that_of_finite_differences(preds, beta):
    model, ref, target = preds
    assert torch.autograd.gradcheck(
        lambda prediction: dpo_loss(prediction, ref, target, beta).loss, model.clone().requires_grad_()
    )


def test_formula(preds):
    """Written out pair by pair, without torch's functions."""
    model, ref, target = preds

    def error(prediction, row):
        return (target[row] - prediction[row]).square().mean().item()

    differences = [(error(model, i) - error(ref, i)) - (error(model, i + 3) - error(ref, i + 3)) for i in range(3)]
    out = dpo_loss(model, ref, target, beta=3.0)
    losses = [-math.log(1 / (1 + math.exp(1.5 * d))) for d in differences]
    assert out.loss.item() == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert out.accuracy.item() == pytest.approx(sum(d < 0 for d in differences) / 3)


def test_a_policy_equal_to_the_reference_has_loss_log_2(preds):
    _, ref, target = preds
    out = dpo_loss(ref, ref, target)
    assert out.loss.item() == pytest.approx(math.log(2))
    assert (out.accuracy.item(), out.dpo_preference.item()) == (0, 0)


def test_swapping_chosen_and_rejected_turns_the_preference(preds):
    swapped = [torch.cat(prediction.chunk(2)[::-1]) for prediction in preds]
    one, other = dpo_loss(*preds, beta=1.0), dpo_loss(*swapped, beta=1.0)
    assert one.dpo_preference.item() == pytest.approx(-other.dpo_preference.item())
    assert one.accuracy.item() + other.accuracy.item() == pytest.approx(1)


def test_a_step_down_the_gradient_prefers_the_chosen(preds):
    _, ref, target = preds
    policy = ref.clone().requires_grad_()
    dpo_loss(policy, ref, target, beta=1.0).loss.backward()
    out = dpo_loss(policy.detach() - 0.1 * policy.grad, ref, target, beta=1.0)
    assert out.accuracy.item() == 1
    assert out.dpo_preference.item() > 0


def test_no_gradient_reaches_the_reference_and_metrics_hold_no_graph(preds):
    model, ref, target = (prediction.requires_grad_() for prediction in preds)
    out = dpo_loss(model, ref, target)
    out.loss.backward()
    assert ref.grad is None
    metrics = {name: value for name, value in vars(out).items() if name != "loss"}
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_meant_in_float32(preds, dtype):
    halves = [prediction.to(dtype) for prediction in preds]
    out = dpo_loss(*halves)
    assert out.loss.dtype == torch.float32
    assert torch.equal(out.loss, dpo_loss(*(half.float() for half in halves)).loss)


def test_huge_preferences_stay_finite(preds):
    model, ref, target = preds
    far = torch.cat([model[:3] * 100, model[3:]])
    assert torch.isfinite(dpo_loss(far, ref, target, beta=1e6).loss)
    assert dpo_loss(far.roll(3, 0), ref, target, beta=1e6).loss.item() == 0


X = torch.ones(4, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        (X, X, X[:, :1]),
        (X[:2], X, X),
        (X[:3], X[:3], X[:3]),
        (X[:0], X[:0], X[:0]),
        (X[:, :0], X[:, :0], X[:, :0]),
        (X[:, 0], X[:, 0], X[:, 0]),
        (X.int(), X.int(), X.int()),
        (X, X, None),
        (X, X, [[1.0]]),
        (X, X, X, 0.0),
        (X, X, X, -1.0),
        (X, X, X, math.nan),
        (X, X, X, math.inf),
        (X, X, X, "5000"),
        (X, X, X, None),
        (X, X, X, True),
    ],
    ids=range(16),
)
def test_unusable_inputs_are_refused(arguments):
    with pytest.raises(PSAError):
        dpo_loss(*arguments)
