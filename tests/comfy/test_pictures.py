"""What the nodes draw on the real server: one prompt and seed, other pictures for other viewers."""

import shutil

import numpy as np
import pytest
import torch
from adapters import random_adapter, save_bin
from checkpoints import small_unet
from graphs import (
    Graph,
    apply,
    close,
    differ,
    draw,
    draw_all,
    encode,
    forget,
    profile_node,
    psa,
    psa_embedding,
    same,
    txt2img,
)
from small_models import add_models

from psa_core import LEVELS, StructuredEncoder, save_adapter
from psa_core.diffusers_unet import cross_attention_layers

STEP = 1 / 255  # of a saved picture
SIX = tuple(LEVELS)


def one_noise_for_all(count: int):
    """Latents that all start from the same noise: their `batch_index` is 0 throughout."""

    def latents(graph: Graph):
        one = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        several = one
        for _ in range(count - 1):
            several = graph.add("LatentBatch", samples1=several, samples2=one)
        return several

    return latents


def one_of_six(index: int):
    """The latent that keeps the noise it has as number `index` of a batch of six."""

    def latents(graph: Graph):
        six = graph.add("EmptyLatentImage", width=64, height=64, batch_size=6)
        return graph.add("LatentFromBatch", samples=six, batch_index=index, length=1)

    return latents


def close_rows(together, row: int, alone) -> bool:
    return bool(np.abs(together.pictures[row] - alone.pictures[0]).max() <= 1.001 * STEP)


def test_one_prompt_and_seed_differ_from_viewer_to_viewer(server):
    plain, l0, l5 = draw_all(server, txt2img(), txt2img(psa("L0")), txt2img(psa("L5")))
    assert differ(l0, l5)
    assert differ(l0, plain) and differ(l5, plain)


def test_the_same_seed_twice_is_bit_identical(server):
    first = draw(server, txt2img(psa("L3")))
    forget(server)
    second = draw(server, txt2img(psa("L3")))
    assert {"KSampler", "PSAApply", "PSALoadAdapter", "CheckpointLoaderSimple"} <= second.ran
    assert same(first, second)


def test_another_seed_draws_another_picture(server):
    assert differ(*draw_all(server, txt2img(psa("L3")), txt2img(psa("L3"), seed=2)))


def test_strength_0_is_the_plain_model_to_the_bit(server):
    plain, off = draw_all(server, txt2img(), txt2img(psa("L5", strength=0.0)))
    assert "KSampler" in off.ran
    assert same(plain, off)


@pytest.mark.parametrize("outside", [{"end_percent": 0.0}, {"start_percent": 0.9}], ids=str)
def test_a_range_outside_sampling_is_the_plain_model_to_the_bit(outside, server):
    """Three steps of the simple scheduler: the last one's noise level is that of 0.67 of sampling."""
    steps = {"steps": 3, "scheduler": "simple"}
    plain, off = draw_all(server, txt2img(**steps), txt2img(psa("L5", **outside), **steps))
    assert "KSampler" in off.ran
    assert same(plain, off)


def in_two_parts(first: tuple, second: tuple) -> Graph:
    """Step 1 of 3 by the model with the patches `first`, the others by that with `second`."""
    graph = txt2img()
    first_model, second_model = graph.model, graph.model
    for patch in first:
        first_model = patch(graph, first_model)
    for patch in second:
        second_model = patch(graph, second_model)
    start = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    noisy = graph.sample_steps(first_model, start, 0, 1)
    graph.samples = graph.sample_steps(second_model, noisy, 1, 3)
    return graph


def test_a_range_within_sampling_counts_for_its_steps(server):
    """Step 1 of 3 lies at 0 of sampling, step 2 at 0.33."""
    steps = {"steps": 3, "scheduler": "simple"}
    plain, full, early, late = draw_all(
        server,
        txt2img(**steps),
        txt2img(psa("L5"), **steps),
        txt2img(psa("L5", end_percent=0.2), **steps),
        txt2img(psa("L5", start_percent=0.2), **steps),
    )
    first_step, other_steps = draw_all(server, in_two_parts((psa("L5"),), ()), in_two_parts((), (psa("L5"),)))
    assert close(early, first_step) and not close(early, full)
    assert close(late, other_steps) and not close(late, plain)


def test_strength_grows_the_change(server):
    plain, half, full = draw_all(server, txt2img(), txt2img(psa("L5", strength=0.5)), txt2img(psa("L5")))
    assert 0 < (half.latents - plain.latents).norm() < (full.latents - plain.latents).norm()


