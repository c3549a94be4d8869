"""Rows of a batch, in ComfyUI and in training, for any batch: against what they mean, row by row."""

import math
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from in_comfyui import pack_module

from psa_core.training.buckets import MAX_ASPECT, buckets, nearest_bucket
from psa_core.training.config import TrainConfig
from psa_core.training.objective import NoiseSchedule
from psa_core.training.rows import RowMaker

comfy_rows = pack_module("nodes.comfy.rows")
VIEWERS = ("positive", "middle", "cond")
NOBODYS = ("negative", "empty", "empty_negative_prompt", "empty_conditioning", "uncond")
NAMES = st.lists(st.sampled_from(VIEWERS + NOBODYS), min_size=1, max_size=5)
FEW = st.integers(1, 6)


def rows_of(names, pictures, latents, profiles, tiles=1, **stated):
    """The rows of a call with a copy of `latents` for each of `names`, `tiles` times over."""
    conds = {name: [] for name in names}
    for number, name in enumerate(names):
        conds[name].append({"uuid": number})
    options = {
        comfy_rows.RUN: comfy_rows.Run(SimpleNamespace(conds=conds), pictures, (8, 8)),
        "cond_or_uncond": list(range(len(names))),
        "uuids": list(range(len(names))),
        "sigmas": torch.ones(latents),
        **stated,
    }
    batch = tiles * len(names) * latents
    return comfy_rows.read_call(batch, options).rows(profiles, batch, options)


@given(names=NAMES, pictures=FEW, profiles=FEW, tiles=st.integers(1, 3))
def test_each_row_is_its_pictures_viewers_or_nobodys(names, pictures, profiles, tiles):
    copies = [i % profiles if name in VIEWERS else profiles for name in names for i in range(pictures)]
    assert list(rows_of(names, pictures, pictures, profiles, tiles)) == copies * tiles


@given(names=NAMES, indices=st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True), profiles=FEW)
def test_a_window_of_the_pictures_keeps_their_viewers(names, indices, profiles):
    window = SimpleNamespace(index_list=indices, dim=0)
    copies = [i % profiles if name in VIEWERS else profiles for name in names for i in indices]
    assert list(rows_of(names, 12, len(indices), profiles, context_window=window)) == copies


@given(count=FEW, anchored=st.booleans(), seed=st.integers(0, 2**32))
def test_a_pairs_rows_are_the_same_in_any_batch(count, anchored, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator)

    def part():
        return {"conditioning": {"text": normal(5, 7)}, "embedding": normal(3)}

    batch = {"latents": normal(2, 4, 8, 8), "sizes": normal(2, 6), "noise": normal(4, 8, 8), **part()}
    batch["when"] = torch.rand(count, generator=generator, dtype=torch.float64)
    if anchored:
        anchor = {"latents": normal(4, 8, 8), "sizes": normal(6), **part()}
        batch |= {f"anchor_{name}": value for name, value in anchor.items()}
    maker = RowMaker(NoiseSchedule(torch.linspace(0.999, 0.005, 1000)), TrainConfig(), torch.device("cpu"))
    together = maker.rows(batch)
    assert (len(together), together.pairs) == ((3 if anchored else 2) * count, 2 * count)
    for pair in range(count):
        alone = maker.rows(take(batch, pair))
        for name in ("noisy", "target", "timesteps", "embeddings"):
            assert torch.equal(getattr(together, name)[pair::count], getattr(alone, name)), name
        assert all(
            torch.equal(together.conditioning[name][pair::count], alone.conditioning[name])
            for name in alone.conditioning
        )


def take(batch, pair):
    return {
        name: take(value, pair) if isinstance(value, dict) else value[pair : pair + 1] for name, value in batch.items()
    }


@given(st.data(), st.integers(1, 10_000), st.integers(1, 10_000))
def test_every_picture_has_a_bucket_and_none_is_nearer(data, width, height):
    step = data.draw(st.sampled_from([8, 16, 64]))
    resolution = data.draw(st.integers(step, 1100))
    sizes = buckets(resolution, step)
    for w, h in sizes:
        assert w % step == h % step == 0 and w * h <= resolution**2 and 1 / MAX_ASPECT <= w / h <= MAX_ASPECT
    distances = {(w, h): abs(math.log(w / h) - math.log(width / height)) for w, h in sizes}
    assert distances[nearest_bucket(width, height, resolution, step)] == min(distances.values())
