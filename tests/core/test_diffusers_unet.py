"""The adapter on diffusers' UNets: the formula, rows, gradients, and the UNet as it was afterwards."""

import copy

import pytest
import torch
from adapters import random_adapter
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from full_size_unets import FULL_SIZE
from golden import KINDS, load_unet, relative_error, run_unet, vectors

from psa_core import PSAAdapter, PSAError
from psa_core.adapter.region import Region, token_grid
from psa_core.diffusers_unet import cross_attention_layers, psa_applied
from psa_core.training.estimate import LiveBytes

EMBEDDING_DIM = 10
CLOSE = 1e-5  # the same sums in another order


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def unet(kind):
    return load_unet(kind)


def adapter_for(unet, tokens=1, seed=0, embedding_dim=EMBEDDING_DIM):
    layers = cross_attention_layers(unet)
    widths = tuple(layer.to_q.out_features for layer in layers)
    return random_adapter(widths, layers[0].to_k.in_features, embedding_dim, seed, std=0.3, num_tokens=tokens)


def user_tokens(adapter, rows=2, seed=3):
    return adapter.user_tokens(torch.randn(rows, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed)))


class NaiveProcessor:
    """One cross-attention with the user's term, written out from the paper's formula."""

    def __init__(self, to_k, to_v, tokens, strength):
        self.to_k, self.to_v, self.tokens, self.strength = to_k, to_v, tokens, strength

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, **_):
        query = attn.to_q(hidden_states)
        out = self.attend(query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        user = self.attend(query, self.tokens @ self.to_k.T, self.tokens @ self.to_v.T, attn.heads)
        return attn.to_out[0](out + self.strength * user)

    @staticmethod
    def attend(query, key, value, heads):
        parts = [tensor.chunk(heads, dim=-1) for tensor in (query, key, value)]
        return torch.cat(
            [torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1) @ v for q, k, v in zip(*parts, strict=True)],
            -1,
        )


def naive_prediction(unet, adapter, tokens, strength, given):
    reference = copy.deepcopy(unet)
    layers = cross_attention_layers(reference)
    for layer, projection in zip(layers, adapter.psa_adapter, strict=True):
        weights = (projection.to_k_user[0].weight, projection.to_v_user[0].weight)
        layer.set_processor(NaiveProcessor(*weights, tokens, strength))
    return run_unet(reference, given)


def hook_count(unet):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 4])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_any_number_of_tokens_is_the_formula(kind, unet, tokens, strength, processor):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    expected = naive_prediction(unet, adapter, user_tokens(adapter), strength, given)
    unet.set_attn_processor(processor())
    plain = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter), strength):
        applied = run_unet(unet, given)
    assert relative_error(applied, expected) < CLOSE
    assert relative_error(plain, expected) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_strength_0_is_bit_identical(kind, unet, tokens):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    plain = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter), 0):
        assert torch.equal(run_unet(unet, given), plain)


@torch.no_grad()
def test_a_new_adapter_is_bit_identical(kind, unet):
    given, like = vectors(kind), adapter_for(unet)
    new = PSAAdapter(like.layer_widths, like.cross_attention_dim, EMBEDDING_DIM)
    plain = run_unet(unet, given)
    with psa_applied(unet, new, user_tokens(new)):
        assert torch.equal(run_unet(unet, given), plain)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_unet_is_as_before_on_exit_and_after_an_exception(kind, unet, tokens):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    plain, before = run_unet(unet, given), set(unet.state_dict())
    with psa_applied(unet, adapter, user_tokens(adapter)):
        first = run_unet(unet, given)
    assert torch.equal(run_unet(unet, given), plain)
    with pytest.raises(ZeroDivisionError), psa_applied(unet, adapter, user_tokens(adapter)):
        raise ZeroDivisionError
    assert hook_count(unet) == 0
    assert set(unet.state_dict()) == before
    assert torch.equal(run_unet(unet, given), plain)
    with psa_applied(unet, adapter, user_tokens(adapter)):
        assert torch.equal(run_unet(unet, given), first)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_nested_adapters_add_up(kind, unet, tokens):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    other = adapter_for(unet, 1, seed=9)
    with psa_applied(unet, adapter, user_tokens(adapter), 0.25), psa_applied(unet, adapter, user_tokens(adapter), 0.5):
        twice = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter), 0.75):
        once = run_unet(unet, given)
    assert relative_error(twice, once) < CLOSE
    with psa_applied(unet, other, user_tokens(other)), psa_applied(unet, adapter, user_tokens(adapter)):
        one_order = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter)):
        with psa_applied(unet, other, user_tokens(other)):
            other_order = run_unet(unet, given)
        inner_gone = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter)):
        assert torch.equal(run_unet(unet, given), inner_gone)
    assert relative_error(one_order, other_order) < CLOSE
    assert relative_error(one_order, inner_gone) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_row_i_of_a_batch_is_single_run_i(kind, unet, tokens):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    users = user_tokens(adapter)
    with psa_applied(unet, adapter, users):
        batch = run_unet(unet, given)
    for row in range(2):
        with psa_applied(unet, adapter, users[row : row + 1]):
            alone = run_unet(unet, given, slice(row, row + 1))
            shared = run_unet(unet, given)
        assert relative_error(batch[row : row + 1], alone) < CLOSE
        assert relative_error(batch[row], shared[row]) < CLOSE  # one row of tokens serves all
        assert relative_error(batch[1 - row], shared[1 - row]) > 1e-3


