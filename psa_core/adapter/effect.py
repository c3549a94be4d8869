"""An effect: what an adapter does for one viewer, as keys and values, without the adapter and without the viewer.

It is what a studio hands out. Whoever has the adapter could try every profile against a file, so a file is made from
one invented stand-in for each set of banned categories: it tells that set and nothing else of anybody.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..encoders.embedding import UserEmbedding
from ..encoders.protocol import ProfileEncoder
from ..encoders.structured import InferredEncoder
from ..errors import PSAError
from ..files import atomic_path, existing_file, printable
from ..json_text import parse_json
from ..profile import UserProfile
from ..stand_ins import follows_from_person, stand_in
from ..tensor_files import content_digest, read_file, save_file
from .attention import UserKeyValue
from .files import adapter_id
from .model import PSAAdapter, check_layers, family_of

_FORMAT = "psa-effect"
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, eq=False, repr=False)
class PSAEffect:
    """Keys and values of one viewer and of nobody, a layer each, in checkpoint order.

    `layers` hold two rows: the viewer's, then the unconditional one's. `made_by` is the adapter's hash (`adapter_id`).
    """

    layers: Sequence[UserKeyValue]
    cross_attention_dim: int
    made_by: str

    @property
    def layer_widths(self) -> tuple[int, ...]:
        return tuple(layer.value.shape[-1] for layer in self.layers)

    @property
    def num_tokens(self) -> int:
        return self.layers[0].value.shape[1]

    def check_fits(self, layer_widths: Sequence[int], cross_attention_dim: int) -> None:
        """Raise PSAError unless a UNet with these cross-attention layers is one this effect was made for."""
        check_layers("effect", (self.layer_widths, self.cross_attention_dim), (layer_widths, cross_attention_dim))


def viewer_effect(adapter: PSAAdapter, encoder: ProfileEncoder, banned: Iterable[str]) -> PSAEffect:
    """The effect for whoever bans these categories, made from their stand-in.

    Raises:
        PSAError: for another encoder than the adapter's, or one that does not see what is banned and categories that
            follow from no person.
    """
    person = stand_in(banned)
    if encoder.id == InferredEncoder.id and not follows_from_person(person):
        raise PSAError(
            "The encoder structured-inferred does not see what is banned, and these categories follow from nobody's "
            "age, religion or conditions by the rules 'sage'. Use an adapter of the encoder structured, or other "
            "categories."
        )
    return _effect(adapter, adapter.user_tokens(encoder.encode([person])))


def strictest(profiles: Sequence[UserProfile]) -> UserProfile:
    """The stand-in for an audience: who bans all that any of the viewers does."""
    if not profiles:
        raise PSAError("An audience needs at least one viewer.")
    return stand_in({category for profile in profiles for category in profile.banned_categories})


def joined_effect(adapter: PSAAdapter, viewers: UserEmbedding) -> PSAEffect:
    """The effect for several viewers at once: one attention over all of their tokens (P, N) together.

    An adapter of one token has keys that were never trained, equal ones in published files: then it is the mean.
    """
    return _effect(adapter, adapter.user_tokens(viewers))


def mixed_effect(adapter: PSAAdapter, first: UserEmbedding, second: UserEmbedding, share: float) -> PSAEffect:
    """The effect between two viewers': `(1 - share) * tokens + share * tokens` of one embedding each.

    Raises:
        PSAError: for a share outside 0 to 1, or embeddings of several viewers.
    """
    if not 0 <= share <= 1:
        raise PSAError("The second viewer's share must be from 0 (the first alone) to 1 (the second alone).")
    if len(first) != 1 or len(second) != 1:
        raise PSAError("Mixing takes two embeddings of one viewer each. Encode each profile by itself.")
    return _effect(adapter, torch.lerp(adapter.user_tokens(first), adapter.user_tokens(second), share))


def _effect(adapter: PSAAdapter, tokens: torch.Tensor) -> PSAEffect:
    """The effect of all viewers of `tokens` (V, N, cross_attention_dim); nobody's come V times, to no effect."""
    with torch.inference_mode(False), torch.no_grad():
        rows = torch.stack([tokens, adapter.uncond_tokens(len(tokens))])
        return PSAEffect(adapter.joined_key_values(rows), adapter.cross_attention_dim, adapter_id(adapter))


def save_effect(effect: PSAEffect, path: Path | str) -> None:
    """Write an effect as `.safetensors`, atomically; the same effect gives the same bytes.

    One token a layer needs no keys and stays float32; several are float16, which takes as many bytes a token.

    Raises:
        PSAError: for another file ending, or values that are not finite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PSAError("Effects are saved as .safetensors: end the file's name with .safetensors.")
    tensors = {f"values.{number}": layer.value for number, layer in enumerate(effect.layers)}
    tensors |= {f"keys.{number}": layer.key for number, layer in enumerate(effect.layers) if layer.key is not None}
    tensors = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in tensors.items()}
    most = max(float(value.abs().max()) for value in tensors.values())
    if not most < float("inf"):
        raise PSAError("The effect holds NaN or infinite values. Use another copy of the adapter.")
    if effect.num_tokens > 1 and most < _HALF_MAX:
        tensors = {name: value.half() for name, value in tensors.items()}
    metadata = {
        "format": _FORMAT,
        "family": family_of(effect.cross_attention_dim),
        "cross_attention_dim": str(effect.cross_attention_dim),
        "layer_widths": json.dumps(effect.layer_widths),
        "adapter": effect.made_by,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {**metadata, "digest": content_digest(tensors, metadata)})


def load_effect(path: Path | str) -> PSAEffect:
    """Load an effect; its maths is float32.

    Raises:
        PSAError: for a file that is missing, truncated, damaged, or another kind of file.
    """
    path = existing_file(path, "effect file")
    name = printable(path.name)
    tensors, metadata = read_file(path)
    if metadata.get("format") != _FORMAT:
        raise PSAError(f"{name} is no effect file. Give one that PSA Save Effect or `psa effect` wrote.")
    digest = metadata.pop("digest", None)
    try:
        widths = parse_json(metadata["layer_widths"])
        dim = int(metadata["cross_attention_dim"])
        values = [tensors[f"values.{number}"] for number in range(len(widths))]
        keys = [tensors.get(f"keys.{number}") for number in range(len(widths))]
        several = values[0].shape[1] > 1
        shapes = [tuple(value.shape) for value in values]
        whole = (
            digest == content_digest(tensors, metadata)
            and shapes == [(2, values[0].shape[1], width) for width in widths]
            and all((key is not None) == several for key in keys)
            and all(key is None or key.shape == value.shape for key, value in zip(keys, values, strict=True))
            and all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
            and len(tensors) == len(values) * (1 + several)
            and dim > 0
        )
    except (KeyError, ValueError, TypeError, IndexError):
        whole = False
    if not whole:
        raise PSAError(f"{name} is damaged: it was changed, or not copied whole. Copy or make it again.")
    layers = [
        UserKeyValue(None if key is None else key.float(), value.float())
        for key, value in zip(keys, values, strict=True)
    ]
    return PSAEffect(layers, dim, metadata["adapter"])
