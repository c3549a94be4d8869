"""PSA Apply among what else artists put on a model, on the real server."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import Graph, Link, close, differ, draw, draw_all, output, psa, same, txt2img
from PIL import Image
from servers import start
from small_models import write_controlnet, write_ip_adapter, write_lora

from psa_core.comfy_server import ComfyServer

L5 = psa("L5")


@pytest.fixture(scope="module")
def ip_adapter_pack(comfy) -> Path | None:
    """The folder of IPAdapter_plus's code, where there is one."""
    named = os.environ.get("IPADAPTER_PATH")
    folder = Path(named) if named else comfy.folder / "custom_nodes" / "ComfyUI_IPAdapter_plus"
    return folder if (folder / "IPAdapterPlus.py").is_file() else None


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, ip_adapter_pack, tmp_path_factory):
    base = tmp_path_factory.mktemp("composition")
    models = base / "models"
    write_lora(models / "loras" / "lora.safetensors")
    write_controlnet(models / "controlnet" / "control.safetensors")
    write_ip_adapter(models / "ipadapter" / "ip-adapter.safetensors", embeds=base / "input")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(base / "input" / "hint.png")
    packs = {"ComfyUI_IPAdapter_plus": ip_adapter_pack} if ip_adapter_pack else {}
    with start(comfy, base, sd15_checkpoint, **packs) as running:
        yield running


def lora(graph: Graph, model: Link) -> Link:
    return graph.add("LoraLoaderModelOnly", model=model, lora_name="lora.safetensors", strength_model=0.8)


def other_attention(graph: Graph, model: Link) -> Link:
    return graph.add("TestOtherAttention", model=model, weight=0.5)


def ip_adapter(graph: Graph, model: Link) -> Link:
    return graph.add(
        "IPAdapterEmbeds",
        model=model,
        ipadapter=graph.add("IPAdapterModelLoader", ipadapter_file="ip-adapter.safetensors"),
        pos_embed=graph.add("IPAdapterLoadEmbeds", embeds="image.ipadpt"),
        neg_embed=graph.add("IPAdapterLoadEmbeds", embeds="nothing.ipadpt"),
        weight=1.0,
        weight_type="linear",
        start_at=0.0,
        end_at=1.0,
        embeds_scaling="V only",
    )


def tiles(tiles_a_batch: int):
    def patch(graph: Graph, model: Link) -> Link:
        return graph.add("TestTiles", model=model, tile=4, tiles_a_batch=tiles_a_batch)

    return patch


def little_memory(graph: Graph, model: Link) -> Link:
    return graph.add("TestLittleMemory", model=model, megabytes=16)


def check_both_orders(server: ComfyServer, other, **settings) -> None:
    """Both orders give one picture, and it is neither the plain model's nor that of one of the two alone."""
    ours_first, ours_last, ours, others, plain = (
        draw(server, txt2img(*patches, **settings)) for patches in ((L5, other), (other, L5), (L5,), (other,), ())
    )
    assert "KSampler" in ours_last.ran
    assert same(ours_first, ours_last)
    for alone in (ours, others, plain):
        assert differ(ours_first, alone)


def test_a_lora_before_or_after(server):
    check_both_orders(server, lora)


def hooked(graph: Graph) -> None:
    """The LoRA by hooks on both conditions, which ComfyUI puts on and takes off around each call of the model."""
    both = graph.add(
        "PairConditioningSetProperties",
        positive_NEW=graph.positive,
        negative_NEW=graph.negative,
        strength=1.0,
        set_cond_area="default",
        hooks=graph.add("CreateHookLoraModelOnly", lora_name="lora.safetensors", strength_model=0.8),
    )
    graph.positive, graph.negative = both, output(both, 1)


def test_a_lora_by_hooks(server):
    on_the_model, on_the_conditions = draw_all(server, txt2img(L5, lora), txt2img(L5, control=hooked))
    assert close(on_the_model, on_the_conditions)
    assert differ(on_the_conditions, draw(server, txt2img(L5)))


def test_a_pack_that_follows_ip_adapters_protocol_before_or_after(server):
    check_both_orders(server, other_attention)


def test_two_of_them_around_ours(server):
    """The other pack's node on both sides of ours: the same as both before it, to rounding."""
    # In this order: where clones share patches, the pack's second node adds to the first one's own patch for good.
    once, around, before = draw_all(
        server,
        txt2img(other_attention, L5),
        txt2img(other_attention, L5, other_attention),
        txt2img(other_attention, other_attention, L5),
    )
    assert close(around, before)
    assert differ(around, once)


