"""Inside ComfyUI: where and when PSA Apply counts, on a small UNet of each kind."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

from in_comfyui import pack_module, run_checks, start_comfyui

start_comfyui()

from contextlib import contextmanager
from types import SimpleNamespace

import comfy.conds
import comfy.samplers
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from random_unets import SMALL, small_model

core, apply, attn2, rows_module, ranges, attention = (
    pack_module(name)
    for name in (
        "psa_core",
        "nodes.comfy.apply",
        "nodes.comfy.attn2",
        "nodes.comfy.rows",
        "nodes.comfy.sampling_range",
        "psa_core.adapter.attention",
    )
)
SIZES = [(8, 8), (6, 10), (9, 13), (7, 5)]  # of latents
SIGMAS = torch.tensor([10.0, 3.0, 1.0, 0.0])


def make_adapter(model, num_tokens):
    sites = attn2.cross_attention_sites(model.model.diffusion_model)
    adapter = core.PSAAdapter([s.width for s in sites], sites[0].context_dim, 35, num_tokens, "structured-v1")
    torch.manual_seed(num_tokens)
    for parameter in adapter.parameters():
        parameter.data.normal_(std=0.5)
    return adapter


def embed(*levels):
    return core.StructuredEncoder().encode([core.LEVELS[level] for level in levels])


def masks(*places, size=(40, 56)):
    """One for each (top, bottom, left, right), as shares of the picture."""
    made = torch.zeros(len(places), *size)
    for mask, (top, bottom, left, right) in zip(made, places, strict=True):
        mask[int(top * size[0]) : int(bottom * size[0]), int(left * size[1]) : int(right * size[1])] = 1
    return made


LEFT, RIGHT, TOP = (0, 1, 0, 0.4), (0, 1, 0.5, 1), (0, 0.5, 0, 1)


def condition(seed, model, **more):
    generator = torch.Generator().manual_seed(seed)
    text, size = torch.randn(1, 5, 48, generator=generator), torch.randn(1, 64, generator=generator)
    has_size = model.model.diffusion_model.num_classes is not None
    return [[text, {"model_conds": {"y": comfy.conds.CONDRegular(size)} if has_size else {}, **more}]]


def sampled(model, size=(8, 8), batch=1, positive=None, one_noise=False):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or condition(1, model), condition(2, model))
    guider.set_cfg(3.0)
    noise = torch.randn(1 if one_noise else batch, 4, *size, generator=torch.Generator().manual_seed(3))
    noise = noise.repeat(batch // len(noise), 1, 1, 1)
    euler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), euler, SIGMAS, disable_pbar=True)


@contextmanager
def watched():
    """What each of our patches gives: its layer's grid, its rows' boxes, with PSA, without, what is added unmasked."""
    seen, own = [], attn2.UserAttention.__call__

    def watch(self, q, k, v, extra_options):
        out = own(self, q, k, v, extra_options)
        heads, call = extra_options["n_heads"], rows_module.current_call(q.shape[0], extra_options)
        plain = optimized_attention(q, k, v, heads)
        term = attention.user_attention(q, self._contribution(q, call, extra_options), heads)
        boxes = call.boxes(tuple(extra_options["original_shape"][-2:]), len(q))
        seen.append((tuple(extra_options["activations_shape"][-2:]), boxes, out, plain, term))
        return out

    attn2.UserAttention.__call__ = watch
    try:
        yield seen
    finally:
        attn2.UserAttention.__call__ = own


def area_mean(mask, grid):
    return F.interpolate(mask[None, None], size=grid, mode="area")[0, 0].flatten()[:, None]


def refused(run, words):
    try:
        run()
    except core.PSAError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


def both():
    for family in SMALL:
        for tokens in (1, 2):
            model = small_model(family)
            yield model, make_adapter(model, tokens)


def check_a_mask_of_ones_is_no_mask_and_one_of_zeros_no_adapter():
    for model, adapter in both():
        plain, whole = sampled(model), sampled(apply.apply_adapter(model, adapter, embed("L5")))
        for size in ((1, 1), (7, 5), (512, 512)):
            ones, zeros = (
                sampled(apply.apply_adapter(model, adapter, embed("L5"), mask=torch.full(size, value)))
                for value in (1.0, 0.0)
            )
            assert ones.equal(whole) and zeros.equal(plain) and not ones.equal(zeros)


def check_a_mask_that_is_1_for_one_viewer_alone():
    """The whole-mask's short way must not differ from the long one."""
    for model, adapter in both():
        two = torch.stack([torch.ones(16, 16), torch.zeros(16, 16)])
        together = sampled(apply.apply_adapter(model, adapter, embed("L5", "L5"), mask=two), batch=2, one_noise=True)
        unmasked = sampled(apply.apply_adapter(model, adapter, embed("L5", "L5")), batch=2, one_noise=True)
        assert together[0].equal(unmasked[0])
        assert together[1].equal(sampled(model, batch=2, one_noise=True)[1])


