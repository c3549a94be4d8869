"""Buckets, the common crop and flip, the cache, and the stream of batches."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import QUICK, dataset, encode_images, encode_texts, encoders, user, write_split
from torch.testing import assert_close

from psa_core import PSAError, StructuredEncoder
from psa_core.encoders.stored import StoredEncoder
from psa_core.processes import OneProcess
from psa_core.training import (
    ImageEncoder,
    PairDataset,
    TensorCache,
    TextEncoder,
    TrainConfig,
    encode_users,
    fill_cache,
    read_split,
)
from psa_core.training.assembly import encoded_pairs, read_splits
from psa_core.training.batches import PairBatches
from psa_core.training.buckets import buckets, nearest_bucket
from psa_core.training.inputs import load_picture

WHOLE = {
    "aspect": "kept",
    "resize": "lanczos",
    "latents": "mean",
    "sizes": "own",
}  # pictures as `recommended` reads them
CONFIG = TrainConfig.from_dict(QUICK | WHOLE)


def users(split):
    return encode_users(split, StructuredEncoder())


@pytest.fixture
def data(tmp_path):
    write_split(tmp_path, "train", range(4), 8)
    return tmp_path


def test_buckets_keep_area_step_and_aspect():
    sizes = buckets(512, 64)
    assert (512, 512) in sizes and len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % 64 == height % 64 == 0 and width * height <= 512**2 and 0.5 <= width / height <= 2


@pytest.mark.parametrize(
    ("picture", "bucket"), [((1000, 1000), (512, 512)), ((3000, 2000), (576, 448)), ((90, 900), (320, 640))]
)
def test_nearest_bucket(picture, bucket):
    width, height = nearest_bucket(*picture, 512, 64)
    assert (width, height) in buckets(512, 64)
    ratios = [abs(np.log(w / h) - np.log(picture[0] / picture[1])) for w, h in buckets(512, 64)]
    assert abs(np.log(width / height) - np.log(picture[0] / picture[1])) == pytest.approx(min(ratios))
    assert (width > height) == (bucket[0] > bucket[1])


def test_picture_is_covered_cropped_and_measured(tmp_path):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 64:] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    tensor, sizes = load_picture(tmp_path / "wide.png", (64, 64), (1.0, 0.5))
    assert tensor.shape == (3, 64, 64) and tensor.min() == 1.0  # the right half
    assert sizes == [64, 128, 0, 64, 64, 64, 64]


@pytest.mark.parametrize("crop", ["center", "random"])
def test_both_pictures_of_a_pair_get_one_crop_and_flip(data, crop):
    """Chosen and rejected are made the same picture: every view of them must then be the same too."""
    rng = np.random.default_rng(0)
    path = data / "train" / "user_0000000_Violence_square_0_s.png"
    Image.fromarray(rng.integers(0, 255, (80, 160, 3), np.uint8)).save(path)
    Image.open(path).save(data / "train" / "user_0000000_Violence_square_0_u.png")
    config = CONFIG.changed(crop=crop, caption_dropout=0.0)
    pairs = dataset(data, "train", config)
    views = [pairs[0, seed, 0] for seed in range(12)]
    assert all(torch.equal(view["latents"][0], view["latents"][1]) for view in views)
    assert all(torch.equal(view["sizes"][0], view["sizes"][1]) for view in views)
    assert len({view["latents"].numpy().tobytes() for view in views}) == 2  # as it is, and mirrored
    flipped = next(v["latents"] for v in views if not torch.equal(v["latents"], views[0]["latents"]))
    assert_close(flipped.flip(-1), views[0]["latents"])


def test_item_holds_what_was_encoded(data):
    pairs = dataset(data, "train", CONFIG.changed(flip=False, caption_dropout=0.0))
    record = read_split(data, "train")[3]
    item = pairs[3, 1, 0]
    pixels = torch.stack([load_picture(path, (64, 64), (0.5, 0.5))[0] for path in (record.chosen, record.rejected)])
    assert_close(item["latents"], encode_images(pixels))
    assert_close(item["conditioning"]["text"], encode_texts([record.caption])["text"][0])
    assert_close(item["embedding"], StructuredEncoder().encode([user(3)]).vectors[0])


def test_draws_are_a_function_of_the_seed_and_dropouts_have_their_rate(data):
    pairs = dataset(data, "train", CONFIG.changed(caption_dropout=0.25, profile_dropout=0.5))
    assert torch.equal(pairs[0, 7, 0]["noise"], pairs[0, 7, 0]["noise"])
    items = [pairs[0, seed, 0] for seed in range(400)]
    empty = encode_texts([""])["text"][0]
    no_caption = np.mean([torch.equal(item["conditioning"]["text"], empty) for item in items])
    no_profile = np.mean([not item["embedding"].any() for item in items])
    assert 0.17 < no_caption < 0.33 and 0.42 < no_profile < 0.58
    assert 0.45 < np.mean([item["when"] for item in items]) < 0.55
    held_out = dataset(data, "train", CONFIG.changed(caption_dropout=1.0), held_out=True)
    assert not torch.equal(held_out[0, 1, 0]["conditioning"]["text"], empty)


def test_cache_runs_each_encoder_once_and_survives_an_interrupt(data):
    calls = {"images": 0, "texts": []}

    def images(pixels):
        calls["images"] += 1
        if calls["images"] == 5:
            raise KeyboardInterrupt
        return encode_images(pixels)

    def texts(captions):
        calls["texts"] += captions
        return encode_texts(captions)

    split, cache = read_split(data, "train"), TensorCache(data / "cache")
    config = CONFIG.changed(flip=False)
    encode = ImageEncoder("vae", images), TextEncoder("text", texts)
    with pytest.raises(KeyboardInterrupt):
        fill_cache(split, cache, config, *encode)
    fill_cache(split, cache, config, *encode)
    fill_cache(split, cache, config, *encode)
    assert calls["images"] == 8 + 1  # one a pair, and the interrupted one
    assert sorted(calls["texts"]) == ["", "a busy market", "a quiet street", "a stormy sea"]


def test_cache_is_keyed_by_what_it_depends_on(data):
    split, cache = read_split(data, "train"), TensorCache(data / "cache")
    images, texts = encoders()
    fill_cache(split, cache, CONFIG, images, texts)
    PairDataset(split, cache, CONFIG, images, texts, users(split))
    record = split[0]
    others = [
        (CONFIG, replace(images, id="other vae"), texts),
        (CONFIG, images, replace(texts, id="other text")),
        (CONFIG.changed(crop="random"), images, texts),
        (CONFIG.changed(resolution=32), images, texts),
    ]
    for config, *encode in others:
        with pytest.raises(PSAError, match=r"Line 1 .* not in the cache"):
            PairDataset(split, cache, config, *encode, users(split))
    Image.new("RGB", (64, 64)).save(record.chosen)
    with pytest.raises(PSAError, match="not in the cache"):
        PairDataset(split, cache, CONFIG, images, texts, users(split))


def test_damaged_cache_entry_is_named(data):
    pairs = dataset(data, "train", CONFIG)
    for path in (data / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PSAError, match=r"cache entry .* damaged"):
        pairs[0, 0, 0]


def test_vae_that_overflows_is_refused(data):
    images, texts = encoders()
    broken = replace(images, encode=lambda pixels: encode_images(pixels) * float("nan"))
    with pytest.raises(PSAError, match=r"line 1 .*NaN"):
        fill_cache(read_split(data, "train"), TensorCache(data / "cache"), CONFIG, broken, texts)


def test_embeddings_from_a_folder_and_a_missing_one(data, tmp_path):
    folder = tmp_path / "embeds"
    folder.mkdir()
    for number in range(4):
        np.save(folder / f"{number:07d}.npy", np.full((1, 6), number, np.float32))
    split = read_split(data, "train", embeddings=folder)
    assert encode_users(split, StoredEncoder(folder)).vectors.tolist() == [[float(number)] * 6 for number in range(4)]
    (folder / "0000002.npy").unlink()
    with pytest.raises(PSAError, match=r"line 3: There is no embedding file .*0000002\.npy"):
        read_split(data, "train", embeddings=folder)
    assert len(read_split(data, "train", skip_bad=True, embeddings=folder).skipped) == 2
    np.save(folder / "0000002.npy", np.full((1, 7), 2, np.float32))
    with pytest.raises(PSAError, match="different sizes"):
        encode_users(read_split(data, "train", embeddings=folder), StoredEncoder(folder))


def test_anchor_rows_are_for_nobody_or_harmless(data):
    write_split(data, "harmless", range(50, 52), 2)
    config = CONFIG.changed(anchor_weight=1.0, flip=False, caption_dropout=0.0)
    alone = dataset(data, "train", config)[0, 3, 0]
    assert not alone["anchor_embedding"].any() and torch.equal(alone["anchor_latents"], alone["latents"][0])
    harmless = dataset(data, "harmless", config, held_out=True)
    pairs = dataset(data, "train", config, harmless=harmless)
    kinds = []
    for seed in range(200):
        item = pairs[0, seed, 0]
        if item["anchor_embedding"].any():
            assert torch.equal(item["anchor_embedding"], item["embedding"])
            kinds.append("harmless")
            assert any(torch.equal(item["anchor_latents"], harmless[i, 0, 0]["latents"][0]) for i in range(2))
        else:
            kinds.append("nobody")
    assert 130 <= kinds.count("harmless") <= 170  # three of four


def take(batches, count):
    return [next(batches) for _ in range(count)]


def test_batches_are_of_one_bucket_and_cover_every_pair_each_epoch():
    buckets_of = np.array([0] * 7 + [1] * 2 + [2])
    batches = take(PairBatches(buckets_of, 3, seed=1), 10)  # 3 + 1 + 1 batches an epoch
    epochs = batches[:5], batches[5:]
    for epoch in epochs:
        assert {index for batch in epoch for index, *_ in batch} == set(range(10))
        assert all(len(batch) == 3 and len({buckets_of[index] for index, *_ in batch}) == 1 for batch in epoch)
    assert epochs[0] != epochs[1]
    assert len({seed for batch in batches for _, seed, _ in batch}) == 30


def test_stream_of_batches_is_the_same_for_any_number_of_processes():
    buckets_of = np.zeros(11, int)
    whole = take(PairBatches(buckets_of, 2, seed=3), 12)
    shares = [take(PairBatches(buckets_of, 2, 3, rank, 3), 4) for rank in range(3)]
    assert [batch for together in zip(*shares, strict=True) for batch in together] == whole
    assert next(PairBatches(buckets_of, 2, 3, 1, 2, given=6)) == whole[7]


def test_reference_draws_repeat():
    draws = [place for batch in take(PairBatches(np.zeros(3, int), 3, 0, reference_draws=2), 40) for place in batch]
    assert len(set(draws)) == 6  # 3 pairs x 2 draws: each with one seed


def test_cache_is_filled_by_several_processes_together(data):
    split, cache, encode = read_split(data, "train"), TensorCache(data / "cache"), encoders()
    threads = [threading.Thread(target=fill_cache, args=(split, cache, CONFIG, *encode, r, 3)) for r in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(PairDataset(split, cache, CONFIG, *encode, users(split))) == 8


def test_two_profiles_under_one_user_id_stay_two(data):
    metadata = data / "train" / "metadata.jsonl"
    records = [json.loads(line) for line in metadata.read_text().splitlines()]
    records[0]["user_data"] = {**user(1).to_dict(), "User_ID": "0000000"}
    metadata.write_text("".join(json.dumps(record) + "\n" for record in records))
    pairs = dataset(data, "train", CONFIG)
    assert_close(pairs[0, 0, 0]["embedding"], StructuredEncoder().encode([user(1)]).vectors[0])
    assert_close(pairs[4, 0, 0]["embedding"], StructuredEncoder().encode([user(0)]).vectors[0])


def with_plain(folder, split="train"):
    """Each record with its caption without the concept."""
    metadata = folder / split / "metadata.jsonl"
    records = [json.loads(line) for line in metadata.read_text().splitlines()]
    lines = [json.dumps(record | {"caption_without": f"a wall of {split} {n}"}) for n, record in enumerate(records)]
    metadata.write_text("\n".join(lines) + "\n")


def test_under_the_caption_without_the_concept_everybody_prefers_the_safe_picture(data):
    with_plain(data)
    config = TrainConfig.from_dict(QUICK | WHOLE | {"plain_share": 0.5, "caption_dropout": 0.0, "flip": False})
    split, cache, (images, texts) = read_split(data, "train"), TensorCache(data / "cache"), encoders()
    fill_cache(split, cache, config, images, texts)
    pairs = PairDataset(split, cache, config, images, texts, users(split))
    plain = 0
    for index in range(len(pairs)):
        asked, scene = pairs.undrawn(index), split.scene(index)
        safe = asked["latents"].flip(0) if scene.safe else asked["latents"]
        own, without = (encode_texts([text])["text"][0] for text in (scene.caption, scene.plain))
        for seed in range(20):
            item = pairs[index, seed, 0]
            if torch.equal(item["conditioning"]["text"], without):
                plain += 1
                assert_close(item["latents"], safe)
            else:
                assert_close(item["conditioning"]["text"], own)
                assert_close(item["latents"], asked["latents"])
            assert item["swapped"] == (not torch.equal(item["latents"], asked["latents"]))
    assert {split.scene(index).safe for index in range(len(pairs))} == {0, 1}
    assert 0.3 < plain / (20 * len(pairs)) < 0.7
    off = PairDataset(split, cache, config.changed(plain_share=0.0), images, texts, users(split))
    assert off.id != pairs.id
    for index in range(len(pairs)):  # the draws of runs that know no such captions are what they were
        item, other = off[index, 3, 0], pairs[index, 3, 0]
        assert_close(item["noise"], other["noise"])
        assert item["when"] == other["when"]


def test_captions_without_the_concept_are_encoded_for_pairs_to_learn_from_alone(data):
    """Held-out figures and the anchor never ask for them; a split that is learned from, too, needs them."""
    write_split(data, "val", range(2), 2)
    write_split(data, "harmless", range(2), 2)
    for split in ("train", "val", "harmless"):
        with_plain(data, split)
    config = TrainConfig.from_dict(QUICK | {"plain_share": 0.5, "anchor_weight": 1.0})
    splits = read_splits(data, StructuredEncoder(), held_out=("train", "val"), harmless="harmless")
    asked, (images, texts) = [], encoders()

    def encode(captions):
        asked.extend(captions)
        return texts.encode(captions)

    cache = TensorCache(data / "cache")
    recording = replace(texts, encode=encode)
    pairs = encoded_pairs(splits, config, cache, images, recording, StructuredEncoder(), OneProcess())
    own = {scene.caption for split in splits.all for scene in map(split.scene, range(split.scenes))}
    plain = {splits.train.scene(number).plain for number in range(splits.train.scenes)}
    assert set(asked) == own | plain | {""} and len(plain) == 8
    held_out, caption = pairs.held_out["val"], splits.held_out["val"].scene(0).caption
    for seed in range(20):
        assert torch.equal(held_out[0, seed, 0]["conditioning"]["text"], encode_texts([caption])["text"][0])
