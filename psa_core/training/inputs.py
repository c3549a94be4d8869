"""What training reads of a record, encoded once: latents of both pictures, the caption, and the users' embeddings."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..dataset import PairSplit, Scene
from ..encoders.embedding import UserEmbedding
from ..encoders.protocol import ProfileEncoder
from ..errors import PSAError
from ..pictures import cover, open_picture, picture_size, to_tensor
from ..seeds import draw_seed
from .buckets import nearest_bucket
from .cache import TensorCache, cache_key
from .config import TrainConfig

_TEXTS_AT_ONCE = 16


@dataclass(frozen=True)
class ImageEncoder:
    """The VAE as the cache sees it.

    `encode` takes (B, 3, H, W) float32 in [-1, 1] and returns scaled latents (B, c, h, w), the mean of
    its posterior; `sample` draws from that with a generator of the CPU, where there is a posterior to
    draw from. `id` stands for the weights and everything else that the result depends on.
    """

    id: str
    encode: Callable[[torch.Tensor], torch.Tensor]
    sample: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None


@dataclass(frozen=True)
class TextEncoder:
    """The text encoders as the cache sees them.

    `encode` takes B captions and returns tensors of B rows: `text` (B, L, cross_attention_dim) and,
    for SDXL, `pooled` (B, P). `id` stands for the weights; `precision` for what else the result depends on, where a
    run's settings say it: the run is known by those.
    """

    id: str
    encode: Callable[[list[str]], dict[str, torch.Tensor]]
    precision: str = ""

    def key(self, caption: str) -> str:
        """A caption's key in the cache."""
        return cache_key("text", caption, self.id, *([self.precision] if self.precision else []))


def load_picture(
    path: Path,
    bucket: tuple[int, int],
    place: tuple[float, float],
    resize: str = "lanczos",
    content: bytes | None = None,
) -> tuple[torch.Tensor, list[int]]:
    """A picture resized to cover `bucket` (width, height) and cropped at `place`, shares of the slack in x and y.

    Args:
        content: the file's bytes, where they were read before.

    Returns:
        (3, H, W) float32 in [-1, 1], and SDXL's six size numbers: original height and width, crop top
        and left, target height and width; with the slack in x at the end, for the mirrored picture.
    """
    image = open_picture(path, content=content)
    try:
        part, whole, (left, top) = cover(image, bucket, place, Image.Resampling[resize.upper()])
    except PSAError as error:
        raise PSAError(f"{path.name} cannot be cropped: {error} Leave its record out.") from None
    width, height = bucket
    return to_tensor([part])[0] * 2 - 1, [image.height, image.width, top, left, height, width, whole[0] - width]


def fill_cache(
    split: PairSplit,
    cache: TensorCache,
    config: TrainConfig,
    images: ImageEncoder,
    texts: TextEncoder,
    rank: int = 0,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    held_out: bool = False,
) -> None:
    """Encode what the cache lacks: each scene's pictures and captions, once, and the empty caption.

    With several processes each takes every `processes`-th scene. `progress` gets (scenes done, of
    how many) and may raise to stop: what was encoded stays. The caption without the concept is for learning: a
    `held_out` split's is not encoded.
    """
    _encode_texts(cache, texts, [""])
    numbers = iter(range(rank, split.scenes, processes))
    while chunk := list(islice(numbers, _TEXTS_AT_ONCE)):
        scenes = [split.scene(number) for number in chunk]
        plain = [scene.plain for scene in scenes if scene.plain and config.plain_share and not held_out]
        _encode_texts(cache, texts, [scene.caption for scene in scenes] + plain)
        for number, scene in zip(chunk, scenes, strict=True):
            if entry_key(*picture_key(scene, config, images), config) not in cache:
                _encode_pair(scene, cache, config, images)
            if progress:
                progress(number + 1, split.scenes)


def encode_users(split: PairSplit, encoder: ProfileEncoder) -> UserEmbedding:
    """A row for each of `split.profiles`."""
    return encoder.encode(split.profiles)


def picture_key(scene: Scene, config: TrainConfig, images: ImageEncoder) -> tuple[tuple[int, int], str]:
    """The scene's bucket, and what its pictures are known by: the files' content. Where they lie does not count."""
    size = _unchanged(_size_of, scene.pictures[0]) if config.aspect == "kept" else None
    return _picture_key(size, [_unchanged(_hash_of, path) for path in scene.pictures], config, images)


def entry_key(bucket: tuple[int, int], key: str, config: TrainConfig) -> str:
    """The cache's key for pictures of this bucket and `picture_key`."""
    is_told = config.sizes == "fixed" and bucket != (config.resolution, config.resolution)
    return cache_key("sizes", key, config.resolution) if is_told else key


