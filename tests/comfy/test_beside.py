"""PSA Apply beside nodes that change whose row is whose: the plain graph's picture, or one sentence."""

import re
from collections.abc import Callable

import pytest
from graphs import Graph, Link, Patch, close, differ, draw, draw_all, psa, same, txt2img
from servers import start

from psa_core.errors import PSAError

L5, BOTH = psa("L5"), psa("L0", "L5")


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    with start(comfy, tmp_path_factory.mktemp("beside"), sd15_checkpoint) as running:
        yield running


def node(name: str, **inputs) -> Patch:
    return lambda graph, model: graph.add(name, model=model, **inputs)


def refused(server, graph: Graph, sentence: str) -> str:
    with pytest.raises(PSAError, match=sentence) as refusal:
        draw(server, graph)
    said = str(refusal.value)
    assert "\n" not in said and said.endswith("."), said
    return said


Guide = Callable[[Graph], Link]


def guided(guide: Guide, *patches: Patch, batch: int = 1, steps: int = 2, sampler: str = "euler") -> Graph:
    """As `txt2img`, by a guider."""
    graph = txt2img(*patches, batch=batch)
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=1),
        guider=guide(graph),
        sampler=graph.add("KSamplerSelect", sampler_name=sampler),
        sigmas=graph.add("BasicScheduler", model=graph.model, scheduler="normal", steps=steps, denoise=1.0),
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=batch),
    )
    graph.samples = sampled
    return graph


def cfg(graph: Graph) -> Link:
    return graph.add("CFGGuider", model=graph.model, positive=graph.positive, negative=graph.negative, cfg=7.0)


def perp_neg(scale: float) -> Guide:
    return lambda graph: graph.add(
        "PerpNegGuider",
        model=graph.model,
        positive=graph.positive,
        negative=graph.positive,  # weighed with `scale`
        empty_conditioning=graph.negative,
        cfg=7.0,
        neg_scale=scale,
    )


def dual(style: str) -> Guide:
    """Both prompts are one: the picture is CFG's, with the second scale, or with the product of the two."""

    def guide(graph: Graph) -> Link:
        return graph.add(
            "DualCFGGuider",
            model=graph.model,
            cond1=graph.positive,
            cond2=graph.positive,
            negative=graph.negative,
            cfg_conds=3.0,
            cfg_cond2_negative=7.0,
            style=style,
        )

    return guide


def named(names: str) -> Guide:
    return lambda graph: graph.add(
        "TestGuider", model=graph.model, positive=graph.positive, negative=graph.negative, cfg=7.0, names=names
    )


def dual_model(graph: Graph) -> Link:
    return graph.add(
        "DualModelGuider",
        model=graph.model,
        model_negative=graph.model,
        positive=graph.positive,
        negative=graph.negative,
        cfg=7.0,
    )


GUIDERS = {
    "dual model": dual_model,
    "perp-neg": perp_neg(0.0),
    "dual": dual("regular"),
    "dual, nested": dual("nested"),
    "middle, negative": named("middle,negative"),
    "positive, empty": named("positive,empty_negative_prompt"),
}


@pytest.mark.parametrize("patches, batch", [((L5,), 1), ((BOTH,), 2)], ids=["one viewer", "two"])
def test_roles_are_the_guiders_own_names(server, patches, batch):
    plain = draw(server, guided(cfg, *patches, batch=batch))
    assert differ(plain, draw(server, guided(cfg, batch=batch)))
    for name, guide in GUIDERS.items():
        if guide is dual_model and "DualModelGuider" not in server.object_info():
            continue  # newer than the lowest version
        assert close(plain, draw(server, guided(guide, *patches, batch=batch))), name


def test_a_name_that_nobody_knows(server):
    assert "'style'" in refused(server, guided(named("positive,style"), L5), "cannot tell whether a condition")
    assert "KSampler" in draw(server, txt2img(L5)).ran


def test_a_condition_that_no_guider_has(server):
    """ComfyUI's first Perp-Neg adds one inside the sampler."""

    def first_perp_neg(graph: Graph, model: Link) -> Link:
        empty = graph.add("CLIPTextEncode", clip=["1", 1], text="")
        return graph.add("PerpNeg", model=model, empty_conditioning=empty, neg_scale=1.0)

    refused(server, txt2img(L5, first_perp_neg), "its guider does not have")