def attention_terms(unet, given, adapter, mask) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each cross-attention what is added to it, and where it looks: what it is without PSA, for the same input."""
    layers, seen = cross_attention_layers(unet), []
    hooks = [layer.to_out[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in layers]
    with psa_applied(unet, adapter, user_tokens(adapter), mask=mask):
        after = [
            layer.to_out[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in layers
        ]
        run_unet(unet, given)
    for hook in (*hooks, *after):
        hook.remove()
    return list(zip(seen[::2], seen[1::2], strict=True))


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_a_mask_leaves_positions_outside_as_they_are(kind, unet, tokens, size):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    given = {**given, "latents": torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(5))}
    mask = torch.zeros(64, 64)
    mask[:, 40:] = 1
    inside = 0
    for before, after in attention_terms(unet, given, adapter, mask):
        weights = Region(mask).weights([0], token_grid(size, before.shape[1]))[0, :, 0]
        assert torch.equal(before[:, weights == 0], after[:, weights == 0])
        assert ((before != after).any(-1).any(0) <= (weights > 0)).all()
        inside += int((before != after).any(-1).sum())
    assert inside
    with psa_applied(unet, adapter, user_tokens(adapter), mask=torch.ones(5, 7)):
        everywhere = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter)):
        assert torch.equal(everywhere, run_unet(unet, given))
    plain = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter), mask=torch.zeros(5, 7)):
        assert torch.equal(run_unet(unet, given), plain)
    assert hook_count(unet) == 0


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_each_row_has_its_own_mask(kind, unet, tokens):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    users, masks = user_tokens(adapter), torch.zeros(2, 8, 8)
    masks[0, :4], masks[1, :, 4:] = 1, 1
    with psa_applied(unet, adapter, users, mask=masks):
        batch = run_unet(unet, given)
    for row in range(2):
        with psa_applied(unet, adapter, users[row : row + 1], mask=masks[row]):
            alone = run_unet(unet, given, slice(row, row + 1))
        assert relative_error(batch[row : row + 1], alone) < CLOSE
        assert relative_error(batch[1 - row : 2 - row], alone) > 1e-3
    three = torch.rand(3, 8, 8)
    with pytest.raises(PSAError, match="3 masks for 2 rows"), psa_applied(unet, adapter, users, mask=three):
        run_unet(unet, given)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tokens", [1, 2])
def test_gradients(kind, unet, tokens, checkpointing):
    """Against those of the naive reference; with gradient checkpointing too."""
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    unet.requires_grad_(False)
    naive_prediction(unet, adapter, user_tokens(adapter), 1.0, given).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    adapter.zero_grad(set_to_none=True)
    if checkpointing:
        unet.train()  # checkpointing is for training mode; these UNets have no dropout
        unet.enable_gradient_checkpointing()
    with psa_applied(unet, adapter, user_tokens(adapter)):
        run_unet(unet, given).square().sum().backward()
    for name, parameter in adapter.named_parameters():
        if tokens == 1 and "to_k_user" in name:
            assert parameter.grad is None
            assert expected[name].abs().max() < 1e-4 * expected[name.replace("to_k", "to_v")].abs().max()
        else:
            assert expected[name].abs().max() > 0
            assert relative_error(parameter.grad, expected[name]) < 1e-4
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_several_tokens_keep_nothing_that_gradient_checkpointing_computed_again(kind, unet):
    """Whoever kept a layer's query would keep all that its block computed for it: of every block at once."""
    unet.requires_grad_(False).train().enable_gradient_checkpointing()
    adapter = adapter_for(unet, tokens=16)
    with LiveBytes() as counted, psa_applied(unet, adapter, user_tokens(adapter)):
        run_unet(unet, vectors(kind)).square().sum().backward()
        kept = counted.live - sum(parameter.grad.nbytes for parameter in adapter.parameters())
    applied = sum(each.key.nbytes + each.value.nbytes for each in adapter.key_values(user_tokens(adapter)))
    assert kept < 2 * applied


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_a_bfloat16_unet_keeps_its_dtype(kind, unet, tokens):
    given, adapter = vectors(kind), adapter_for(unet, tokens)
    with psa_applied(unet, adapter, user_tokens(adapter)):
        exact = run_unet(unet, given)
        rough = run_unet(unet.to(torch.bfloat16), given)
    assert rough.dtype == torch.bfloat16
    assert relative_error(rough, exact) < 0.1