def test_each_row_of_a_batch_is_its_viewers_own_picture(server):
    together = draw(server, txt2img(psa(*SIX), latent=one_noise_for_all(6)))
    assert together.pictures.shape == (6, 64, 64, 3)
    for row, level in enumerate(SIX):
        alone = draw(server, txt2img(psa(level)))
        assert close_rows(together, row, alone), level
    assert np.abs(together.pictures[0] - together.pictures[5]).max() > 8 * STEP


def test_rows_with_noise_of_their_own(server):
    together = draw(server, txt2img(psa(*SIX), batch=6))
    for row in (0, 2, 5):
        alone = draw(server, txt2img(psa(SIX[row]), latent=one_of_six(row)))
        assert close_rows(together, row, alone), row


def test_more_latents_than_profiles_take_turns(server):
    together = draw(server, txt2img(psa("L0", "L5"), latent=one_noise_for_all(4)))
    assert np.abs(together.pictures[:2] - together.pictures[2:]).max() <= 1.001 * STEP
    assert np.abs(together.pictures[0] - together.pictures[1]).max() > 8 * STEP


def test_one_viewer_in_a_batch_draws_every_row(server):
    together = draw(server, txt2img(psa("L5"), batch=3))
    for row in range(3):
        alone = draw(server, txt2img(psa("L5"), latent=lambda graph, row=row: three(graph, row)))
        assert close_rows(together, row, alone), row


def three(graph: Graph, index: int):
    batch = graph.add("EmptyLatentImage", width=64, height=64, batch_size=3)
    return graph.add("LatentFromBatch", samples=batch, batch_index=index, length=1)


def test_a_profiles_widgets_draw_what_its_preset_draws(server):
    level = LEVELS["L5"]

    def by_widgets(graph, model):
        chosen = {f"ban_{category.lower().replace('-', '_')}": True for category in level.banned_categories}
        profile = profile_node(
            graph,
            age=level.age,
            gender=level.gender,
            religion=level.religion,
            physical_condition=level.physical_condition,
            mental_condition=level.mental_condition,
            banned="chosen",
            **chosen,
        )
        encoder = graph.add(
            "PSALoadEncoder", encoder_name="structured", templates="ours", banned_by="profile", keep_loaded=False
        )
        return apply(graph, model, encode(graph, profile, encoder=encoder))

    preset, widgets = draw_all(server, txt2img(psa("L5")), txt2img(by_widgets))
    assert "KSampler" in widgets.ran
    assert same(preset, widgets)


@pytest.mark.parametrize("shape", [(-1,), (1, -1), (1, 1, -1)], ids=str)
def test_npy_embeddings_of_every_published_shape(shape, server):
    vector = StructuredEncoder().encode([LEVELS["L5"]]).vectors.numpy()
    name = f"l5-{len(shape)}d.npy"
    save_npy(server, name, vector.reshape(shape))
    encoded, loaded = draw_all(server, txt2img(psa("L5")), txt2img(psa_embedding(name)))
    assert "KSampler" in loaded.ran
    assert same(encoded, loaded)


def test_a_npy_batch(server):
    vectors = StructuredEncoder().encode([LEVELS[level] for level in SIX]).vectors.numpy()
    save_npy(server, "six.npy", vectors[:, None, :])
    latent = one_noise_for_all(6)
    encoded, loaded = draw_all(
        server, txt2img(psa(*SIX), latent=latent), txt2img(psa_embedding("six.npy"), latent=latent)
    )
    assert "KSampler" in loaded.ran
    assert same(encoded, loaded)


def test_a_changed_embedding_file_is_read_again(server):
    vectors = StructuredEncoder().encode([LEVELS["L0"], LEVELS["L5"]]).vectors.numpy()
    save_npy(server, "changing.npy", vectors[0])
    before = draw(server, txt2img(psa_embedding("changing.npy")))
    save_npy(server, "changing.npy", vectors[1])
    after = draw(server, txt2img(psa_embedding("changing.npy")))
    assert differ(before, after)


def save_npy(server, name: str, array: np.ndarray) -> None:
    folder = server.base / "models" / "psa_embeddings"
    folder.mkdir(exist_ok=True)
    np.save(folder / name, array)