@pytest.mark.parametrize("name", ["PerturbedAttentionGuidance", "SelfAttentionGuidance"])
def test_guidance_by_a_changed_model(name, server):
    """These call the model again, with one of the guider's conditions alone."""
    widgets = {"scale": 2.0} if name.startswith("Pert") else {"scale": 0.5, "blur_sigma": 2.0}
    guidance = node(name, **widgets)
    first, last, ours, theirs = draw_all(
        server, *(txt2img(*patches) for patches in ((guidance, L5), (L5, guidance), (L5,), (guidance,)))
    )
    assert same(first, last)
    assert differ(first, ours) and differ(first, theirs)


def region(graph: Graph, condition: Link, x: int) -> Link:
    return graph.add("ConditioningSetArea", conditioning=condition, width=64, height=64, x=x, y=0, strength=1.0)


def regions(also_negative: bool) -> Callable[[Graph], None]:
    """The prompt in two areas besides the whole; ComfyUI makes negative ones to match, where there are none."""

    def control(graph: Graph) -> None:
        for side in ("positive", "negative") if also_negative else ("positive",):
            whole = combined = getattr(graph, side)
            for x in (0, 64):
                combined = graph.add(
                    "ConditioningCombine", conditioning_1=combined, conditioning_2=region(graph, whole, x)
                )
            setattr(graph, side, combined)

    return control


def test_conditions_with_areas(server):
    for patches, batch in (((), 1), ((L5,), 1), ((BOTH,), 2)):
        made, given = (txt2img(*patches, control=regions(also), size=128, batch=batch) for also in (False, True))
        assert close(*draw_all(server, made, given))


def couple(states: str, regions: int = 2) -> Patch:
    return node("TestCouple", regions=regions, states=states)


@pytest.mark.parametrize("states", ["a list", "in place"])
def test_rows_that_a_pack_states(states, server):
    for patches, settings in (((L5,), {}), ((L5,), {"batch": 3}), ((BOTH,), {"batch": 4}), ((L5,), {"cfg": 1.0})):
        plain = draw(server, txt2img(*patches, **settings))
        for number in (2, 3):
            around = (txt2img(*order, **settings) for order in ((*patches, couple(states, number)),))
            assert close(plain, draw(server, next(around))), (settings, number)
    assert close(draw(server, txt2img(L5)), draw(server, txt2img(couple(states), L5)))


def test_rows_that_nobody_states(server):
    for batch in (1, 2, 3, 4):
        for patches in ((L5, couple("nothing")), (couple("nothing", 3), BOTH)):
            refused(server, txt2img(*patches, batch=batch), "does not say whose they are")
    plain, coupled = draw_all(server, txt2img(L5, cfg=1.0), txt2img(L5, couple("nothing"), cfg=1.0))
    assert close(plain, coupled)  # all rows are the viewer's


def test_more_rows_of_text_than_of_pictures(server):
    more = node("TestMoreKeys")
    assert close(*draw_all(server, txt2img(), txt2img(more)))
    for scale in (1.0, 7.0):
        for patches in ((L5, more), (more, L5)):
            refused(server, txt2img(*patches, cfg=scale), "rows of text for")


def calls(how: str) -> Patch:
    return node("TestOwnCalls", how=how)


@pytest.mark.parametrize(
    "how", ["by_condition", "by_condition_stated", "reversed_stated", "by_picture", "tiles", "tiles_copy_by_copy"]
)
def test_a_pack_that_takes_the_batch_apart(how, server):
    for batch in (1, 2, 3):
        for settings in ({"batch": batch}, {"batch": batch, "cfg": 1.0}):
            nobody = draw(server, txt2img(calls(how), **settings))
            viewer = draw(server, txt2img(L5, calls(how), **settings))
            whole = nobody if "tiles" in how else draw(server, txt2img(**settings))
            assert close(nobody, whole), settings
            if "tiles" not in how:
                assert close(viewer, draw(server, txt2img(L5, **settings))), settings
            assert differ(viewer, nobody)


def test_tiles_in_either_order(server):
    for batch in (1, 3):
        tiles, copy_by_copy = draw_all(
            server, *(txt2img(L5, calls(how), batch=batch) for how in ("tiles", "tiles_copy_by_copy"))
        )
        assert close(tiles, copy_by_copy)


@pytest.mark.parametrize("how", ["by_condition", "by_picture", "tiles_copy_by_copy"])
def test_several_viewers_in_a_batch_that_is_taken_apart(how, server):
    refused(server, txt2img(BOTH, calls(how), batch=2), "Encode one profile a run|does not say whose they are")