def test_a_batch_of_viewers_with_another_pack(server):
    together = draw(server, txt2img(psa("L0", "L5"), other_attention, batch=2))
    swapped = draw(server, txt2img(other_attention, psa("L0", "L5"), batch=2))
    assert same(together, swapped)


def test_ip_adapter_plus_before_or_after(server, comfy, ip_adapter_pack):
    if ip_adapter_pack is None:
        pytest.skip(
            f"IPAdapter_plus is not in {comfy.folder / 'custom_nodes'}; set IPADAPTER_PATH to a folder with its code"
        )
    check_both_orders(server, ip_adapter)
    three = [ip_adapter, L5, other_attention]
    first, last = draw_all(server, txt2img(*three), txt2img(L5, ip_adapter, other_attention))
    assert same(first, last)


def controlled(graph: Graph) -> None:
    both = graph.add(
        "ControlNetApplyAdvanced",
        positive=graph.positive,
        negative=graph.negative,
        control_net=graph.add("ControlNetLoader", control_net_name="control.safetensors"),
        image=graph.add("LoadImage", image="hint.png"),
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    graph.positive, graph.negative = both, output(both, 1)


def test_a_controlnet(server):
    both, control, ours, off, plain = draw_all(
        server,
        txt2img(L5, control=controlled),
        txt2img(control=controlled),
        txt2img(L5),
        txt2img(psa("L5", strength=0.0), control=controlled),
        txt2img(),
    )
    assert differ(control, plain), "the ControlNet has no effect"
    assert differ(both, control) and differ(both, ours)
    assert same(off, control)


def second_pass(*patches, hires_patches=None) -> Graph:
    """A picture of 64 pixels, then drawn over at 96."""
    graph = txt2img(*patches)
    larger = graph.add(
        "LatentUpscale",
        samples=graph.samples,
        upscale_method="nearest-exact",
        width=96,
        height=96,
        crop="disabled",
    )
    graph.samples = graph.sample(graph.model, larger, steps=4, denoise=0.5)
    return graph


def test_a_second_pass_at_another_size(server):
    plain, l0, l5 = draw_all(server, second_pass(), second_pass(psa("L0")), second_pass(L5))
    assert l5.pictures.shape == (1, 96, 96, 3)
    assert differ(l5, plain) and differ(l5, l0)
    batch = draw(server, second_pass(psa("L5", "L0")))
    assert batch.pictures.shape == (1, 96, 96, 3) and close(batch, l5)


def test_tiled_sampling(server):
    """Tiles one by one and all in one batch give the same picture, as they do without PSA."""
    plain, plain_batched = (draw(server, txt2img(tiles(n))) for n in (1, 4))
    assert close(plain, plain_batched)
    one_by_one, batched = (draw(server, txt2img(L5, tiles(n))) for n in (1, 4))
    assert differ(one_by_one, plain) and differ(one_by_one, draw(server, txt2img(L5)))
    assert close(one_by_one, batched)


def test_tiled_sampling_of_a_batch_of_viewers(server):
    viewers = psa("L0", "L5")
    one_by_one, batched = (draw(server, txt2img(viewers, tiles(n), batch=2)) for n in (1, 4))
    assert close(one_by_one, batched)


def test_a_model_that_is_loaded_in_part(server):
    """ComfyUI's low-memory path: weights stay behind and come layer by layer, LoRAs are applied on the way."""
    for patches in ((L5,), (L5, lora), (lora, L5)):
        whole = draw(server, txt2img(*patches))
        logged = len(server.log)
        part = draw(server, txt2img(*patches, little_memory))
        assert "loaded partially" in server.log[logged:]
        assert "KSampler" in part.ran
        assert close(whole, part)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag, dtype",
    [("--fp8_e4m3fn-unet", "float8_e4m3fn"), ("--bf16-unet", "bfloat16"), ("--fp16-unet", "float16")],
)
def test_other_number_formats(flag, dtype, server, comfy, sd15_checkpoint, tmp_path):
    """PSA changes the picture as it does in float32, and strength 0 not at all."""
    exact = [draw(server, txt2img(*patches, size=32)) for patches in ((), (L5,))]
    with start(comfy, tmp_path, sd15_checkpoint, flag) as running:
        plain, l5, l0, off = draw_all(
            running,
            txt2img(size=32),
            txt2img(L5, size=32),
            txt2img(psa("L0"), size=32),
            txt2img(psa("L5", strength=0.0), size=32),
        )
        assert f"model weight dtype torch.{dtype}," in running.log
    assert same(plain, off)
    assert differ(l5, plain) and differ(l5, l0)
    change, expected = ((b.latents - a.latents).flatten() for a, b in ((plain, l5), exact))
    assert torch.cosine_similarity(change, expected, dim=0) > 0.9