@torch.no_grad()
def test_fused_projections(kind, unet):
    given, adapter = vectors(kind), adapter_for(unet)
    with psa_applied(unet, adapter, user_tokens(adapter)):
        expected = run_unet(unet, given)
        unet.fuse_qkv_projections()
        assert relative_error(run_unet(unet, given), expected) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None])
def test_an_unusable_strength_is_refused(kind, unet, strength):
    adapter = adapter_for(unet)
    with pytest.raises(PSAError), psa_applied(unet, adapter, user_tokens(adapter), strength):
        pass
    assert hook_count(unet) == 0


@torch.no_grad()
def test_unusable_tokens_are_refused(kind, unet):
    given, adapter = vectors(kind), adapter_for(unet)
    for tokens in (torch.ones(2, 1, 7), torch.ones(2, 2, adapter.cross_attention_dim), torch.ones(2, 7)):
        with pytest.raises(PSAError), psa_applied(unet, adapter, tokens):
            pass
    with pytest.raises(PSAError, match="3 rows"), psa_applied(unet, adapter, user_tokens(adapter, rows=3)):
        run_unet(unet, given)
    assert hook_count(unet) == 0


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_an_adapter_for_another_unet_is_refused(kind, unet, strength):
    other = adapter_for(load_unet(next(other for other in KINDS if other != kind)))
    fewer = random_adapter(adapter_for(unet).layer_widths[1:], adapter_for(unet).cross_attention_dim, EMBEDDING_DIM)
    for adapter in (other, fewer):
        tokens = user_tokens(adapter)
        with pytest.raises(PSAError, match="cross-attention layers"), psa_applied(unet, adapter, tokens, strength):
            pass
    assert hook_count(unet) == 0


@pytest.mark.parametrize(("name", "count"), [("sd15", 16), ("sdxl", 70)])
def test_full_size_unets_have_their_layers_in_checkpoint_order(name, count):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**FULL_SIZE[name])
    layers = cross_attention_layers(unet)
    names = {id(module): f"{path}.processor" for path, module in unet.named_modules()}
    assert len(layers) == count
    assert [names[id(layer)] for layer in layers] == [path for path in unet.attn_processors if ".attn2." in path]


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_full_size_unets_run_one_forward(name):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**FULL_SIZE[name]).to(torch.bfloat16)
    unet = unet.to_empty(device="cpu").eval()
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 0.02
    for parameter in unet.parameters():  # repeated noise of a prime length: no two rows alike, and quick to make
        for start in range(0, parameter.numel(), len(noise)):
            part = parameter.view(-1)[start : start + len(noise)]
            part.copy_(noise[: len(part)] if parameter.ndim > 1 else torch.ones_like(part))
    given = {
        "latents": torch.randn(1, 4, 16, 16),
        "text": torch.randn(1, 77, FULL_SIZE[name]["cross_attention_dim"]),
        "timesteps": torch.tensor([500]),
    }
    if name == "sdxl":
        given |= {"text_embeds": torch.randn(1, 1280), "time_ids": torch.zeros(1, 6)}
    adapter = adapter_for(unet)
    plain = run_unet(unet, given)
    with psa_applied(unet, adapter, user_tokens(adapter, rows=1)):
        applied = run_unet(unet, given)
    assert torch.isfinite(applied).all()
    assert not torch.equal(applied, plain)