@pytest.mark.parametrize("how", ["by_condition_stated", "reversed_stated", "deep_copied_options", "merged_options"])
def test_several_viewers_where_a_pack_states_its_rows(how, server):
    for patches, batch in (((BOTH,), 2), ((L5, BOTH), 4)):
        plain, called = (txt2img(*patches, *more, batch=batch) for more in ((), (calls(how),)))
        assert close(*draw_all(server, plain, called))


def test_one_noise_level_for_the_whole_batch(server):
    one = node("TestOneSigma")
    for patches, batch in (((), 2), ((L5,), 3), ((BOTH,), 4)):
        assert close(*draw_all(server, txt2img(*patches, batch=batch), txt2img(*patches, one, batch=batch)))


@pytest.mark.parametrize(
    "left_out", [calls("without_options"), node("TestOwnForward", of="block")], ids=["options", "block"]
)
def test_a_pack_that_leaves_ours_out(left_out, server):
    assert close(*draw_all(server, txt2img(), txt2img(left_out)))
    for patches in ((L5, left_out), (left_out, L5)):
        refused(server, txt2img(*patches), "leaves PSA Apply to Model out")


def test_a_pack_with_a_cross_attention_of_its_own(server):
    own = node("TestOwnForward", of="attention")
    assert close(*draw_all(server, txt2img(), txt2img(own)))
    for patches in ((L5, own), (own, L5)):
        said = refused(server, txt2img(*patches), "takes the place of the model's cross-attention")
        assert "stand_ins" in said
    assert close(*draw_all(server, txt2img(), txt2img(psa("L5", strength=0.0), own)))


def test_ours_again_behind_other_packs(server):
    again = psa("L2", strength=0.5)
    both = draw(server, txt2img(L5, again))
    assert differ(both, draw(server, txt2img(L5))) and close(both, draw(server, txt2img(again, L5)))
    for names in ("short", "long"):
        wrapped, replaced = node("TestWrappedAttention", names=names), node("TestReplacedAttention", names=names)
        assert close(both, draw(server, txt2img(L5, wrapped, again)))
        refused(server, txt2img(L5, replaced, again), "took the place of PSA Apply")
    assert close(*draw_all(server, txt2img(L5, other_attention(0.5), again), txt2img(L5, again, other_attention(0.5))))


def windows(length: int, overlap: int) -> Patch:
    def patch(graph: Graph, model: Link) -> Link:
        newer = {
            "freenoise": False,
            "cond_retain_index_list": "",
            "split_conds_to_windows": False,
            "latent_retain_index_list": "",
            "causal_window_fix": True,
        }
        return graph.add(
            "ContextWindowsManual",
            model=model,
            context_length=length,
            context_overlap=overlap,
            context_schedule="standard_static",
            context_stride=1,
            closed_loop=False,
            fuse_method="pyramid",
            dim=0,
            **newer,
        )

    return patch


@pytest.mark.parametrize("viewers", [("L0", "L5"), ("L0", "L1", "L5")], ids=len)
def test_windows_over_a_batch(viewers, server):
    """Each picture is its own viewer's, wherever the windows begin."""
    try:
        draw(server, txt2img(windows(3, 1), batch=8))
    except PSAError:
        pytest.skip("this ComfyUI's own context windows do not run with its PyTorch")
    whole = draw(server, txt2img(psa(*viewers), batch=8))
    for length, overlap in ((3, 1), (5, 2)):
        assert close(whole, draw(server, txt2img(psa(*viewers), windows(length, overlap), batch=8))), (length, overlap)


def rebatched(size: int):
    def latents(graph: Graph) -> Link:
        eight = graph.add("EmptyLatentImage", width=64, height=64, batch_size=8)
        return graph.add("RebatchLatents", latents=eight, batch_size=size)

    return latents


def sampled_only(server, graph: Graph) -> str:
    """Runs it to its samples; returns what the server printed."""
    graph.add("PreviewImage", images=graph.add("VAEDecode", samples=graph.samples, vae=graph.vae))
    logged = len(server.log)
    server.run(graph.prompt)
    return server.log[logged:]


def test_a_batch_that_is_not_the_profiles_own(server):
    warning = r"one profile a run"
    for latent in (rebatched(1), rebatched(3)):
        assert warning.lower() in sampled_only(server, txt2img(BOTH, latent=latent)).lower()
    for graph in (txt2img(BOTH, latent=rebatched(4)), txt2img(L5, latent=rebatched(3)), txt2img(BOTH, batch=4)):
        assert warning not in sampled_only(server, graph).lower()


