"""What training reads of a record, encoded once: latents of both pictures, the caption, and the users' embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..dataset.sage import SageRecord, SageSplit
from ..encoders.embedding import UserEmbedding
from ..encoders.stored import StoredEncoder
from ..errors import PSAError
from ..pictures import cover, open_picture, picture_size, to_tensor
from .buckets import nearest_bucket
from .cache import TensorCache, cache_key
from .config import TrainConfig

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


def load_picture(path: Path, bucket: tuple[int, int], place: tuple[float, float]) -> tuple[torch.Tensor, list[int]]:
    """A picture resized to cover `bucket` (width, height) and cropped at `place`, shares of the slack in x and y.

    Returns:
        (3, H, W) float32 in [-1, 1], and SDXL's six size numbers: original height and width, crop top
        and left, target height and width; with the slack in x at the end, for the mirrored picture.
    """
    image = open_picture(path)
    try:
        part, whole, (left, top) = cover(image, bucket, place)
    except PSAError as error:
        raise PSAError(f"{path.name} cannot be cropped: {error} Leave its record out.") from None
    width, height = bucket
    return to_tensor([part])[0] * 2 - 1, [image.height, image.width, top, left, height, width, whole[0] - width]


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
            bucket, key = picture_key(record, config, images)
            if key not in cache:
                cache.put(key, _encode_pair(record, bucket, config, images, key))
        if progress:
            progress(chunk[-1][0] + 1, len(split))


def encode_users(split: SageSplit, encoder: Any) -> UserEmbedding:
    """A row for each of `split.profiles`: by a ProfileEncoder, or from a folder (a path) of `{User_ID}.npy` files."""
    if isinstance(encoder, str | Path):
        encoder = StoredEncoder(encoder)
    return encoder.encode(split.profiles)


def picture_key(record: SageRecord, config: TrainConfig, images: ImageEncoder) -> tuple[tuple[int, int], str]:
    bucket = nearest_bucket(*picture_size(record.chosen), config.resolution, config.bucket_step)
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