def check_positions_outside_have_the_attention_without_psa():
    """At any size of latents, for a batch of viewers with a mask each, the prompt's rows and the negative prompt's."""
    both_masks = masks(LEFT, RIGHT)
    for model, adapter in both():
        patched = apply.apply_adapter(model, adapter, embed("L0", "L5"), 1.5, mask=both_masks)
        for size in SIZES:
            with watched() as seen:
                sampled(patched, size, batch=2)
            assert len(seen) == 3 * len(attn2.cross_attention_sites(model.model.diffusion_model))
            for grid, _, out, plain, term in seen:
                for row in range(len(out)):
                    share = area_mean(both_masks[row % 2], grid)
                    outside = share[:, 0] == 0
                    assert outside.any() and (share == 1).any()
                    assert out[row, outside].equal(plain[row, outside])
                    assert not out[row, ~outside].equal(plain[row, ~outside])
                    added = (term if len(term) == 1 else term[row : row + 1]).expand(1, len(share), -1)[0]
                    assert torch.allclose(out[row], plain[row] + share * added, atol=1e-5)


def check_one_mask_serves_all_viewers():
    for model, adapter in both():
        one, each = (
            sampled(apply.apply_adapter(model, adapter, embed("L0", "L5"), mask=mask), (6, 10), batch=4)
            for mask in (masks(LEFT), masks(LEFT, LEFT))
        )
        assert one.equal(each)


def check_each_picture_is_as_it_would_be_alone():
    for model, adapter in both():
        three = masks(LEFT, RIGHT, TOP)
        together = sampled(
            apply.apply_adapter(model, adapter, embed("L0", "L5", "L3"), mask=three), (9, 13), 3, one_noise=True
        )
        for row, level in enumerate(("L0", "L5", "L3")):
            alone = sampled(apply.apply_adapter(model, adapter, embed(level), mask=three[row]), (9, 13))
            assert torch.allclose(together[row], alone[0], atol=1e-3), row
            other = sampled(apply.apply_adapter(model, adapter, embed(level), mask=three[row - 1]), (9, 13))
            assert not torch.allclose(together[row], other[0], atol=1e-2), row


def check_one_viewer_and_a_mask_for_each_picture():
    for model, adapter in both():
        patched = apply.apply_adapter(model, adapter, embed("L5"), mask=masks(LEFT, RIGHT))
        together = sampled(patched, batch=2, one_noise=True)
        alone = sampled(apply.apply_adapter(model, adapter, embed("L5"), mask=masks(RIGHT)))
        assert torch.allclose(together[1], alone[0], atol=1e-3)


def check_a_prompt_for_an_area_sees_its_part_of_the_mask():
    mask = masks(LEFT, size=(64, 96))[0]
    for model, adapter in both():
        patched = apply.apply_adapter(model, adapter, embed("L5"), mask=mask)
        areas = [(8, 6, 0, 0), (4, 8, 4, 2), (4, 8, 0, 4)]  # height, width, top, left; two of one size
        positive = [each for number, area in enumerate(areas) for each in condition(number, model, area=area)]
        with watched() as seen:
            sampled(patched, (8, 12), positive=positive)
        latents = F.interpolate(mask[None, None], size=(8, 12), mode="area")[0, 0]
        found = set()
        for grid, boxes, out, plain, term in seen:
            for row, (top, left, height, width) in enumerate(boxes or [(0, 0, 8, 12)] * len(out)):
                share = area_mean(latents[top : top + height, left : left + width], grid)
                added = (term if len(term) == 1 else term[row : row + 1]).expand(1, len(share), -1)[0]
                assert torch.allclose(out[row], plain[row] + share * added, atol=1e-5)
                found.add((height, width, top, left))
        assert found == {*areas, (8, 12, 0, 0)}, found  # the negative prompt is for the whole picture, too


def check_parts_that_nobody_can_place_are_refused():
    """As tiles are: parts of the latents that no condition states."""

    def in_tiles(model):
        def tiles(run, arguments):
            x, rest = arguments["input"], arguments["c"]
            return torch.cat([run(part, arguments["timestep"], **rest) for part in x.split(4, dim=-1)], dim=-1)

        model = model.clone()
        model.set_model_unet_function_wrapper(tiles)
        return model

    for model, adapter in both():
        masked = apply.apply_adapter(model, adapter, embed("L5"), mask=masks(LEFT))
        refused(lambda masked=masked: sampled(in_tiles(masked)), "where its mask lies")
        sampled(in_tiles(apply.apply_adapter(model, adapter, embed("L5"))))


def check_windows_of_a_batch_take_their_pictures_masks():
    conditions = {name: [{"uuid": name}] for name in ("positive", "negative")}
    run = rows_module.Run(SimpleNamespace(conds=conditions, original_conds=conditions), pictures=8, size=(8, 8))

    def turns(latents, number, kinds=("negative", "positive"), tiles=1, **stated):
        options = {"cond_or_uncond": [0] * len(kinds), "uuids": kinds, "sigmas": torch.ones(latents)}
        options |= {rows_module.RUN: run} | stated
        batch = latents * len(kinds) * tiles
        return list(rows_module.read_call(batch, options).turns(number, batch, options))

    window = SimpleNamespace(index_list=[3, 4, 6], dim=0)
    assert turns(8, 2) == [0, 1] * 8
    assert turns(8, 1) == [0] * 16
    assert turns(3, 4, context_window=window) == [3, 0, 2] * 2
    assert turns(8, 4, kinds=("negative",)) == [0, 1, 2, 3] * 2
    assert turns(8, 4, tiles=2) == [0, 1, 2, 3] * 8
    refused(lambda: turns(3, 2), "which of its viewers' pictures")
    assert turns(3, 1) == [0] * 6


