"""Where and when PSA Apply counts: on ComfyUI's own model classes, and as its nodes hand it over."""

from pathlib import Path

import pytest
from graphs import Graph, Link, close, differ, draw, draw_all, profile_node, psa, same, txt2img
from script_checks import Outcomes, check_names
from servers import start

from psa_core import PSAError

SCRIPT = Path(__file__).parent / "scripts" / "check_region.py"


@pytest.fixture(scope="session")
def outcomes(comfy_checks) -> Outcomes:
    return comfy_checks(SCRIPT)


@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_inside_comfyui(check, outcomes):
    outcomes.verify(check)


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    with start(comfy, tmp_path_factory.mktemp("region"), sd15_checkpoint) as running:
        yield running


def masked(value: float | None, *levels: str, **settings):
    """PSA Apply with a mask of the picture's left third, or of one value everywhere."""

    def patch(graph: Graph, model: Link) -> Link:
        mask = graph.add("SolidMask", value=0.0 if value is None else value, width=48, height=24)
        if value is None:
            third = graph.add("SolidMask", value=1.0, width=16, height=24)
            mask = graph.add("MaskComposite", destination=mask, source=third, x=0, y=0, operation="add")
        return psa(*levels, mask=mask, **settings)(graph, model)

    return patch


def test_white_is_no_mask_and_black_no_adapter(server):
    plain, whole, white, black, third = draw_all(
        server,
        txt2img(),
        txt2img(psa("L5")),
        txt2img(masked(1.0, "L5")),
        txt2img(masked(0.0, "L5")),
        txt2img(masked(None, "L5")),
    )
    assert same(white, whole) and same(black, plain)
    assert "KSampler" in white.ran & black.ran
    assert differ(third, whole) and differ(third, plain)


def test_a_prompt_that_knows_no_mask_and_no_schedule_draws_as_before(server):
    """As graphs of earlier versions are: the new inputs are not there."""
    before, now = draw_all(server, txt2img(psa("L5")), txt2img(psa("L5", schedule="constant")))
    assert same(before, now)


def test_fades_lie_between_off_and_constant(server):
    plain, constant, fading, falling = draw_all(
        server,
        txt2img(steps=4),
        txt2img(psa("L5"), steps=4),
        txt2img(psa("L5", schedule="fade in"), steps=4),
        txt2img(psa("L5", schedule="fade out"), steps=4),
    )
    for faded in (fading, falling):
        assert not same(faded, plain) and not same(faded, constant)
    assert not same(fading, falling)


def test_an_effect_takes_both_too(server):
    def effect(graph: Graph, model: Link) -> Link:
        adapter = graph.add("PSALoadAdapter", adapter_name="psa.safetensors")
        viewer = profile_node(graph, preset="L5")
        made = graph.add("PSAAudience", adapter=adapter, profile=viewer, how="joined tokens")
        mask = graph.add("SolidMask", value=0.5, width=8, height=8)
        inputs = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        return graph.add("PSAApply", model=model, effect=made, **inputs, schedule="fade out", mask=mask)

    assert differ(draw(server, txt2img(effect)), draw(server, txt2img()))


def test_tiles_under_a_mask_are_refused_in_words(server):
    def tiles(graph: Graph, model: Link) -> Link:
        return graph.add("TestTiles", model=model, tile=4, tiles_a_batch=1)

    with pytest.raises(PSAError, match="where its mask lies in a part"):
        draw(server, txt2img(masked(None, "L5"), tiles))
    assert close(*draw_all(server, txt2img(masked(1.0, "L5"), tiles), txt2img(psa("L5"), tiles)))


def test_masks_that_do_not_go_round_are_refused_in_words(server):
    def two(graph: Graph, model: Link) -> Link:
        images = graph.add("EmptyImage", width=8, height=8, batch_size=2, color=0xFFFFFF)
        mask = graph.add("ImageToMask", image=images, channel="red")
        return psa("L0", "L1", "L5", mask=mask)(graph, model)

    with pytest.raises(PSAError, match="2 masks for 3 viewers"):
        draw(server, txt2img(two, batch=3))
