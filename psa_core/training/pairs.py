"""From records to training items: buckets, one crop and flip for both pictures, cached tensors, seeded draws.

Every random choice is a function of the run's seed and the item's place in the endless stream of
pairs. So no generator has a state to save, and a resumed run draws what it would have drawn.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from ..embedding import UserEmbedding
from ..errors import PSAError
from .cache import TensorCache, cache_key
from .config import TrainConfig
from .records import SageRecord, SageSplit, user_embedding

MAX_ASPECT = 2.0
_HARMLESS_SHARE = 0.75  # of the anchor's rows, where there are harmless pictures: nobody is one, and users are many
_TEXTS_AT_ONCE = 16


@dataclass(frozen=True)
class ImageEncoder:
    """The VAE as the cache sees it.

    `encode` takes (B, 3, H, W) float32 in [-1, 1] and returns scaled latents (B, c, h, w); `id` stands
    for the weights and everything else that the result depends on.
    """

    id: str
    encode: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TextEncoder:
    """The text encoders as the cache sees them.

    `encode` takes B captions and returns tensors of B rows: `text` (B, L, cross_attention_dim) and,
    for SDXL, `pooled` (B, P).
    """

    id: str
    encode: Callable[[list[str]], dict[str, torch.Tensor]]


def draw_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of `parts` alone."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@lru_cache
def buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """(width, height) of every bucket: multiples of `step`, area <= resolution^2, aspect ratio <= 2."""
    sizes = []
    for width in range(step, int(resolution * math.sqrt(MAX_ASPECT)) + 1, step):
        height = resolution**2 // width // step * step
        if height and 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
            sizes.append((width, height))
    return tuple(sizes)


def nearest_bucket(width: int, height: int, resolution: int, step: int) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest to the picture's; of equals, the largest."""
    ratio = math.log(width / height)
    return min(buckets(resolution, step), key=lambda size: (abs(math.log(size[0] / size[1]) - ratio), -size[0]))


def load_picture(path: Path, bucket: tuple[int, int], place: tuple[float, float]) -> tuple[torch.Tensor, list[int]]:
    """A picture resized to cover `bucket` (width, height) and cropped at `place`, shares of the slack in x and y.

    Returns:
        (3, H, W) float32 in [-1, 1], and SDXL's six size numbers: original height and width, crop top
        and left, target height and width; with the slack in x at the end, for the mirrored picture.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    width, height = bucket
    scale = max(width / image.width, height / image.height)
    resized = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (round((whole - part) * share) for whole, part, share in zip(resized, bucket, place, strict=True))
    pixels = image.resize(resized, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    tensor = torch.from_numpy(np.asarray(pixels, np.float32).copy()).permute(2, 0, 1) / 127.5 - 1
    return tensor, [image.height, image.width, top, left, height, width, resized[0] - width]


def fill_cache(
    split: SageSplit,
    cache: TensorCache,
    config: TrainConfig,
    images: ImageEncoder,
    texts: TextEncoder,
    rank: int = 0,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Encode what the cache lacks: each pair's pictures and caption, once, and the empty caption.

    With several processes each takes every `processes`-th record. `progress` gets (records done, of
    how many) and may raise to stop: what was encoded stays.
    """
    _encode_texts(cache, texts, [""])
    records = islice(enumerate(split), rank, None, processes)
    while chunk := list(islice(records, _TEXTS_AT_ONCE)):
        _encode_texts(cache, texts, [record.caption for _, record in chunk])
        for _, record in chunk:
            bucket, key = _picture_key(record, config, images)
            if key not in cache:
                cache.put(key, _encode_pair(record, bucket, config, images, key))
        if progress:
            progress(chunk[-1][0] + 1, len(split))


def encode_users(split: SageSplit, encoder: Any) -> UserEmbedding:
    """A row for each of `split.profiles`: by a ProfileEncoder, or from a folder (a path) of `{User_ID}.npy` files."""
    if not isinstance(encoder, str | Path):
        return encoder.encode(split.profiles)
    rows = [user_embedding(Path(encoder), profile) for profile in split.profiles]
    if len({row.shape for row in rows}) > 1:
        raise PSAError(f"The embeddings in {encoder} are of different sizes. Make them with one encoder.")
    return UserEmbedding(torch.cat(rows))


