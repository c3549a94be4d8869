"""Inside ComfyUI: what the attn2 patch promises, on a small UNet of each kind."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

from in_comfyui import pack_module, run_checks, start_comfyui

start_comfyui()

import copy
from types import SimpleNamespace

import comfy.conds
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from random_unets import SD15, SDXL, SMALL, small_model, unet_model

core, apply, attn2, rows_module = (
    pack_module(name) for name in ("psa_core", "nodes.comfy.apply", "nodes.comfy.attn2", "nodes.comfy.rows")
)


def make_adapter(model, num_tokens=1):
    sites = attn2.cross_attention_sites(model.model.diffusion_model)
    adapter = core.PSAAdapter([s.width for s in sites], sites[0].context_dim, 35, num_tokens, "structured-v1")
    for parameter in adapter.parameters():
        parameter.data.normal_(std=0.5)
    return adapter


def predict(model, cond_or_uncond=(0,), rows=None, batch=1, sigma=1.0):
    """One forward pass with the patches of `model`; `rows` picks rows of one fixed random batch."""
    torch.manual_seed(1)
    latents, text, pooled = torch.randn(12, 4, 8, 8), torch.randn(12, 5, 48), torch.randn(12, 64)
    rows = list(range(batch * len(cond_or_uncond))) if rows is None else rows
    unet = model.model.diffusion_model
    dtype = unet.dtype
    extra = {"y": pooled[rows].to(dtype)} if unet.num_classes else {}
    options = dict(model.model_options["transformer_options"])
    sigmas = torch.full((len(rows) // len(cond_or_uncond),), sigma)  # one for each latent, as the samplers do
    options |= {"cond_or_uncond": list(cond_or_uncond), "sigmas": sigmas}
    with torch.inference_mode():
        return unet(
            latents[rows].to(dtype),
            torch.full((len(rows),), 500.0),
            context=text[rows].to(dtype),
            transformer_options=options,
            **extra,
        )


def differ(a, b):
    return (a - b).norm() / b.norm() > 1e-3


def embed(*levels):
    return core.StructuredEncoder().encode([core.LEVELS[level] for level in levels])


class OtherPack:
    """A stand-in for a pack that follows IPAdapter_plus's protocol at attn2."""

    class Replace:
        def __init__(self, callback, **kwargs):
            self.callbacks = [(callback, kwargs)]

        def add(self, callback, **kwargs):
            self.callbacks.append((callback, kwargs))

        def __call__(self, q, k, v, extra_options):
            out = optimized_attention(q, k, v, extra_options["n_heads"])
            sigma = extra_options["sigmas"].detach().cpu()[0].item()
            for callback, kwargs in self.callbacks:
                if kwargs["sigma_end"] <= sigma <= kwargs["sigma_start"]:
                    out = out + callback(out, q, k, v, extra_options, **kwargs)
            return out.to(q.dtype)

    @classmethod
    def apply(cls, model, weight, sigma_start=1e9, sigma_end=0.0):
        def callback(out, q, k, v, extra_options, weight, **kwargs):
            return torch.tanh(q) * weight

        model = model.clone()
        options = model.model_options["transformer_options"]
        replacements = options.setdefault("patches_replace", {}).setdefault("attn2", {})
        for site in attn2.cross_attention_sites(model.model.diffusion_model):
            key = (site.block, site.number) if site.alone else (site.block, site.number, site.index)
            kwargs = {"weight": weight, "sigma_start": sigma_start, "sigma_end": sigma_end}
            if key in replacements:
                replacements[key].add(callback, **kwargs)
            else:
                replacements[key] = cls.Replace(callback, **kwargs)
        return model


def check_sites_of_full_size_unets():
    with torch.device("meta"):
        counts = {f: len(attn2.cross_attention_sites(full(f).model.diffusion_model)) for f in ("sd15", "sdxl")}
    assert counts == {"sd15": 16, "sdxl": 70}, counts


