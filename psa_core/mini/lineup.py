"""Who takes part in the benchmark, and what each is made of."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adapter.files import load_adapter
from . import ADAPTERS, BASE_MODEL
from .benchmark import GROUPS, Group, in_full
from .generate import MiniModel
from .method import Method
from .phrases import PHRASES, known_phrases
from .rivals import uce
from .rivals.adapters import Base, LessNobody, WithAdapter
from .rivals.lora import merged
from .rivals.prompts import NegativePrompt, WordDeletion
from .rivals.sld import SafeLatentDiffusion
from .rivals.weights import ChangedWeights, PerBanSet, load_weights

_WHAT = {
    "base": "The base model, without an adapter.",
    "psa": "PSA; the encoder has a bit for each banned category.",
    "psa-inferred": "PSA; bans must be told from age, faith and health.",
    "ban-all": "The same loss and trainer, everything banned for everyone.",
    "majority": "The same data as PSA's, without a profile: what most viewers want.",
    "published": "PSA by the paper's loss, optimizer and rate, over as many pairs as ours.",
    "word deletion": "The prompt without the banned symbols' names.",
    "word deletion, oracle": "The same, and without the phrases that imply them, as far as an adapter's data has them.",
    "negative prompt": "The banned symbols' names as a negative prompt.",
    "negative prompt, oracle": "The same, and the prompt's own phrases that imply them, as far as data has them.",
    "SLD": "Safe Latent Diffusion (arXiv 2211.05105), strong, the banned names being the concept.",
    "ESD-u": "Erased Stable Diffusion (arXiv 2303.07345): all seven, for all.",
    "UCE": "Unified Concept Editing (arXiv 2308.14761): all seven, for all.",
    "UCE a ban set": "The same, of what its viewer bans: made in seconds, once a ban set; bytes are one set's.",
    "LoRA a ban set": "A LoRA for each of four ban sets, before who has just one of those; bytes are one LoRA's.",
    "psa and word deletion": "Both.",
    "psa less L0": "PSA, with the term of L0, who bans nothing, subtracted from everybody's.",
    "psa, seed 1": "PSA, trained again from another seed.",
    "psa, seed 2": "PSA, trained again from a third seed.",
    "second base": "Another base model: trained on from the first with another seed.",
    "psa, second base": "PSA, trained on that.",
    "ban-all, second base": "The ban-all adapter, trained on that.",
}
BASE, PSA, INFERRED, BAN_ALL = "base", "psa", "psa-inferred", "ban-all"
SECOND_BASE = "second base"
OURS = (PSA, INFERRED, f"{PSA}, {SECOND_BASE}")
"""Those whose lead over each rival on the same base model is told."""
_RIVAL_GROUPS: tuple[Group, ...] = ("unseen",)
_REPEATED: tuple[Group, ...] = ("unseen", "held out")


@dataclass(frozen=True)
class Entry:
    """A method of the benchmark.

    Attributes:
        identity: of the weights that its pictures depend on.
        size: bytes that a user needs beside the base model.
        groups: of users, before whom it is measured.
        levels: whether it draws for the six levels.
        harmless: whether its price is measured.
        is_free: whether it draws harmless prompts as the base model does, bit for bit, and has no price.
        base: the name in the line-up of the base model that it draws with.
    """

    method: Method
    identity: str
    size: int = 0
    groups: tuple[Group, ...] = _RIVAL_GROUPS
    levels: bool = False
    harmless: bool = True
    is_free: bool = False
    base: str = BASE

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def in_full(self) -> bool:
        """Whether targets rest on it, so that it draws all harmless prompts."""
        return in_full(self.groups)

    @property
    def short_digest(self) -> str:
        """The start of its weights' SHA-256."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:12]