class PairDataset(Dataset):
    """A split's pairs as tensors, out of a filled cache; an item is asked for by (index, seed, reference draw).

    The settings that shape an item (dropouts, flip) are `config`'s, or off for a held-out split.
    `users` (U, D) holds the embedding of each distinct profile once.
    """

    def __init__(
        self,
        split: SageSplit,
        cache: TensorCache,
        config: TrainConfig,
        images: ImageEncoder,
        texts: TextEncoder,
        users: UserEmbedding,
        held_out: bool = False,
        harmless: "PairDataset | None" = None,
    ) -> None:
        """`users` from `encode_users`; `harmless` is a split whose chosen pictures the anchor term keeps."""
        self.cache = cache
        self.flip = config.flip and not held_out
        self.caption_dropout = 0.0 if held_out else config.caption_dropout
        self.profile_dropout = 0.0 if held_out else config.profile_dropout
        self.anchored = config.anchor_weight > 0 and not held_out
        self.harmless = harmless
        self.reference_id: str | None = None  # set once the reference errors are in the cache
        self.empty_text = cache_key("text", "", texts.id)
        size_ids: dict[tuple[int, int], int] = {}
        rows = {profile: row for row, profile in enumerate(split.profiles)}
        count = len(split)
        self.picture_keys, self.text_keys = np.empty(count, "S32"), np.empty(count, "S32")
        self.bucket_ids, self.user_ids = np.empty(count, np.int32), np.empty(count, np.int32)
        for index, record in enumerate(split):
            bucket, self.picture_keys[index] = _picture_key(record, config, images)
            self.text_keys[index] = cache_key("text", record.caption, texts.id)
            self.bucket_ids[index] = size_ids.setdefault(bucket, len(size_ids))
            self.user_ids[index] = rows[record.profile]
            for key in (self.picture_keys[index], self.text_keys[index]):
                if key.decode() not in cache:
                    raise PSAError(
                        f"Line {record.line} of {split.name}/metadata.jsonl is not in the cache, or its files changed "
                        "meanwhile. Start again: what is missing is encoded anew."
                    )
        self.sizes = list(size_ids)
        self.users, self.encoder_id = users.vectors, users.encoder_id
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.picture_keys, self.text_keys, self.user_ids, self.users.numpy()):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.id = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.picture_keys)

    def __getitem__(self, place: tuple[int, int, int]) -> dict[str, Any]:
        """One pair, on the CPU.

        `latents` (2, c, h, w) chosen then rejected, `sizes` (2, 6), `noise` (c, h, w) shared by both,
        `when` in [0, 1) to become a timestep, `embedding` (D,), `conditioning` {name: (...)}; with the
        anchor on the same of its row, under `anchor_`; `reference_errors` (2,) where they are reused.
        """
        index, seed, draw = place
        generator = torch.Generator().manual_seed(seed)
        flip, drop_caption, drop_profile, when, anchor, which = torch.rand(6, generator=generator).tolist()
        latents, sizes = self._pictures(index, self.flip and flip < 0.5)
        text_key = self.empty_text if drop_caption < self.caption_dropout else self.text_keys[index].decode()
        embedding = self.users[self.user_ids[index]]
        item = {
            "latents": latents,
            "sizes": sizes,
            "noise": torch.randn(latents.shape[1:], generator=generator),
            "when": when,
            "embedding": torch.zeros_like(embedding) if drop_profile < self.profile_dropout else embedding,
            "conditioning": self.cache.get(text_key),
        }
        if self.anchored:
            item |= self._anchor(item, embedding, self.sizes[self.bucket_ids[index]], anchor, which)
        if self.reference_id:
            key = reference_key(self.reference_id, self.picture_keys[index], self.text_keys[index])
            item["reference_errors"] = self.cache.get(key)["errors"][draw]
        return item

    def _pictures(self, index: int, flipped: bool) -> tuple[torch.Tensor, torch.Tensor]:
        names = ("latents_flipped", "sizes_flipped") if flipped else ("latents", "sizes")
        tensors = self.cache.get(self.picture_keys[index].decode(), *names)
        return tensors[names[0]].float(), tensors[names[1]].float()

    def _anchor(
        self, item: dict[str, Any], embedding: torch.Tensor, size: tuple[int, int], anchor: float, which: float
    ) -> dict[str, Any]:
        """A harmless picture for this user or, for some of the items, this pair's prompt for nobody."""
        rows = self.harmless.rows_of_size(size) if self.harmless is not None and anchor < _HARMLESS_SHARE else ()
        if self.harmless is None or not len(rows):
            return {
                "anchor_latents": item["latents"][0],
                "anchor_sizes": item["sizes"][0],
                "anchor_embedding": torch.zeros_like(embedding),
                "anchor_conditioning": item["conditioning"],
            }
        index = int(rows[int(which * len(rows))])
        latents, sizes = self.harmless._pictures(index, False)
        return {
            "anchor_latents": latents[0],
            "anchor_sizes": sizes[0],
            "anchor_embedding": embedding,
            "anchor_conditioning": self.cache.get(self.harmless.text_keys[index].decode()),
        }

    def rows_of_size(self, size: tuple[int, int]) -> np.ndarray:
        """Indices of the pairs in the bucket `size`."""
        if size not in self.sizes:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.bucket_ids == self.sizes.index(size))


