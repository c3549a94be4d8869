"""The attention term against the formula, written out head by head."""

import pytest
import torch
from adapters import random_adapter

from psa_core import PSAError
from psa_core.adapter.attention import UserKeyValue, user_attention

ROWS, LENGTH, HEADS, HEAD_DIM = 3, 5, 2, 4
WIDTH = HEADS * HEAD_DIM


def formula(query, key, value):
    """softmax(Q K^T / sqrt(d)) V of every row and head: (B, L, width)."""
    out = torch.empty_like(query)
    for row in range(query.shape[0]):
        for head in range(HEADS):
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            scores = query[row, :, part] @ key[row, :, part].T / HEAD_DIM**0.5
            out[row, :, part] = torch.softmax(scores, dim=-1) @ value[row, :, part]
    return out


@pytest.fixture
def inputs():
    torch.manual_seed(1)

    def make(tokens):
        return torch.randn(ROWS, LENGTH, WIDTH), *(torch.randn(ROWS, tokens, WIDTH) for _ in "kv")

    return make


def test_one_token_is_its_value_exactly(inputs):
    query, key, value = inputs(1)
    closed = user_attention(None, UserKeyValue(None, value), HEADS)
    assert torch.equal(closed.expand(-1, LENGTH, -1), formula(query, key, value))
    assert torch.equal(closed.expand(-1, LENGTH, -1), formula(query, 100 * key, value))  # the key has no effect


@pytest.mark.parametrize("tokens", [2, 5])
def test_several_tokens_are_one_softmax(inputs, tokens):
    query, key, value = inputs(tokens)
    out = user_attention(query, UserKeyValue(key, value), HEADS)
    assert torch.allclose(out, formula(query, key, value), atol=1e-6)


def test_one_row_serves_all(inputs):
    query, key, value = inputs(2)
    shared = user_attention(query, UserKeyValue(key[:1], value[:1]), HEADS)
    expected = formula(query, key[:1].expand(ROWS, -1, -1), value[:1].expand(ROWS, -1, -1))
    assert torch.allclose(shared, expected, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2])
def test_strength_scales_the_term(inputs, tokens):
    query, key, value = inputs(tokens)
    user = UserKeyValue(None if tokens == 1 else key, value)
    whole = user_attention(query, user, HEADS)
    for strength in (0.0, 0.6, -1.0):
        assert torch.allclose(user_attention(query, user.scaled(strength), HEADS), strength * whole, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_share_at_each_query_weighs_the_term_there(inputs, tokens):
    query, key, value = inputs(tokens)
    user = UserKeyValue(None if tokens == 1 else key, value)
    whole = user_attention(query, user, HEADS).expand(-1, LENGTH, -1)
    share = torch.rand(ROWS, LENGTH, 1)
    share[0, 0], share[1, 1] = 0, 1
    weighed = user_attention(query, user, HEADS, share)
    assert torch.equal(weighed, whole * share)
    assert not weighed[0, 0].any() and torch.equal(weighed[1, 1], whole[1, 1])
    assert torch.equal(user_attention(query, user, HEADS, 1.0), user_attention(query, user, HEADS))


@pytest.mark.parametrize("tokens", [1, 2])
def test_rows_can_be_picked_and_moved(inputs, tokens):
    _, key, value = inputs(tokens)
    user = UserKeyValue(None if tokens == 1 else key, value)
    picked = user[torch.tensor([2, 0, 2])].to(torch.device("cpu"), torch.bfloat16)
    assert torch.equal(picked.value, value[[2, 0, 2]].bfloat16())
    assert (picked.key is None) if tokens == 1 else torch.equal(picked.key, key[[2, 0, 2]].bfloat16())


def test_several_tokens_need_the_query(inputs):
    _, key, value = inputs(2)
    with pytest.raises(PSAError):
        user_attention(None, UserKeyValue(key, value), HEADS)


@pytest.mark.parametrize("tokens", [1, 2])
def test_gradients_reach_what_has_an_effect(tokens):
    adapter = random_adapter(num_tokens=tokens)
    layers = adapter.key_values(adapter.user_tokens(torch.randn(2, 10)))
    queries = [torch.randn(2, LENGTH, width) for width in adapter.layer_widths]
    sum(user_attention(q, user, HEADS).square().sum() for q, user in zip(queries, layers, strict=True)).backward()
    for layer in adapter.psa_adapter:
        assert layer.to_v_user[0].weight.grad.abs().max() > 0
        key_gradient = layer.to_k_user[0].weight.grad
        assert key_gradient is None if tokens == 1 else key_gradient.abs().max() > 0
    assert all(parameter.grad.abs().max() > 0 for parameter in adapter.user_proj.parameters())
