"""One assembly of a run: how pictures are read, by preset, and what a run of an earlier version keeps to."""

import csv
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import QUICK, denoiser, encode_images, encoders, user, write_split

from psa_core import StructuredEncoder
from psa_core.processes import OneProcess
from psa_core.training import (
    ImageEncoder,
    PairDataset,
    TensorCache,
    TrainConfig,
    Trainer,
    encode_users,
    fill_cache,
    inputs,
    read_split,
)
from psa_core.training.assembly import Splits, as_begun, encoded_pairs, read_splits
from psa_core.training.config import READING
from psa_core.training.folder import RunFolder
from psa_core.training.reference import ReferencedPairs


@pytest.fixture
def data(tmp_path):
    """Pairs of wide pictures, 96 x 64."""
    write_split(tmp_path, "train", range(4), 8)
    rng = np.random.default_rng(0)
    for path in (tmp_path / "train").glob("*.png"):
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(path)
    return tmp_path


def pairs_of(data, images=None, progress=None, **settings):
    config = TrainConfig.from_dict({**QUICK, "caption_dropout": 0.0, **settings})
    splits = read_splits(data, StructuredEncoder())
    vae, texts = encoders()
    cache = TensorCache(data / "cache")
    return encoded_pairs(splits, config, cache, images or vae, texts, StructuredEncoder(), OneProcess(), progress).train


def sampling(pixels, generator):
    latents = encode_images(pixels)
    return latents + torch.randn(latents.shape, generator=generator)


def test_published_reads_squares_and_fixed_sizes_and_recommended_whole_pictures(data):
    published, recommended = pairs_of(data, preset="published"), pairs_of(data, preset="recommended")
    side = QUICK["resolution"]
    assert published.sizes == [(side, side)] and recommended.sizes[0][0] > recommended.sizes[0][1]
    for seed in range(4):  # as they are, and mirrored
        assert published[0, seed, 0]["sizes"].tolist() == [[side, side, 0, 0, side, side]] * 2
    assert recommended[0, 0, 0]["sizes"][0, :2].tolist() == [64, 96]


def test_published_pictures_are_resized_bilinearly_and_cut_in_the_centre(data):
    pairs = pairs_of(data, preset="published", flip=False)
    side = QUICK["resolution"]
    image = Image.open(read_split(data, "train")[0].chosen)
    resized = image.resize((round(image.width * side / image.height), side), Image.Resampling.BILINEAR)
    left = (resized.width - side) // 2
    square = np.asarray(resized.crop((left, 0, left + side, side)), np.float32)
    expected = encode_images(torch.from_numpy(square).permute(2, 0, 1)[None] / 127.5 - 1)
    assert (pairs[0, 0, 0]["latents"][0] - expected[0]).abs().max() < 0.02


def test_published_latents_are_one_sample_a_picture(data):
    images = ImageEncoder("posterior", encode_images, sampling)
    published, recommended = pairs_of(data, images, flip=False), pairs_of(data, images, flip=False, latents="mean")
    difference = torch.stack([published[n, 0, 0]["latents"] - recommended[n, 0, 0]["latents"] for n in range(8)])
    assert 0.9 < difference.std() < 1.1 and len({noise.sum().item() for noise in difference.flatten(0, 1)}) == 16
    first = published[0, 0, 0]["latents"]
    for path in (data / "cache").rglob("*.safetensors"):
        path.unlink()
    assert pairs_of(data, images, flip=False)[0, 0, 0]["latents"].equal(first)