def reference_key(reference_id: str, picture_key: bytes, text_key: bytes) -> str:
    return cache_key("reference", reference_id, picture_key.decode(), text_key.decode())


class PairBatches:
    """The endless stream of batches of one process, as a stateful batch sampler.

    A batch holds pairs of one bucket. Each epoch shuffles anew; a bucket's last batch is filled up
    with pairs from that bucket's start, so every pair is seen at least once an epoch. Batch `b` of
    the stream goes to process `b mod processes`: the stream is the same for any number of them.
    """

    def __init__(
        self,
        bucket_ids: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        reference_draws: int = 0,
    ) -> None:
        self.bucket_ids, self.batch_size, self.seed = bucket_ids, batch_size, seed
        self.rank, self.processes, self.reference_draws = rank, processes, reference_draws
        self._given = 0  # batches given to all processes together
        self._epoch, self._batches = -1, np.empty((0, batch_size), np.int64)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return self

    def __next__(self) -> list[tuple[int, int, int]]:
        batch = self._given + self.rank
        self._given += self.processes
        epoch, row = divmod(batch, self._per_epoch())
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return [self._place(int(index), batch, j) for j, index in enumerate(self._batches[row])]

    def state_dict(self) -> dict[str, int]:
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._given = state["given"]

    def _per_epoch(self) -> int:
        _, counts = np.unique(self.bucket_ids, return_counts=True)
        return int(sum(-(-count // self.batch_size) for count in counts))

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng(draw_seed(self.seed, "epoch", epoch))
        batches = []
        for bucket in np.unique(self.bucket_ids):
            rows = rng.permutation(np.flatnonzero(self.bucket_ids == bucket))
            batches.append(np.resize(rows, (-(-len(rows) // self.batch_size), self.batch_size)))
        return rng.permutation(np.concatenate(batches))

    def _place(self, index: int, batch: int, j: int) -> tuple[int, int, int]:
        seed = draw_seed(self.seed, "pair", batch, j)
        if not self.reference_draws:
            return index, seed, 0
        draw = seed % self.reference_draws
        return index, reference_seed(self.seed, index, draw), draw


def reference_seed(seed: int, index: int, draw: int) -> int:
    """The seed of a pair's fixed draw: timestep, noise, flip and dropout, all of it."""
    return draw_seed(seed, "reference", index, draw)


def _picture_key(record: SageRecord, config: TrainConfig, images: ImageEncoder) -> tuple[tuple[int, int], str]:
    with Image.open(record.chosen) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap the sides
        width, height = reversed(image.size) if turned else image.size
    bucket = nearest_bucket(width, height, config.resolution, config.bucket_step)
    files = []
    for path in (record.chosen, record.rejected):
        stat = path.stat()
        files.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return bucket, cache_key("pictures", files, bucket, config.crop, config.flip, images.id)


def _encode_pair(
    record: SageRecord, bucket: tuple[int, int], config: TrainConfig, images: ImageEncoder, key: str
) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(int(key, 16))
    place = (0.5, 0.5) if config.crop == "center" else (float(rng.random()), float(rng.random()))
    loaded = [load_picture(path, bucket, place) for path in (record.chosen, record.rejected)]
    pixels = torch.stack([tensor for tensor, _ in loaded])
    sizes = torch.tensor([size for _, size in loaded], dtype=torch.int32)
    result = {"latents": _encode_images(pixels, images, record), "sizes": sizes[:, :6].clone()}
    if config.flip:
        mirrored = sizes[:, :6].clone()
        mirrored[:, 3] = sizes[:, 6] - sizes[:, 3]
        result |= {"latents_flipped": _encode_images(pixels.flip(-1), images, record), "sizes_flipped": mirrored}
    return result


def _encode_images(pixels: torch.Tensor, images: ImageEncoder, record: SageRecord) -> torch.Tensor:
    latents = images.encode(pixels)
    if not torch.isfinite(latents).all():
        raise PSAError(
            f"The VAE turns the pictures of line {record.line} ({record.chosen.name}) into NaN or infinite values. "
            "Use the VAE in float32 or bfloat16, or leave the record out."
        )
    return latents


def _encode_texts(cache: TensorCache, texts: TextEncoder, captions: list[str]) -> None:
    missing = [text for text in dict.fromkeys(captions) if cache_key("text", text, texts.id) not in cache]
    if not missing:
        return
    encoded = texts.encode(missing)
    for row, caption in enumerate(missing):
        cache.put(cache_key("text", caption, texts.id), {name: value[row].clone() for name, value in encoded.items()})