def _picture_key(
    size: tuple[int, int] | None, files: list[str], config: TrainConfig, images: ImageEncoder
) -> tuple[tuple[int, int], str]:
    bucket = (config.resolution, config.resolution)
    if size is not None:
        bucket = nearest_bucket(*size, config.resolution, config.bucket_step)
    drawn = "sample" if _sampled(config, images) else "mean"
    settings = (config.resize, config.crop, config.flip, config.sizes, drawn)
    return bucket, cache_key("pictures", files, bucket, *settings, images.id)


def _sampled(config: TrainConfig, images: ImageEncoder) -> bool:
    return config.latents == "sample" and images.sample is not None


def _unchanged(read: Callable[..., Any], path: Path) -> Any:
    """What `read` makes of the file, which is read once a process while it does not change."""
    try:
        stat = path.stat()
        return read(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    except OSError as error:
        raise _gone(path, error) from None


def _gone(path: Path, error: OSError) -> PSAError:
    return PSAError(f"{path} cannot be read any more: {error.strerror}. Put the picture back.")


@lru_cache(maxsize=1 << 18)
def _hash_of(path: Path, *_changes: int) -> str:
    """Of the bytes, wherever they lie. A change of the file changes its `ctime`, which no program can set back."""
    return _hash(path.read_bytes())


@lru_cache(maxsize=1 << 18)
def _size_of(path: Path, *_changes: int) -> tuple[int, int]:
    return picture_size(path)


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _encode_pair(scene: Scene, cache: TensorCache, config: TrainConfig, images: ImageEncoder) -> None:
    """Encode a scene's pictures. A file may change meanwhile: what is encoded are the bytes that the key stands for."""
    contents: dict[Path, bytes] = {}
    for path in scene.pictures:
        try:
            contents[path] = contents.get(path) or path.read_bytes()
        except OSError as error:
            raise _gone(path, error) from None
    first = scene.pictures[0]
    size = picture_size(first, contents[first]) if config.aspect == "kept" else None
    bucket, key = _picture_key(size, [_hash(contents[path]) for path in scene.pictures], config, images)
    cache.put(entry_key(bucket, key, config), _encoded_pair(scene, contents, bucket, config, images, key))


def _encoded_pair(
    scene: Scene,
    contents: Mapping[Path, bytes],
    bucket: tuple[int, int],
    config: TrainConfig,
    images: ImageEncoder,
    key: str,
) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(int(key, 16))
    place = (0.5, 0.5) if config.crop == "center" else (float(rng.random()), float(rng.random()))
    loaded = [load_picture(path, bucket, place, config.resize, content) for path, content in contents.items()]
    pixels = torch.stack([tensor for tensor, _ in loaded])
    sizes = torch.tensor([size for _, size in loaded], dtype=torch.int32)
    if config.sizes == "fixed":
        side = config.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side, 0]], dtype=torch.int32).repeat(len(loaded), 1)
    generator = torch.Generator().manual_seed(draw_seed(key, "latents")) if _sampled(config, images) else None
    result = {"latents": _encode_images(pixels, images, scene, generator), "sizes": sizes[:, :6].clone()}
    if config.flip:
        mirrored = sizes[:, :6].clone()
        mirrored[:, 3] = sizes[:, 6] - sizes[:, 3]
        latents = _encode_images(pixels.flip(-1), images, scene, generator)
        result |= {"latents_flipped": latents, "sizes_flipped": mirrored}
    if len(loaded) == 1:  # one picture as both
        return {name: torch.cat([value, value]) for name, value in result.items()}
    return result


def _encode_images(
    pixels: torch.Tensor, images: ImageEncoder, scene: Scene, generator: torch.Generator | None
) -> torch.Tensor:
    latents = images.sample(pixels, generator) if images.sample and generator else images.encode(pixels)
    if not torch.isfinite(latents).all():
        raise PSAError(
            f"The VAE turns the pictures of {scene.where} ({scene.pictures[0].name}) into NaN or infinite values. "
            "Use the VAE in float32 or bfloat16, or leave the record out."
        )
    return latents


def _encode_texts(cache: TensorCache, texts: TextEncoder, captions: list[str]) -> None:
    missing = [text for text in dict.fromkeys(captions) if texts.key(text) not in cache]
    if not missing:
        return
    encoded = texts.encode(missing)
    for row, caption in enumerate(missing):
        cache.put(texts.key(caption), {name: value[row].clone() for name, value in encoded.items()})
