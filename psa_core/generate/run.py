"""Which pictures a prompt file makes, for whom, and drawing those that are not there yet."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..adapter.model import PSAAdapter
from ..encoders.embedding import UserEmbedding
from ..encoders.protocol import ProfileEncoder
from ..errors import PSAError
from ..files import NameTakenError, atomic_path, shown, sweep_parts
from ..json_text import digest, parse_json
from ..locks import turn_in
from ..own_key import keyed_hash
from ..pictures import write_picture
from ..profile import LEVELS, UserProfile
from ..prompts import Prompt
from ..seeds import draw_seed
from .painter import Painter, Settings

_FORMAT = "psa-generation-2"
_FIRST_FORMAT = "psa-generation-1"
_QUALITY = 95  # of JPEG and WebP
_RECORD = "generation.json"
_LONGEST_RECORD = 1 << 20  # bytes
_log = logging.getLogger(__name__)

Embed = Callable[[Sequence[Any]], UserEmbedding]
"""User_IDs -> an embedding with a row for each; `None` stands for everyone."""
Tell = Callable[[Sequence[Any]], Any]
"""User_IDs -> JSON-compatible data that stands for their embedding."""


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
                    f"The prompt {shown(prompt.file_name)} belongs to no user. Add a column user_id to the prompt "
                    "file, or draw for the levels."
                )
    return [Picture(prompt, folder / prompt.file_name, prompt.user_id if personal else None) for prompt in prompts]


def embed_with(encoder: ProfileEncoder, profiles: Mapping[Any, UserProfile]) -> Embed:
    """Encodes the users' profiles, which are given by User_ID, or by `None` for everyone.

    The function raises PSAError for a user who is not among `profiles`.
    """
    return lambda user_ids: encoder.encode(_profiles_of(user_ids, profiles))


def told_by_profile(profiles: Mapping[Any, UserProfile]) -> Tell:
    """What a `Record` is to stand for where profiles are encoded; the function raises as that of `embed_with`."""
    return lambda user_ids: [profile.to_dict() for profile in _profiles_of(user_ids, profiles)]


def told_by_embedding(embed: Embed) -> Tell:
    """What a `Record` is to stand for where embeddings are stored; the function raises as `embed` does."""

    def tell(user_ids: Sequence[str | None]) -> Any:
        return [user_ids, hashlib.sha256(embed(user_ids).vectors.numpy().tobytes()).hexdigest()]

    return tell


def _profiles_of(user_ids: Sequence[str | None], profiles: Mapping[Any, UserProfile]) -> list[UserProfile]:
    unknown = [user_id for user_id in user_ids if user_id not in profiles]
    if unknown:
        raise PSAError(f"The prompts' user {unknown[0]} is not in the users file. Add the user, or leave them out.")
    return [profiles[user_id] for user_id in user_ids]


def viewers_id(pictures: Sequence[Picture], levels: Sequence[str], tell: Tell, key: bytes) -> dict[str, str]:
    """Keyed hashes of what pictures depend on in their viewers: one a level, or one of all users.

    Args:
        key: the person's own. There are so few profiles that a plain hash could be tried with each.
    """
    groups = {f"level_{level[1:]}": [LEVELS[level].user_id] for level in levels}
    users = groups or {"users": list(dict.fromkeys(picture.user_id for picture in pictures))}
    return {name: keyed_hash(key, [name, tell(user_ids)]) for name, user_ids in users.items()}


@dataclass(frozen=True)
class Record:
    """What the pictures of a folder depend on, kept beside them as `generation.json`: nothing of any user.

    Args:
        model: the fingerprint of its parts.
        adapter: what it draws (`adapter_id`); `None` for the base model alone.
        encoder: the profile encoder's id; `None` for stored embeddings and without an adapter.
        prompts: `prompts_id` of the prompt file.
        viewers: `viewers_id` of whom the pictures are for, where that may change; further levels may join.
    """

    kind: str
    model: str
    adapter: str | None
    encoder: str | None
    prompts: str
    settings: Settings
    viewers: Mapping[str, str] = field(default_factory=dict)

    def claim(self, folder: Path, pictures: Sequence[Picture], first: Mapping[str, str | None] | None = None) -> None:
        """Write the record to `folder`, or find the same one there.

        Args:
            first: `adapter` and `prompts` as the record's first format had them: a folder that it stands in goes on.

        Raises:
            PSAError: where the folder's pictures were drawn otherwise, naming what differs, or by something else.
        """
        sweep_parts(folder)
        if self._is_noted(folder, first):
            return
        path = folder / _RECORD
        with turn_in(folder):
            if not path.exists():
                if any(picture.path.exists() for picture in pictures):
                    raise PSAError(
                        f"{folder} holds pictures of these names, but no generation.json that says how they were "
                        "drawn. Give another --out or --method, or move them away."
                    )
                with suppress(NameTakenError):  # where locks are none, another process may be faster
                    _write_record(path, self._data(), replace=False)
            if not self._is_noted(folder, first):
                there = _read_record(path)
                if "viewers" not in there:
                    _log.warning(
                        "%s was begun by an earlier version, which noted nothing of the viewers: see to it that their "
                        "profiles or embeddings are the same.",
                        folder,
                    )
                _write_record(path, {**there, "viewers": {**_viewers_in(there), **self.viewers}})

    def _data(self) -> dict[str, Any]:
        return {"format": _FORMAT, **vars(self), "settings": dict(self.settings), "viewers": dict(self.viewers)}

    def _is_noted(self, folder: Path, first: Mapping[str, str | None] | None) -> bool:
        """Whether this record stands in the folder, all its viewers included; raises PSAError where another does."""
        path = folder / _RECORD
        if not path.exists():
            return False
        now, there = self._data(), _read_record(path)
        if there.get("format") == _FIRST_FORMAT:
            now |= {"format": _FIRST_FORMAT, **(first or {})}
            there["settings"] = {name: each.default for name, each in Settings.model_fields.items()} | there["settings"]
        differing = _differences({**there, **there["settings"]}, {**now, **now["settings"]})
        noted = _viewers_in(there)
        others = [name for name, value in self.viewers.items() if noted.get(name, value) != value]
        if others:
            differing.append(
                f"the viewers' profiles or embeddings, or your key to compare them by ({', '.join(others)})"
            )
        if differing:
            raise PSAError(
                f"The pictures in {folder} were drawn otherwise. What differs: {', '.join(differing)}. Use the "
                "same again to go on, or give another --out or --method."
            )
        return noted.keys() >= self.viewers.keys()


def prompts_id(prompts: Sequence[Prompt], personal: bool) -> str:
    """A hash of what pictures depend on in a prompt file: names, captions and, where they are `personal`, users."""
    return digest([[prompt.file_name, prompt.caption, prompt.user_id if personal else None] for prompt in prompts])


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

    Which pictures are drawn together follows from `pictures` alone, not from what is missing: rounding depends on
    it, and a run that was stopped anywhere and goes on is to end with the same bytes.

    Args:
        open_painter: called only where there is something to draw.
        adapter, embed: what to draw with, and its users; without them the base model draws.
        progress: gets (pictures there, of how many).

    Raises:
        PSAError: as `Painter.draw` and `embed` do, or for a folder that cannot be written. What was drawn stays.
    """
    if batch_size < 1:
        raise PSAError("A batch holds at least 1 picture.")
    for folder in {picture.path.parent for picture in pictures}:
        sweep_parts(folder)
    missing = {picture for picture in pictures if not is_whole(picture.path)}
    done = len(pictures) - len(missing)
    if progress:
        progress(done, len(pictures))
    if not missing:
        return 0
    batches = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    batches = [batch for batch in batches if not missing.isdisjoint(batch)]
    user_ids = list(dict.fromkeys(picture.user_id for batch in batches for picture in batch))
    everyone = embed(user_ids) if adapter is not None and embed is not None else None  # to fail before the model loads
    rows = {user_id: row for row, user_id in enumerate(user_ids)}
    painter = open_painter()
    for batch in batches:
        users = None
        if everyone is not None:
            chosen = [rows[picture.user_id] for picture in batch]
            users = UserEmbedding(everyone.vectors[chosen], everyone.encoder_id)
        captions = [picture.prompt.caption for picture in batch]
        seeds = [draw_seed(settings.seed, picture.prompt.file_name) for picture in batch]
        images = painter.draw(captions, seeds, settings, adapter, users)
        for picture, image in zip(batch, images, strict=True):
            if picture not in missing:
                continue
            with atomic_path(picture.path) as temporary:
                write_picture(image, temporary, quality=_QUALITY)
            done += 1
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
    except (OSError, ValueError):  # also a name that this system has no signs for
        return False
    if head.startswith(b"\x89PNG"):
        return tail.endswith(b"IEND\xaeB`\x82")
    if head.startswith(b"RIFF"):
        return size >= int.from_bytes(head[4:8], "little") + 8
    return head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")


def _write_record(path: Path, record: Mapping[str, Any], replace: bool = True) -> None:
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _viewers_in(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("viewers") or {}


def _read_record(path: Path) -> dict[str, Any]:
    record = None
    with suppress(OSError, ValueError):
        if path.is_file():  # a pipe would be waited for
            with open(path, "rb") as file:
                record = parse_json(file.read(_LONGEST_RECORD))
    kinds = ("settings", dict), ("viewers", (dict, type(None)))
    if not isinstance(record, dict) or not all(isinstance(record.get(name), kind) for name, kind in kinds):
        raise PSAError(f"{path} is damaged. Draw into another folder: nothing says how these pictures were drawn.")
    return record


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, with both values where they are readable ones."""
    told = []
    for name, value in now.items():
        before = there.get(name)
        if name in ("settings", "viewers") or before == value:
            continue
        is_hash = name in ("format", "model", "adapter", "prompts")
        told.append(name if is_hash else f"{name} ({shown(str(before), 60)} there, {shown(str(value), 60)} now)")
    return told
