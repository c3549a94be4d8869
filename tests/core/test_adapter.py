"""The adapter: embeddings in, one contribution per layer out."""

import pytest
import torch
from adapters import random_adapter

from psa_core import LEVELS, PSAAdapter, PSAError, StructuredEncoder, UserEmbedding
from psa_core.adapter.model import check_strength


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_shapes(tokens):
    adapter = random_adapter(num_tokens=tokens)
    user = adapter.user_tokens(torch.randn(3, 10))
    assert user.shape == (3, tokens, 12)
    assert adapter.uncond_tokens(5).shape == (5, tokens, 12)
    layers = adapter.key_values(user)
    assert [layer.value.shape for layer in layers] == [(3, tokens, width) for width in (8, 16, 8)]
    keys = [None if layer.key is None else tuple(layer.key.shape) for layer in layers]
    assert keys == ([None] * 3 if tokens == 1 else [(3, tokens, width) for width in (8, 16, 8)])


@pytest.mark.parametrize("tokens", [1, 3])
def test_tokens_are_the_formula(tokens):
    """LayerNorm over each token of Linear(embedding), written out."""
    adapter = random_adapter(num_tokens=tokens, std=1.0)
    embedding = torch.randn(2, 10)
    proj, norm = adapter.user_proj.proj, adapter.user_proj.norm
    for row in range(2):
        for token in range(tokens):
            part = slice(token * 12, (token + 1) * 12)
            x = proj.weight[part] @ embedding[row] + proj.bias[part]
            x = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt()
            assert torch.allclose(adapter.user_tokens(embedding)[row, token], x * norm.weight + norm.bias, atol=1e-5)


def test_unconditional_tokens_are_the_projection_of_zeros():
    adapter = random_adapter()
    assert torch.equal(adapter.uncond_tokens(2), adapter.user_tokens(torch.zeros(2, 10)))
    assert adapter.uncond_tokens(1).abs().max() > 0


def test_a_new_adapter_contributes_nothing():
    adapter = PSAAdapter([8, 16], 12, 35)
    tokens = adapter.user_tokens(StructuredEncoder().encode(list(LEVELS.values())))
    assert all(layer.value.abs().max() == 0 for layer in adapter.key_values(tokens))


def test_both_embedding_shapes_and_the_value_type_are_the_same():
    adapter = random_adapter()
    flat = torch.randn(3, 10)
    expected = adapter.user_tokens(flat)
    assert torch.equal(adapter.user_tokens(flat[:, None]), expected)
    assert torch.equal(adapter.user_tokens(UserEmbedding(flat)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maths_is_float32_whatever_the_dtypes(dtype):
    """A stored half must not make the arithmetic half: the result is that of the same numbers in float32."""
    stored = random_adapter(num_tokens=2).to(dtype)
    same = random_adapter(num_tokens=2)
    same.load_state_dict(stored.state_dict())
    embedding = torch.randn(2, 10).to(dtype)
    tokens, expected = stored.user_tokens(embedding), same.user_tokens(embedding.float())
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens, expected)
    for one, other in zip(stored.key_values(tokens), same.key_values(expected), strict=True):
        assert one.value.dtype == one.key.dtype == torch.float32
        assert torch.equal(one.value, other.value)
        assert torch.equal(one.key, other.key)


@pytest.mark.parametrize(
    "embedding",
    [
        torch.ones(10),
        torch.ones(2, 9),
        torch.ones(2, 3, 10),
        torch.ones(2, 1, 1, 10),
        torch.ones(0, 10),
        torch.ones(10, 2),
        torch.full((1, 10), torch.nan),
        torch.full((1, 10), torch.inf),
        UserEmbedding(torch.ones(1, 3584)),
    ],
    ids=lambda embedding: str(tuple(getattr(embedding, "vectors", embedding).shape)),
)
def test_an_embedding_of_another_size_or_kind_is_refused(embedding):
    with pytest.raises(PSAError) as caught:
        random_adapter().user_tokens(embedding)
    assert str(caught.value).endswith(".")


def test_an_embedding_of_another_encoder_is_refused():
    adapter = random_adapter(encoder_id="structured-v1")
    with pytest.raises(PSAError, match=r"structured-v1.*sentence-v9"):
        adapter.user_tokens(UserEmbedding(torch.ones(1, 10), "sentence-v9"))


@pytest.mark.parametrize(("adapter_id", "embedding_id"), [("a", "a"), ("a", None), (None, "a"), (None, None)])
def test_an_embedding_of_the_same_or_an_unnamed_encoder_is_taken(adapter_id, embedding_id):
    adapter = random_adapter(encoder_id=adapter_id)
    assert adapter.user_tokens(UserEmbedding(torch.ones(1, 10), embedding_id)).shape == (1, 1, 12)


@pytest.mark.parametrize("shape", [(1, 12), (2, 1, 11), (2, 2, 12), (2, 1, 12, 1)], ids=str)
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(PSAError):
        random_adapter().key_values(torch.ones(shape))


@pytest.mark.parametrize("batch", [0, -1])
def test_an_empty_unconditional_batch_is_refused(batch):
    with pytest.raises(PSAError):
        random_adapter().uncond_tokens(batch)


@pytest.mark.parametrize(
    "sizes",
    [
        ((), 12, 10),
        ((8, 0), 12, 10),
        ((8,), 0, 10),
        ((8,), 12, -1),
        ((8,), 12.0, 10),
        ((8.5,), 12, 10),
        ((8,), 12, 10, 0),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(PSAError):
        PSAAdapter(*sizes)


SD15_WIDTHS, SDXL_WIDTHS = [320] * 16, [640] * 70


@pytest.mark.parametrize(
    ("widths", "context", "says"),
    [
        (SDXL_WIDTHS, 2048, "SD1.5.*SDXL"),
        (SD15_WIDTHS[:-1], 768, "other layer widths"),
        ([320] * 15 + [640], 768, "other layer widths"),
        (SD15_WIDTHS, 1024, "1024"),
    ],
)
def test_another_model_is_refused(widths, context, says):
    with torch.device("meta"):
        adapter = PSAAdapter(SD15_WIDTHS, 768, 35)
    assert adapter.family == "SD1.5"
    adapter.check_fits(SD15_WIDTHS, 768)
    with pytest.raises(PSAError, match=says):
        adapter.check_fits(widths, context)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None, [1.0]], ids=repr)
def test_a_strength_that_is_no_finite_number_is_refused(strength):
    with pytest.raises(PSAError):
        check_strength(strength)


@pytest.mark.parametrize("strength", [0, 1, 0.6, -0.5, 2])
def test_any_finite_strength_is_taken(strength):
    assert check_strength(strength) == strength


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_new_adapter_changes_nothing_and_tells_several_tokens_apart(tokens):
    """Its values are zero; with equal keys several tokens would be one average."""
    adapter = PSAAdapter((8, 16), 8, 10, tokens)
    for layer in adapter.key_values(adapter.user_tokens(torch.randn(2, 10))):
        assert not layer.value.any()
        assert layer.key is None if tokens == 1 else layer.key.std(1).min() > 0


def test_a_guided_batch_has_the_unconditional_rows_first():
    adapter = random_adapter(num_tokens=2)
    embedding = torch.randn(3, adapter.embedding_dim, generator=torch.Generator().manual_seed(0))
    tokens = adapter.guidance_tokens(embedding)
    assert torch.equal(tokens[:3], adapter.uncond_tokens(3)) and torch.equal(tokens[3:], adapter.user_tokens(embedding))
