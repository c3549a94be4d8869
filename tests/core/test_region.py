"""What masks say at each token of a cross-attention: the means of what it covers, for any size."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psa_core import PSAError
from psa_core.adapter.region import Region, token_grid

SIDES = st.integers(1, 6)


@given(rows=SIDES, columns=SIDES, height=SIDES, width=SIDES, masks=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_a_weight_is_the_mean_of_the_masks_pixels_under_its_token(rows, columns, height, width, masks, seed):
    """For sizes that divide, where 'under' has one meaning."""
    mask = torch.rand(masks, rows * height, columns * width, generator=torch.Generator().manual_seed(seed))
    weights = Region(mask).weights(range(masks), (rows, columns))
    assert weights.shape == (masks, rows * columns, 1)
    for number in range(masks):
        for token in range(rows * columns):
            top, left = token // columns * height, token % columns * width
            under = mask[number, top : top + height, left : left + width]
            assert math.isclose(weights[number, token, 0], under.mean(), abs_tol=1e-6)


@given(sides=st.tuples(*[st.integers(1, 40)] * 4))
def test_ones_stay_ones_and_zeros_zeros_at_any_size(sides):
    for value in (0.0, 1.0):
        region = Region(torch.full(sides[:2], value))
        assert torch.equal(region.weights([0], sides[2:]), torch.full((1, sides[2] * sides[3], 1), value))
        assert (region.is_nowhere, region.is_everywhere) == (value == 0, value == 1)


def test_rows_take_their_own_masks_and_one_serves_all():
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    weights = Region(masks).weights([1, 0, 1], (2, 2))
    assert weights[:, :, 0].mean(1).tolist() == [1, 0, 1]
    assert Region(masks[:1]).weights([0, 0], (2, 2)).shape == (2, 4, 1)


def test_a_part_of_the_picture_sees_its_part_of_the_mask():
    mask = torch.rand(16, 24, generator=torch.Generator().manual_seed(0))  # two pixels for each latent
    region = Region(mask)
    boxes = [(0, 0, 4, 6), (4, 6, 4, 6)]  # latents: 8 x 12
    weights = region.weights([0, 0], (2, 3), boxes, (8, 12))
    whole = region.weights([0], (4, 6))[0].reshape(4, 6)
    assert torch.allclose(weights[0, :, 0], whole[:2, :3].flatten(), atol=1e-6)
    assert torch.allclose(weights[1, :, 0], whole[2:, 3:].flatten(), atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7), (3, 1, 5, 7)])
def test_every_shape_that_a_mask_has_in_comfyui(shape):
    assert len(Region(torch.ones(shape))) == (shape[0] if len(shape) > 2 else 1)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.ones(5), "height and a width"),
        (torch.ones(2, 3, 5, 5), "height and a width"),
        (torch.ones(0, 5, 5), "height and a width"),
        (torch.full((2, 2), float("nan")), "no numbers"),
        ("white", "tensor of real numbers"),
    ],
)
def test_what_is_no_mask_gets_a_sentence(mask, sentence):
    with pytest.raises(PSAError, match=sentence):
        Region(mask)


def test_values_beyond_white_and_black_are_cut():
    assert Region(torch.tensor([[-1.0, 2.0]])).weights([0], (1, 2)).flatten().tolist() == [0, 1]


@pytest.mark.parametrize(("masks", "viewers", "fits"), [(1, 3, True), (3, 3, True), (4, 2, True), (3, 1, True),
                                                        (2, 3, False), (3, 2, False)])  # fmt: skip
def test_masks_go_round_with_the_viewers(masks, viewers, fits):
    region = Region(torch.ones(masks, 2, 2))
    if fits:
        region.check_viewers(viewers)
    else:
        with pytest.raises(PSAError, match=f"{masks} masks for {viewers} viewers"):
            region.check_viewers(viewers)


@given(height=st.integers(1, 130), width=st.integers(1, 130), halvings=st.integers(0, 4))
def test_a_layers_grid_is_found_from_its_number_of_queries(height, width, halvings):
    grid = height, width
    for _ in range(halvings):
        grid = -(-grid[0] // 2), -(-grid[1] // 2)
    assert token_grid((height, width), grid[0] * grid[1]) == grid


def test_positions_that_are_no_grid_get_a_sentence():
    for queries in (5, 65, 0):
        with pytest.raises(PSAError, match=f"{queries} positions"):
            token_grid((8, 8), queries)