def test_a_copied_data_set_is_the_same_and_a_replaced_picture_is_another(data, tmp_path_factory):
    first = pairs_of(data).id
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(data, copy)
    record = read_split(copy, "train")[0]
    os.utime(record.chosen)
    assert pairs_of(copy).id == first
    status = record.chosen.stat()
    pixels = np.array(Image.open(record.chosen))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(record.chosen)
    os.utime(record.chosen, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pairs_of(copy).id != first


def test_a_split_named_twice_is_read_and_encoded_once(data):
    write_split(data, "val", range(4), 4)
    splits = read_splits(data, StructuredEncoder(), held_out=["val"], harmless="val")
    assert splits.harmless is splits.held_out["val"] and splits.all == [splits.train, splits.harmless]
    assert Splits(splits.train).all == [splits.train]


def test_encoding_stops_within_a_record(data):
    class Stop(Exception):  # noqa: N818
        pass

    seen = []

    def progress(done, count):
        seen.append((done, count))
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        pairs_of(data, progress=progress)
    assert seen == [(1, 8), (2, 8), (3, 8)]


def test_a_run_of_version_01_goes_on_reading_pictures_as_it_did(tmp_path):
    config = TrainConfig.from_dict({})
    before = {name: TrainConfig.model_fields[name].default for name in READING}
    assert all(getattr(config, name) != value for name, value in before.items())
    assert as_begun(config, tmp_path) == config
    earlier = {name: value for name, value in config.to_dict().items() if name not in READING}
    torch.save({"format": 1, "config": earlier, "step": 3}, tmp_path / "state.pt")
    kept = as_begun(config, tmp_path)
    assert {name: getattr(kept, name) for name in READING} == before
    assert kept == config.changed(**before)
    saved = json.loads(json.dumps(kept.to_dict()))
    for key, expected in (("", kept), ("00" * 16, config)):  # once it was saved by this version; and a new run
        RunFolder(tmp_path).save({"key": key, "identity": {"config": saved}})
        assert as_begun(config, tmp_path) == expected


def test_users_say_what_is_banned(data):
    """Of records that do not say what their users ban, as Sage's, a users file does."""
    metadata = data / "train" / "metadata.jsonl"
    records = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["user_data"] = {k: v for k, v in record["user_data"].items() if not k.endswith("_Categories")}
    metadata.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    path = data / "users.csv"
    profiles = [user(number).to_dict() | {"Banned_Categories": ["Propaganda"]} for number in range(4)]
    names = [name for name in profiles[0] if name != "Allowed_Categories"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(profiles)
    splits = read_splits(data, StructuredEncoder(), users=path)
    assert all(list(profile.banned_categories) == ["Propaganda"] for profile in splits.train.profiles)


def test_a_picture_that_changes_as_it_is_encoded_stands_under_its_own_key(data, monkeypatch):
    """Before, the new picture's latents stood under the old one's key, and whoever had the old one back got them."""
    path = read_split(data, "train")[0].chosen
    before, known = path.read_bytes(), inputs.entry_key
    right = pairs_of(data)[0, 0, 0]["latents"]
    shutil.rmtree(data / "cache")

    def changing(bucket, key, config):
        if path.read_bytes() == before:
            Image.new("RGB", (96, 64), "red").save(path)
        return known(bucket, key, config)

    monkeypatch.setattr(inputs, "entry_key", changing)
    changed = pairs_of(data)[0, 0, 0]["latents"]
    monkeypatch.undo()
    path.write_bytes(before)
    assert torch.equal(pairs_of(data)[0, 0, 0]["latents"], right) and not torch.equal(changed, right)


def test_a_shared_cache_keeps_size_numbers_of_each_resolution(data):
    settings = {"aspect": "kept", "sizes": "fixed", "bucket_step": 16}
    one, other = (pairs_of(data, resolution=side, **settings) for side in (64, 66))
    assert one.sizes == other.sizes, "one bucket, of two resolutions"
    for pairs, side in ((one, 64), (other, 66)):
        assert pairs[0, 0, 0]["sizes"].tolist() == [[side, side, 0, 0, side, side]] * 2


def test_what_reference_errors_are_rounded_by_is_in_their_key(data):
    keys = set()
    for changes in ({}, {"precision": "bf16"}, {"batch_size": 1}, {"reference_draws": 2}):
        settings = {"reference_draws": 1, **changes}
        config = TrainConfig.from_dict({**QUICK, "caption_dropout": 0.0, **settings})
        keys.add(ReferencedPairs(pairs_of(data, **settings), config, denoiser())._key(0))
    assert len(keys) == 4


def test_texts_of_another_precision_are_not_met_and_the_run_is_the_same(data):
    """A run of an earlier version, whose keys knew no precision, is still known."""
    config, cache = TrainConfig.from_dict(QUICK), TensorCache(data / "cache")
    split, (images, texts) = read_split(data, "train"), encoders()
    found = []
    for precision in ("", "bf16", "fp32"):
        own = replace(texts, precision=precision, encode=lambda captions, p=precision: _texts(captions, len(p)))
        fill_cache(split, cache, config, images, own)
        pairs = PairDataset(split, cache, config, images, own, encode_users(split, StructuredEncoder()))
        found.append((pairs.id, float(pairs[0, 0, 0]["conditioning"]["text"].mean())))
    assert [value for _, value in found] == [0, 4, 4] and len({name for name, _ in found}) == 1
    assert found[0][0] == pairs_of(data).id


def _texts(captions: list[str], value: int) -> dict[str, torch.Tensor]:
    return {"text": torch.full((len(captions), 4, 64), float(value))}


def test_an_anchor_without_harmless_pictures_is_warned_of(data):
    """Of a built data set they may all have been set aside, or taken out by hand."""
    write_split(data, "harmless", range(2), 2)
    splits = read_splits(data, StructuredEncoder(), harmless="harmless")
    cache, (images, texts) = TensorCache(data / "cache"), encoders()
    for number, (weight, given) in enumerate(((1.0, None), (1.0, splits.harmless), (0.0, None))):
        config = TrainConfig.from_dict({**QUICK, "anchor_weight": weight, "steps": 1})
        given_splits = replace(splits, harmless=given)
        pairs = encoded_pairs(given_splits, config, cache, images, texts, StructuredEncoder(), OneProcess())
        warned: list[str] = []
        Trainer(config, denoiser(), pairs.train, data / f"run-{number}").train(warn=warned.append)
        assert any("no harmless pictures" in sentence for sentence in warned) == (number == 0)