def check_an_sdxl_refiner_gets_a_sentence():
    """It is SDXL by name alone."""
    config = SDXL | {
        "model_channels": 384,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        "transformer_depth_middle": 4,
        "context_dim": 1280,
        "adm_in_channels": 2560,
    }
    with torch.device("meta"):
        base, refiner = full("sdxl"), unet_model("sdxl", config)
        sites = attn2.cross_attention_sites(base.model.diffusion_model)
    adapter = core.PSAAdapter([site.width for site in sites], sites[0].context_dim, 35, 1, "structured-v1")
    refused(lambda: apply.apply_adapter(refiner, adapter, embed("L5")), "This adapter is for SDXL")


def full(family):
    return unet_model(family, {"sd15": SD15, "sdxl": SDXL}[family])


def check_both_orders_give_the_same_picture():
    for family in SMALL:
        model = small_model(family)
        adapter, embedding = make_adapter(model), embed("L5")
        ours_first = OtherPack.apply(apply.apply_adapter(model, adapter, embedding), 0.5)
        ours_last = apply.apply_adapter(OtherPack.apply(model, 0.5), adapter, embedding)
        between = OtherPack.apply(apply.apply_adapter(OtherPack.apply(model, 0.3), adapter, embedding), 0.2)
        twice = apply.apply_adapter(OtherPack.apply(OtherPack.apply(model, 0.3), 0.2), adapter, embedding)
        assert predict(ours_first).equal(predict(ours_last))
        assert torch.allclose(predict(between), predict(twice), atol=1e-6)
        for alone in (OtherPack.apply(model, 0.5), apply.apply_adapter(model, adapter, embedding)):
            assert differ(predict(ours_first), predict(alone))


def check_the_other_packs_range_counts():
    model = small_model("sd15")
    patched = apply.apply_adapter(model, make_adapter(model), embed("L5"))
    limited = OtherPack.apply(patched, 0.5, sigma_start=5.0, sigma_end=2.0)
    assert predict(limited, sigma=1.0).equal(predict(patched, sigma=1.0))
    assert not predict(limited, sigma=3.0).equal(predict(patched, sigma=3.0))


def check_long_names_find_ours_in_a_block_of_one_transformer():
    model = small_model("sd15")
    patched = apply.apply_adapter(model, make_adapter(model), embed("L5"))
    replacements = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    for site in attn2.cross_attention_sites(model.model.diffusion_model):
        assert replacements[site.block, site.number] is replacements[site.block, site.number, site.index]


def check_the_incoming_model_and_its_other_clones_stay_as_they_are():
    model = small_model("sd15")
    before = copy.deepcopy(model.model_options)
    plain = predict(model)
    patched = apply.apply_adapter(model, make_adapter(model), embed("L5"))
    assert model.model_options == before
    assert predict(model).equal(plain)
    alone = predict(patched)
    OtherPack.apply(patched, 0.5)  # adds to a clone's patches, not to ours
    assert predict(patched).equal(alone)


def check_clones_share_the_tensors():
    model = small_model("sd15")
    patched = apply.apply_adapter(model, make_adapter(model), embed("L5"))
    first, second = (
        m.model_options["transformer_options"]["patches_replace"]["attn2"]["input", 1]
        for m in (patched, patched.clone())
    )
    assert first is not second
    assert first.table.value.data_ptr() == second.table.value.data_ptr()


def check_strength_0_and_steps_outside_the_range_are_bit_identical():
    for family in SMALL:
        model = small_model(family)
        adapter = make_adapter(model, num_tokens=2)
        plain = predict(model, (0, 1))
        assert predict(apply.apply_adapter(model, adapter, embed("L5"), strength=0.0), (0, 1)).equal(plain)
        late = apply.apply_adapter(model, adapter, embed("L5"), start_percent=0.5)
        noisy, clean = (model.get_model_object("model_sampling").percent_to_sigma(p) for p in (0.25, 0.75))
        assert predict(late, (0, 1), sigma=noisy).equal(plain)
        assert not predict(late, (0, 1), sigma=clean).equal(plain)
        early = apply.apply_adapter(model, adapter, embed("L5"), end_percent=0.5)
        assert predict(early, (0, 1), sigma=clean).equal(plain)
        assert not predict(early, (0, 1), sigma=noisy).equal(plain)