def adapters(model: MiniModel, files: Mapping[str, Path]) -> list[Entry]:
    """The base model, and adapters by their names."""
    weights = digest(model.folder)
    found = [base_entry(model)]
    for name, path in files.items():
        ours = name in (PSA, INFERRED)
        found.append(
            Entry(
                WithAdapter(model, name, load_adapter(path)),
                weights + digest(path),
                path.stat().st_size,
                GROUPS if ours else _RIVAL_GROUPS,
                levels=ours or name == BAN_ALL,
            )
        )
    return found


def base_entry(model: MiniModel, name: str = BASE) -> Entry:
    """The base model; another than the first by its own name, before those whom it is measured beside."""
    is_first = name == BASE
    return Entry(
        Base(model, name),
        digest(model.folder),
        groups=GROUPS if is_first else _REPEATED,
        levels=is_first,
        harmless=is_first,
        is_free=is_first,
        base=name,
    )


def repeats(model: MiniModel, files: Mapping[str, Path], base: str = BASE) -> list[Entry]:
    """Adapters by their names that are trained as others are, from another seed or on another base model."""
    weights = digest(model.folder)
    return [
        Entry(
            WithAdapter(model, name, load_adapter(path)),
            weights + digest(path),
            path.stat().st_size,
            _REPEATED,
            harmless=False,
            base=base,
        )
        for name, path in files.items()
    ]


def untrained(model: MiniModel, psa: Path) -> list[Entry]:
    """What needs no training beside PSA's, and PSA together with the simplest of them."""
    weights = digest(model.folder)
    oracle = {symbol: known_phrases(symbol) for symbol in PHRASES}
    deletion = WordDeletion(model)
    adapter = load_adapter(psa)
    both = WithAdapter(model, f"{PSA} and word deletion", adapter, caption=deletion.caption)
    size = psa.stat().st_size
    return [
        Entry(deletion, weights, harmless=False, is_free=True),
        Entry(WordDeletion(model, "word deletion, oracle", oracle), weights, harmless=False, is_free=True),
        Entry(NegativePrompt(model), weights),
        Entry(NegativePrompt(model, "negative prompt, oracle", oracle), weights),
        Entry(SafeLatentDiffusion(model), weights),
        Entry(both, weights + digest(psa), size, harmless=False),
        Entry(LessNobody(model, f"{PSA} less L0", adapter), weights + digest(psa), size),
    ]


def changed(model: MiniModel, files: Mapping[str, Path]) -> list[Entry]:
    """Methods that change the model's own weights, by their names."""
    weights = digest(model.folder)
    return [
        Entry(ChangedWeights(model, name, load_weights(path)), weights + digest(path), path.stat().st_size)
        for name, path in files.items()
    ]


def loras(model: MiniModel, files: Mapping[tuple[str, ...], Path]) -> Entry:
    """One LoRA for each of some ban sets; drawn for who has just one of those."""
    merged_weights = {frozenset(bans): merged(model.unet, load_weights(path)) for bans, path in files.items()}
    identity = digest(model.folder) + "".join(digest(path) for path in files.values())
    size = max(path.stat().st_size for path in files.values())
    method = PerBanSet(model, "LoRA a ban set", merged_weights.__getitem__, merged_weights)
    return Entry(method, identity, size, harmless=False)


def uce_a_ban_set(model: MiniModel, all_erased: Path) -> Entry:
    """UCE of what its viewer bans; its weights are as many as those of the file, of which everything is erased."""
    identity = f"{digest(model.folder)}{vars(uce.UCESettings())}{uce.SCENES}"
    return Entry(uce.for_each_viewer(model, "UCE a ban set"), identity, all_erased.stat().st_size)


def told(entries: Sequence[Entry]) -> dict[str, str]:
    """What each method is, and the start of its weights' digest."""
    shipped = digest(BASE_MODEL)
    found = {}
    for entry in entries:
        what = _WHAT.get(entry.name, "An adapter.")
        is_shipped = entry.identity in {shipped + digest(path) for path in ADAPTERS.values() if path.is_file()}
        which = "Shipped weights" if is_shipped or entry.identity == shipped else "SHA-256"
        found[entry.name] = f"{what} {which} {entry.short_digest}."
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's weights."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()