@pytest.mark.parametrize("names", ["short", "long"])
def test_lost_to_a_later_pack(names, server):
    replaced = node("TestReplacedAttention", names=names)
    said = refused(server, txt2img(L5, replaced), "'attend' of .*took the place of PSA Apply")
    assert "stand_ins" in said and str(server.base) not in said
    assert close(*draw_all(server, txt2img(L5), txt2img(replaced, L5)))


@pytest.mark.parametrize("names", ["short", "long"])
def test_a_pack_that_wraps_what_is_there(names, server):
    wrapped = node("TestWrappedAttention", names=names)
    plain = draw(server, txt2img(L5))
    for patches in ((L5, wrapped), (wrapped, L5), (L5, wrapped, wrapped)):
        assert close(plain, draw(server, txt2img(*patches)))


def test_a_pack_that_asks_for_a_method_of_its_own_patch(server):
    asking = node("TestAskingPack")
    refused(server, txt2img(L5, asking), "Put PSA Apply to Model after it")
    assert same(*draw_all(server, txt2img(L5), txt2img(asking, L5)))


def other_attention(weight: float) -> Patch:
    return node("TestOtherAttention", weight=weight)


def test_a_patch_is_its_models_own(server):
    """What a later pack adds in one branch is neither in another nor there twice in the next run."""
    alone = draw(server, txt2img(L5))
    first = draw(server, txt2img(L5, other_attention(0.5)))
    other = draw(server, txt2img(L5, other_attention(0.25)))
    assert differ(first, other) and differ(first, alone)
    again = draw(server, txt2img(L5, other_attention(0.5)))
    assert "PSAApply" not in again.ran and "KSampler" in again.ran
    assert same(first, again)
    after = draw(server, txt2img(L5))
    assert "PSAApply" not in after.ran and "KSampler" in after.ran
    assert same(alone, after)


def test_two_branches_of_one_model_in_one_graph(server):
    graph = txt2img(L5)
    branch = other_attention(0.5)(graph, graph.model)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph.add("PreviewImage", images=graph.add("VAEDecode", samples=graph.sample(branch, latent), vae=graph.vae))
    assert draw(server, graph).latents.equal(draw(server, txt2img(L5)).latents)


@pytest.mark.parametrize(
    "schedule",
    [
        node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
        node("ModelSamplingDiscrete", sampling="lcm", zsnr=False),
        node("ModelSamplingContinuousEDM", sampling="eps", sigma_max=40.0, sigma_min=0.01),
    ],
    ids=["v-prediction", "lcm", "edm"],
)
def test_a_schedule_that_is_set_later(schedule, server):
    """Start and end are those of the schedule that is sampled with."""
    part = psa("L5", start_percent=0.25, end_percent=0.7)
    steps = {"steps": 6}
    earlier, later, whole = draw_all(
        server, txt2img(schedule, part, **steps), txt2img(part, schedule, **steps), txt2img(schedule, L5, **steps)
    )
    assert same(earlier, later)
    assert not same(earlier, whole)


def counted(server, *patches: Patch) -> int:
    logged = len(server.log)
    draw(server, txt2img(*patches, node("TestCountedAttention")))
    (calls,) = re.findall(r"(\d+) calls of the replaced attention", server.log[logged:])
    return int(calls)


def test_an_attention_that_is_replaced_in_its_module(server):
    assert counted(server, L5) == counted(server)


def test_a_loader_with_a_patcher_of_its_own(server):
    own = node("TestOwnLoader")
    plain, first, last = draw_all(server, txt2img(L5), txt2img(own, L5), txt2img(L5, own))
    assert same(plain, first) and same(plain, last)
    assert same(*draw_all(server, txt2img(L5, other_attention(0.5)), txt2img(own, L5, other_attention(0.5))))


def test_names_that_come_through_a_link(server):
    """The names are known when the graph runs, and an unchanged graph runs nothing again."""

    def linked(text: str) -> Patch:
        def patch(graph: Graph, model: Link) -> Link:
            name = graph.add("TestText", text=text)
            return psa("L5", adapter=graph.add("PSALoadAdapter", adapter_name=name))(graph, model)

        return patch

    plain, first = draw_all(server, txt2img(L5), txt2img(linked("psa.safetensors")))
    assert same(plain, first)
    logged = len(server.log)
    again = draw(server, txt2img(linked("psa.safetensors"), seed=2))
    assert "PSALoadAdapter" not in again.ran and "PSAApply" not in again.ran
    assert "WARNING:" not in server.log[logged:]
    said = refused(server, txt2img(linked("absent.safetensors")), "absent.safetensors")
    assert "models/psa_adapters" in said and "PSA Train" in said