def check_rows_are_told_apart():
    for num_tokens in (1, 2):
        model = small_model("sd15")
        adapter = make_adapter(model, num_tokens)
        both = apply.apply_adapter(model, adapter, embed("L0", "L5"))
        singles = [apply.apply_adapter(model, adapter, embed(level)) for level in ("L0", "L5")]
        for kinds in ((0, 1), (1, 0)):
            together = predict(both, kinds, batch=3)
            for row in range(6):
                kind, profile = kinds[row // 3], row % 3 % 2
                alone = predict(singles[profile], (kind,), rows=[row])
                assert torch.allclose(together[row], alone[0], atol=1e-5), (kinds, row)
        assert torch.allclose(predict(singles[0], (1,)), predict(singles[1], (1,)), atol=1e-6)  # the same for everyone
        assert differ(predict(singles[0], (1,)), predict(model, (1,)))  # but not the plain model's


def check_batches_are_read_as_samplers_and_tilers_make_them():
    def rows(kinds, batch, latents):
        options = {"cond_or_uncond": kinds, "sigmas": torch.ones(latents)}
        return list(rows_module.read_call(batch, options).rows(2, batch, options))

    assert rows([0, 1], 4, latents=2) == [0, 1, 2, 2]
    assert rows([1, 0], 6, latents=3) == [2, 2, 2, 0, 1, 0]
    assert rows([0, 1], 8, latents=2) == [0, 1, 2, 2] * 2  # two tiles, each with its copies
    assert rows([0, 1], 4, latents=1) == [0, 2] * 2
    assert rows([0, 1], 4, latents=16) == [0, 1, 2, 2]  # two frames of sixteen
    assert rows([0], 3, latents=1) == [0, 1, 0]


def check_parts_of_a_batch_are_read_as_their_nodes_state_them():
    conditions = {name: [{"uuid": name}] for name in ("positive", "negative")}
    run = rows_module.Run(SimpleNamespace(conds=conditions, original_conds=conditions), pictures=8, size=(8, 8))

    def rows(latents, profiles=2, batch=None, kinds=("negative", "positive"), **stated):
        options = {"cond_or_uncond": [0] * len(kinds), "uuids": kinds, "sigmas": torch.ones(latents)}
        batch = batch or latents * len(kinds)
        options |= {rows_module.RUN: run} | stated
        return list(rows_module.read_call(batch, options).rows(profiles, batch, options))

    window = SimpleNamespace(index_list=[3, 4, 6], dim=0)
    assert rows(8) == [2] * 8 + [0, 1] * 4
    assert rows(3, context_window=window) == [2, 2, 2, 1, 0, 0]
    assert rows(3, ad_params={"sub_idxs": [7, 0, 1]}) == [2, 2, 2, 1, 0, 1]
    anchored = SimpleNamespace(index_list=[3, 4, 6], dim=0, causal_anchor_index=2)
    assert rows(4, context_window=anchored) == [2] * 4 + [0, 1, 0, 0]
    assert rows(8, context_window=window) == [2] * 8 + [0, 1] * 4  # a call with the whole batch between windows
    assert rows(16) == [2] * 16 + [0, 1] * 8
    assert rows(3, profiles=1) == [1, 1, 1, 0, 0, 0]
    refused(lambda: rows(3), "which of its viewers' pictures")
    refused(lambda: rows(8, batch=4), "which of its viewers' pictures")
    refused(lambda: rows(8, profiles=1, batch=3), "does not say whose they are")
    assert rows(8, batch=24, kinds=("positive",)) == [0, 1] * 12  # three tiles
    assert rows(8, batch=3, kinds=("negative",)) == [2] * 3


def condition(seed, model):
    """A condition as nodes hand it to a guider; SDXL's size vector is as random as the text."""
    generator = torch.Generator().manual_seed(seed)
    text, size = torch.randn(1, 5, 48, generator=generator), torch.randn(1, 64, generator=generator)
    has_size = model.model.diffusion_model.num_classes is not None
    return [[text, {"model_conds": {"y": comfy.conds.CONDRegular(size)} if has_size else {}}]]


def sampled(model, batch=1, cfg=3.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(condition(1, model), condition(2, model))
    guider.set_cfg(cfg)
    noise = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    sigmas = torch.tensor([10.0, 3.0, 0.0])
    return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas)


def refused(run, words):
    try:
        run()
    except core.PSAError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


def check_a_sampler_draws_what_its_model_calls_say():
    for family in SMALL:
        model = small_model(family)
        adapter = make_adapter(model)
        both, alone = (apply.apply_adapter(model, adapter, embed(*each)) for each in (("L0", "L5"), ("L0",)))
        together, plain = sampled(both, batch=2), sampled(model, batch=2)
        assert torch.allclose(together[0], sampled(alone, batch=2)[0], atol=1e-4)
        assert differ(together[1], sampled(alone, batch=2)[1]) and differ(together, plain)


def check_what_a_later_pack_puts_under_a_blocks_short_name_counts():
    """ComfyUI looks there last, so that it would be passed over."""

    def later(model, attention):
        model = model.clone()
        for site in attn2.cross_attention_sites(model.model.diffusion_model):
            model.set_model_attn2_replace(attention, site.block, site.number)
        return model

    def attend(q, k, v, extra_options):
        return optimized_attention(q, k, v, extra_options["n_heads"])

    for family in SMALL:
        model = small_model(family)
        adapter = make_adapter(model)
        patched = apply.apply_adapter(model, adapter, embed("L5"))
        refused(lambda patched=patched: sampled(later(patched, attend)), "took the place of PSA Apply")
        before = apply.apply_adapter(later(model, attend), adapter, embed("L5"))
        assert torch.allclose(sampled(before), sampled(patched), atol=1e-4)


def check_conditions_split_over_devices():
    """As several GPUs have it: each condition in a call of its own, each device with its own MODEL."""
    if not hasattr(comfy.samplers, "_calc_cond_batch_multigpu"):
        return
    model = small_model("sd15")
    adapter = make_adapter(model)
    for levels, batch in ((("L5",), 1), (("L0", "L5"), 2)):
        patched = apply.apply_adapter(OtherPack.apply(model, 0.3), adapter, embed(*levels))
        whole = sampled(patched, batch=batch)
        split = patched.clone()
        split.model_options["multigpu_clones"] = {torch.device("cpu"): split, torch.device("cpu", 0): split}
        assert torch.allclose(whole, sampled(split, batch=batch), atol=1e-4)


def check_half_precision():
    """Half precision costs a patched model no more than it costs the plain one."""
    exact = small_model("sd15")
    adapter = make_adapter(exact)
    for dtype in (torch.bfloat16, torch.float16):
        half = small_model("sd15", dtype)
        errors = []
        for model in (lambda m: m, lambda m: apply.apply_adapter(m, adapter, embed("L5"))):
            actual = predict(model(half))
            assert actual.dtype == dtype
            errors.append((actual - predict(model(exact))).norm())
        assert errors[1] < 2 * errors[0], (dtype, errors)


def check_two_adapters_add_up():
    model = small_model("sd15")
    adapter = make_adapter(model)
    once = apply.apply_adapter(model, adapter, embed("L5"), strength=0.8)
    twice = apply.apply_adapter(apply.apply_adapter(model, adapter, embed("L5"), 0.3), adapter, embed("L5"), 0.5)
    assert torch.allclose(predict(once), predict(twice), atol=1e-5)


def check_refusals():
    model = small_model("sd15")
    adapter = make_adapter(model)
    other = core.PSAAdapter(adapter.layer_widths, 64, 35)
    for arguments in (
        (other, embed("L5")),
        (make_adapter(small_model("sdxl")), embed("L5")),
        (adapter, core.UserEmbedding(torch.ones(1, 3584))),
        (adapter, core.UserEmbedding(torch.ones(1, 35), "another-encoder")),
        (adapter, embed("L5"), float("nan")),
        (adapter, embed("L5"), 1.0, 0.6, 0.4),
    ):
        try:
            apply.apply_adapter(model, *arguments)
        except core.PSAError as error:
            assert str(error).endswith("."), error
        else:
            raise AssertionError(f"not refused: {arguments}")


run_checks(globals())