@pytest.fixture(scope="module")
def published_kind(server):
    """An adapter of the published sizes and file format, for the small UNet: float16 pickle, embeddings of 3584."""
    layers = cross_attention_layers(small_unet("sd15"))
    adapter = random_adapter(
        tuple(layer.to_q.out_features for layer in layers), cross_attention_dim=768, embedding_dim=3584, std=0.05
    ).half()
    save_bin(adapter, server.base / "models" / "psa_adapters" / "psa_adapter.bin")
    save_adapter(adapter, server.base / "models" / "psa_adapters" / "converted.safetensors", dtype=torch.float16)


def test_a_published_bin_adapter(server, published_kind):
    for number in (1, 2):
        save_npy(server, f"user-{number}.npy", np.random.default_rng(number).normal(size=3584).astype(np.float32))
    plain, first, second, converted = draw_all(
        server,
        txt2img(),
        txt2img(psa_embedding("user-1.npy", "psa_adapter.bin")),
        txt2img(psa_embedding("user-2.npy", "psa_adapter.bin")),
        txt2img(psa_embedding("user-1.npy", "converted.safetensors")),
    )
    assert differ(first, plain) and differ(first, second)
    assert "KSampler" in converted.ran
    assert same(first, converted)


def test_published_embeddings(server, published_kind, published):
    for user in ("0000001", "0000002"):
        save_npy(server, f"{user}.npy", np.load(published / f"{user}.npy"))
    plain, first, second = draw_all(
        server,
        txt2img(),
        txt2img(psa_embedding("0000001.npy", "psa_adapter.bin")),
        txt2img(psa_embedding("0000002.npy", "psa_adapter.bin")),
    )
    assert differ(first, plain)
    assert not same(first, second)


def save_graph(name: str, precision: str, source: str = "psa.safetensors") -> Graph:
    graph = Graph()
    graph.add(
        "PSASaveAdapter", adapter=graph.add("PSALoadAdapter", adapter_name=source), name=name, precision=precision
    )
    return graph


def test_a_saved_adapter_draws_the_same_and_replaces_nothing(server):
    folder = server.base / "models" / "psa_adapters"
    server.queue(save_graph("kept", "float32").prompt)
    content = (folder / "kept.safetensors").read_bytes()
    server.queue(save_graph("kept", "float16").prompt)
    assert (folder / "kept.safetensors").read_bytes() == content
    original, loaded, half = draw_all(
        server,
        txt2img(psa("L5")),
        txt2img(psa("L5", adapter="kept.safetensors")),
        txt2img(psa("L5", adapter="kept-2.safetensors")),
    )
    assert "KSampler" in loaded.ran
    assert same(original, loaded)
    assert not same(original, half) and np.abs(original.pictures - half.pictures).max() <= 8 * STEP


def test_sdxl_draws_for_its_viewer(server, sdxl_checkpoint):
    add_models(server.base, sdxl_checkpoint, "psa-sdxl.safetensors", "sdxl")
    sdxl = {"checkpoint": "sdxl.safetensors"}
    plain, l0, l5, off = (
        draw(server, txt2img(*patches, **sdxl))
        for patches in (
            (),
            (psa("L0", adapter="psa-sdxl.safetensors"),),
            (psa("L5", adapter="psa-sdxl.safetensors"),),
            (psa("L5", adapter="psa-sdxl.safetensors", strength=0.0),),
        )
    )
    assert differ(l0, l5) and differ(l5, plain)
    assert same(plain, off)


def test_files_in_folders_by_either_slash(server):
    """A workflow from Windows names a file with the other slash."""
    models = server.base / "models"
    for folder in ("psa_adapters", "psa_embeddings"):
        (models / folder / "deeper").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(models / "psa_adapters" / "psa.safetensors", models / "psa_adapters" / "deeper" / "a.safetensors")
    save_npy(server, "deeper/viewer.npy", StructuredEncoder().encode([LEVELS["L5"]]).vectors.numpy())
    names = [(f"deeper{slash}viewer.npy", f"deeper{slash}a.safetensors") for slash in "/\\"]
    here, windows = draw_all(server, *(txt2img(psa_embedding(*pair)) for pair in names))
    assert "PSAApply" in windows.ran
    assert same(here, windows) and same(here, draw(server, txt2img(psa("L5"))))


def test_a_picture_does_not_tell_where_its_files_lie(server):
    save_npy(server, "told.npy", StructuredEncoder().encode([LEVELS["L5"]]).vectors.numpy())
    drawn = draw(server, txt2img(psa_embedding("told.npy")))
    assert all(str(server.base).encode() not in file for file in drawn.files)
    assert any(b"told.npy" in file for file in drawn.files)