def check_other_positions_than_the_pictures_are_refused():
    model = small_model("sd15")
    patched = apply.apply_adapter(model, make_adapter(model, 1), embed("L5"), mask=masks(LEFT))
    patch = next(iter(attn2.replacements(patched.model_options).values()))
    q = torch.randn(1, 60, patch.table.value.shape[-1])
    options = {"n_heads": 4, "attn_precision": None, "cond_or_uncond": [0], "original_shape": [1, 4, 8, 8]}
    for shape in ({"activations_shape": [1, 32, 8, 8]}, {}):
        refused(lambda shape=shape: patch(q, q, q, options | shape), "other positions than the picture's")


def check_masks_that_do_not_go_round_and_unknown_schedules_are_refused():
    model = small_model("sd15")
    adapter = make_adapter(model, 1)
    refused(
        lambda: apply.apply_adapter(model, adapter, embed("L0", "L1", "L2"), mask=masks(LEFT, RIGHT)), "2 masks for 3"
    )
    refused(lambda: apply.apply_adapter(model, adapter, embed("L0"), schedule="pulsing"), "fade in")


def check_half_precision_masks():
    for family in SMALL:
        half = small_model(family, torch.bfloat16)
        adapter = make_adapter(half, 2)
        masked = sampled(apply.apply_adapter(half, adapter, embed("L5"), mask=masks(LEFT)))
        assert masked.isfinite().all() and not masked.equal(sampled(half))


def check_clones_keep_the_region_and_patches_before_ours_stay():
    for model, adapter in both():
        first = apply.apply_adapter(model, adapter, embed("L0"), mask=masks(LEFT))
        stacked = apply.apply_adapter(first, adapter, embed("L5"), mask=masks(RIGHT)).clone().clone()
        swapped = apply.apply_adapter(
            apply.apply_adapter(model, adapter, embed("L5"), mask=masks(RIGHT)), adapter, embed("L0"), mask=masks(LEFT)
        )
        assert torch.allclose(sampled(stacked), sampled(swapped), atol=1e-3)
        assert not torch.allclose(sampled(stacked), sampled(first), atol=1e-2)


def check_fades_are_straight_lines_over_sampling():
    model = small_model("sd15")
    sampling = model.get_model_object("model_sampling")
    for percent in (0.0, 0.1, 0.37, 0.5, 0.9, 1.0):
        sigma = float(sampling.percent_to_sigma(percent))
        call = SimpleNamespace(sigmas=True, sigma=sigma, run=None)
        for first, last in ((0.0, 1.0), (0.25, 0.75)):
            done = min(max((percent - first) / (last - first), 0), 1)
            inside = first <= percent <= last
            for schedule, expected in (("constant", 1.0), ("fade in", done), ("fade out", 1 - done)):
                made = ranges.SamplingRange.of(sampling, (first, last), schedule)
                if made is None:
                    assert (schedule, first, last) == ("constant", 0.0, 1.0)
                else:
                    assert abs(made.share(call) - inside * expected) < 2e-3, (percent, first, last, schedule)


def check_a_sampler_draws_with_the_strength_of_each_step():
    for model, adapter in both():
        sampling = model.get_model_object("model_sampling")
        steps = [ranges.percent_at(sampling, float(sigma)) for sigma in SIGMAS[:-1]]
        for schedule, shares in (("fade in", steps), ("fade out", [1 - step for step in steps])):
            with watched() as seen:
                faded = sampled(apply.apply_adapter(model, adapter, embed("L5"), schedule=schedule))
            per_step = len(seen) // len(steps)
            for number, (_, _, out, plain, term) in enumerate(seen):
                expected = plain + shares[number // per_step] * term
                assert torch.allclose(out, expected, atol=1e-4), (schedule, number)
            assert not faded.equal(sampled(apply.apply_adapter(model, adapter, embed("L5"))))


def check_a_schedule_that_a_later_node_sets_counts():
    model = small_model("sd15")
    faded = apply.apply_adapter(model, make_adapter(model, 1), embed("L5"), schedule="fade in")
    other = faded.clone()
    later = type(model.get_model_object("model_sampling"))(model.model.model_config)
    later.set_sigmas(torch.linspace(0.01, 30, 1000))
    other.add_object_patch("model_sampling", later)
    shares = []
    own = ranges.SamplingRange.share

    def share(self, call):
        shares.append((call.sigma, own(self, call)))
        return shares[-1][1]

    ranges.SamplingRange.share = share
    try:
        sampled(other)
    finally:
        ranges.SamplingRange.share = own
    for sigma, found in shares:
        assert abs(found - (1 - sigma / 30)) < 5e-3 and abs(sigma) > 0


run_checks(globals())
