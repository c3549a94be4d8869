"""Which pictures a prompt file makes, for whom, and drawing those that are not there yet."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapter.model import PSAAdapter
from ..encoders.embedding import UserEmbedding, load_embedding
from ..errors import PSAError
from ..files import atomic_path
from ..profile import LEVELS, UserProfile
from ..prompts import Prompt
from ..seeds import draw_seed
from .painter import Painter, Settings

_FORMAT = "psa-generation-1"
_QUALITY = 95  # of JPEG and WebP

Embed = Callable[[Sequence[str | None]], UserEmbedding]
"""User_IDs -> an embedding with a row for each; `None` stands for everyone."""


@dataclass(frozen=True)
class Picture:
    """One file to draw: a prompt for a viewer, `None` where nobody in particular looks."""

    prompt: Prompt
    path: Path
    user_id: str | None = None


def plan(prompts: Sequence[Prompt], folder: Path, levels: Sequence[str] = (), personal: bool = False) -> list[Picture]:
    """The pictures of `prompts` in `folder`: for each level in `level_N`, or `personal`, each for its prompt's user.

    Raises:
        PSAError: for an unknown level, or naming the first prompt that is to be personal and has no user.
    """
    unknown = [level for level in levels if level not in LEVELS]
    if unknown:
        raise PSAError(f"There is no level {unknown[0]}. There are: {', '.join(LEVELS)}.")
    if levels:
        viewers = [(f"level_{level[1:]}", LEVELS[level].user_id) for level in dict.fromkeys(levels)]
        return [Picture(prompt, folder / name / prompt.file_name, user) for prompt in prompts for name, user in viewers]
    if personal:
        for prompt in prompts:
            if prompt.user_id is None:
                raise PSAError(
                    f"The prompt {prompt.file_name} belongs to no user. Add a column user_id to the prompt file, or "
                    "draw for the levels."
                )
    return [Picture(prompt, folder / prompt.file_name, prompt.user_id if personal else None) for prompt in prompts]


def embed_stored(folder: Path | str) -> Embed:
    """Looks embeddings up as `{User_ID}.npy` in `folder`, the published kind.

    The function raises PSAError for a user whose file is missing, damaged or of another size than the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PSAError(f"There is no folder of profile embeddings at {folder}.")

    def embed(user_ids: Sequence[str | None]) -> UserEmbedding:
        rows = []
        for user_id in user_ids:
            stored = load_embedding(folder / f"{user_id}.npy")
            if len(stored) != 1:
                raise PSAError(f"{user_id}.npy holds {len(stored)} embeddings; one user has one.")
            rows.append(stored.vectors)
        if len({row.shape for row in rows}) > 1:
            raise PSAError(f"The embeddings in {folder} are of different sizes. Make them with one encoder.")
        return UserEmbedding(torch.cat(rows))

    return embed


def embed_with(encoder: Any, profiles: Mapping[str | None, UserProfile]) -> Embed:
    """Encodes the users' profiles with a ProfileEncoder.

    The function raises PSAError for a user who is not among `profiles`.
    """

    def embed(user_ids: Sequence[str | None]) -> UserEmbedding:
        unknown = [user_id for user_id in user_ids if user_id not in profiles]
        if unknown:
            raise PSAError(f"The prompts' user {unknown[0]} is not in the users file. Add the user, or leave them out.")
        return encoder.encode([profiles[user_id] for user_id in user_ids])

    return embed


@dataclass(frozen=True)
class Record:
    """What the pictures of a folder depend on, kept beside them as `generation.json`: nothing of any user.

    Args:
        model, adapter: hashes of their files; `adapter` is `None` for the base model alone.
        encoder: the profile encoder's id; `None` for stored embeddings and without an adapter.
        prompts: the hash of the prompt file's rows.
    """

    kind: str
    model: str
    adapter: str | None
    encoder: str | None
    prompts: str
    settings: Settings

    def claim(self, folder: Path, pictures: Sequence[Picture]) -> None:
        """Write the record to `folder`, or find the same one there.

        Raises:
            PSAError: where the folder's pictures were drawn otherwise, naming what differs, or by something else.
        """
        path = folder / "generation.json"
        now = {"format": _FORMAT, **vars(self), "settings": vars(self.settings)}
        if path.exists():
            there = _read_record(path)
            differing = _differences({**there, **there["settings"]}, {**now, **vars(self.settings)})
            if differing:
                raise PSAError(
                    f"The pictures in {folder} were drawn otherwise. What differs: {', '.join(differing)}. Use the "
                    "same again to go on, or give another --out or --method."
                )
            return
        if any(picture.path.exists() for picture in pictures):
            raise PSAError(
                f"{folder} holds pictures of these names, but no generation.json that says how they were drawn. Give "
                "another --out or --method, or move them away."
            )
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


def draw_missing(
    pictures: Sequence[Picture],
    open_painter: Callable[[], Painter],
    settings: Settings,
    batch_size: int,
    adapter: PSAAdapter | None = None,
    embed: Embed | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Draw the pictures that are not there whole, and return how many these were.

    Args:
        open_painter: called only where there is something to draw.
        adapter, embed: what to draw with, and its users; without them the base model draws.
        progress: gets (pictures there, of how many).

    Raises:
        PSAError: as `Painter.draw` and `embed` do, or for a folder that cannot be written. What was drawn stays.
    """
    if batch_size < 1:
        raise PSAError("A batch holds at least 1 picture.")
    missing = [picture for picture in pictures if not is_whole(picture.path)]
    done = len(pictures) - len(missing)
    if progress:
        progress(done, len(pictures))
    if not missing:
        return 0
    user_ids = list(dict.fromkeys(picture.user_id for picture in missing))
    everyone = embed(user_ids) if adapter is not None and embed is not None else None  # to fail before the model loads
    rows = {user_id: row for row, user_id in enumerate(user_ids)}
    painter = open_painter()
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        users = None
        if everyone is not None:
            chosen = [rows[picture.user_id] for picture in batch]
            users = UserEmbedding(everyone.vectors[chosen], everyone.encoder_id)
        captions = [picture.prompt.caption for picture in batch]
        seeds = [draw_seed(settings.seed, picture.prompt.file_name) for picture in batch]
        images = painter.draw(captions, seeds, settings, adapter, users)
        for picture, image in zip(batch, images, strict=True):
            with atomic_path(picture.path) as temporary:
                image.save(temporary, quality=_QUALITY)
        done += len(batch)
        if progress:
            progress(done, len(pictures))
    return len(missing)


def is_whole(path: Path) -> bool:
    """Whether a picture is there to its last byte; ours always are, but a copy may have been cut off."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
            size = file.seek(0, os.SEEK_END)
            file.seek(-min(size, 12), os.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    if head.startswith(b"\x89PNG"):
        return tail.endswith(b"IEND\xaeB`\x82")
    if head.startswith(b"RIFF"):
        return size >= int.from_bytes(head[4:8], "little") + 8
    return head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")


def digest(value: Any) -> str:
    """A hash of JSON-compatible data."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise PSAError(f"{path} is damaged. Draw into another folder: nothing says how these pictures were drawn.")
    return record


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, with both values where they are readable ones."""
    told = []
    for name, value in now.items():
        before = there.get(name)
        if name == "settings" or before == value:
            continue
        is_hash = name in ("format", "model", "adapter", "prompts")
        told.append(name if is_hash else f"{name} ({before} there, {value} now)")
    return told
