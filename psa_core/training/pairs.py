"""From records to training items: buckets, one crop and flip for both pictures, cached tensors, seeded draws.

Every random choice is a function of the run's seed and the item's place in the endless stream of
pairs. So no generator has a state to save, and a resumed run draws what it would have drawn.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..dataset import PairSplit
from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from .cache import TensorCache, cache_key
from .config import TrainConfig
from .inputs import ImageEncoder, TextEncoder, entry_key, picture_key

_HARMLESS_SHARE = 0.75  # of the anchor's rows, where there are harmless pictures: nobody is one, and users are many


class PairDataset(Dataset):
    """A split's pairs as tensors, out of a filled cache; an item is asked for by (index, seed, draw).

    The seed is of all that is drawn at random in it; the draw numbers a pair's reference draws, and changes nothing.

    The settings that shape an item (dropouts, flip) are `config`'s, or off for a held-out split.
    `picture_keys`, `text_keys` and `plain_keys` (S,) are its scenes' in the cache, the last of captions without the
    concept ("" for none); `scene_ids`, `user_ids`, `bucket_ids` (N,) are its pairs'; `users` (U, D) holds the embedding
    of each distinct profile once. `id` stands for the content: pictures, captions and embeddings, wherever they lie.
    """

    def __init__(
        self,
        split: PairSplit,
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
        self.plain_share = 0.0 if held_out else config.plain_share
        self.harmless = harmless
        self.empty_text = texts.key("")
        size_ids: dict[tuple[int, int], int] = {}
        count = split.scenes
        self.picture_keys, self.text_keys, pictures, captions = (np.empty(count, "S32") for _ in range(4))
        self.plain_keys, self._safe_second = np.zeros(count, "S32"), np.zeros(count, bool)
        buckets = np.empty(count, np.int32)
        for number in range(count):
            scene = split.scene(number)
            bucket, key = picture_key(scene, config, images)
            pictures[number], captions[number] = key, cache_key("text", scene.caption, texts.id)
            self.picture_keys[number], self.text_keys[number] = entry_key(bucket, key, config), texts.key(scene.caption)
            buckets[number] = size_ids.setdefault(bucket, len(size_ids))
            if scene.plain and self.plain_share:
                self.plain_keys[number], self._safe_second[number] = texts.key(scene.plain), scene.safe == 1
            for key in (self.picture_keys[number], self.text_keys[number], self.plain_keys[number]):
                if key and key.decode() not in cache:
                    raise PSAError(
                        f"{scene.where[0].upper()}{scene.where[1:]} is not in the cache, or its files changed "
                        "meanwhile. Start again: what is missing is encoded anew."
                    )
        self.scene_ids, self.user_ids, self.swapped = split.examples()
        self.bucket_ids = buckets[self.scene_ids]
        self.sizes = list(size_ids)
        self.users, self.encoder_id = users.vectors, users.encoder_id
        digest = hashlib.blake2b(digest_size=16)
        shared = () if len(self) == count and not self.swapped.any() else (self.scene_ids, self.swapped)
        plain = (self.plain_keys, self._safe_second) if self.plain_share else ()
        for array in (pictures, captions, self.user_ids, self.users.numpy(), *shared, *plain):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.id = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.scene_ids)

    def __getitem__(self, place: tuple[int, int, int]) -> dict[str, Any]:
        """One pair, on the CPU.

        `latents` (2, c, h, w) chosen then rejected, `sizes` (2, 6), `noise` (c, h, w) shared by both,
        `when` in [0, 1) to become a timestep, `embedding` (D,), `conditioning` {name: (...)}; `swapped`, whether the
        chosen picture is the scene's second; with the anchor on the same of its row, under `anchor_`.
        """
        index, seed, _ = place
        generator = torch.Generator().manual_seed(seed)
        flip, drop_caption, drop_profile, when, anchor, which = torch.rand(6, generator=generator).tolist()
        latents, sizes = self._pictures(index, self.flip and flip < 0.5)
        noise = torch.randn(latents.shape[1:], generator=generator)
        plain = torch.rand((), generator=generator).item()  # last, so that earlier runs draw what they did
        text_key, swapped = self._asked(index, drop_caption < self.caption_dropout, plain < self.plain_share)
        embedding = self.users[self.user_ids[index]]
        item = {
            "latents": latents.flip(0) if swapped else latents,
            "sizes": sizes.flip(0) if swapped else sizes,
            "swapped": swapped,
            "noise": noise,
            "when": when,
            "embedding": torch.zeros_like(embedding) if drop_profile < self.profile_dropout else embedding,
            "conditioning": self.cache.get(text_key),
        }
        if self.anchored:
            item |= self._anchor(item, embedding, self.sizes[self.bucket_ids[index]], anchor, which)
        return item

    def undrawn(self, index: int) -> dict[str, Any]:
        """A pair as it is, nothing mirrored or dropped: `latents` (2, c, h, w) chosen then rejected, `sizes`,
        `conditioning`.
        """
        latents, sizes = self._chosen_first(index)
        return {"latents": latents, "sizes": sizes, "conditioning": self.cache.get(self._text_key(index))}

    def _asked(self, index: int, drop_caption: bool, plain: bool) -> tuple[str, bool]:
        """The key of the caption that a pair stands under, and whether the scene's second picture is then chosen."""
        scene, swapped = self.scene_ids[index], bool(self.swapped[index])
        if drop_caption:
            return self.empty_text, swapped
        if plain and self.plain_keys[scene]:
            return self.plain_keys[scene].decode(), bool(self._safe_second[scene])
        return self._text_key(index), swapped

    def _pictures(self, index: int, flipped: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and sizes of both pictures, in the scene's order."""
        names = ("latents_flipped", "sizes_flipped") if flipped else ("latents", "sizes")
        tensors = self.cache.get(self.picture_keys[self.scene_ids[index]].decode(), *names)
        latents, sizes = (tensors[name].float() for name in names)
        return latents, sizes

    def _chosen_first(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        latents, sizes = self._pictures(index, False)
        return (latents.flip(0), sizes.flip(0)) if self.swapped[index] else (latents, sizes)

    def _text_key(self, index: int) -> str:
        return self.text_keys[self.scene_ids[index]].decode()

    def _anchor(
        self, item: dict[str, Any], embedding: torch.Tensor, size: tuple[int, int], anchor: float, which: float
    ) -> dict[str, Any]:
        """A harmless picture for this user or, for some of the items, this pair's prompt for nobody."""
        harmless = self.harmless.of_size(size) if self.harmless is not None and anchor < _HARMLESS_SHARE else ()
        if self.harmless is None or not len(harmless):
            return {
                "anchor_latents": item["latents"][0],
                "anchor_sizes": item["sizes"][0],
                "anchor_embedding": torch.zeros_like(embedding),
                "anchor_conditioning": item["conditioning"],
            }
        index = int(harmless[int(which * len(harmless))])
        latents, sizes = self.harmless._chosen_first(index)
        return {
            "anchor_latents": latents[0],
            "anchor_sizes": sizes[0],
            "anchor_embedding": embedding,
            "anchor_conditioning": self.cache.get(self.harmless._text_key(index)),
        }

    def of_size(self, size: tuple[int, int]) -> np.ndarray:
        """Indices of the pairs in the bucket `size`."""
        if size not in self.sizes:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.bucket_ids == self.sizes.index(size))
