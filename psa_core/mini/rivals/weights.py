"""Methods that change the base model's own weights: their files, and drawing with them."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ...errors import PSAError
from ...files import atomic_path, existing_file
from ...json_text import parse_json
from ...tensor_files import read_file, save_file
from ..generate import MiniModel
from ..method import Request

Weights = Mapping[str, torch.Tensor]
"""A UNet's parameters by name, those that a method changes."""
BanSet = frozenset[str]
_FORMAT = "psa-mini-weights"


def save_weights(path: Path | str, weights: Weights, made: Mapping[str, Any]) -> None:
    """Write the weights, and as JSON what they were made of, in half precision as the base model's own."""
    with atomic_path(path) as temporary:
        halves = {name: value.half() for name, value in weights.items()}
        save_file(halves, temporary, {"format": _FORMAT, "made": json.dumps(dict(made), sort_keys=True)})


def load_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """Read the weights, in float32.

    Raises:
        PSAError: for a file that is missing, damaged, or of another kind.
    """
    tensors, _ = _read(path)
    return {name: value.float() for name, value in tensors.items()}


def made_otherwise(path: Path, made: Mapping[str, Any]) -> list[str]:
    """What of `made` the file's weights were made of otherwise, by its names.

    Raises:
        PSAError: as `load_weights` does.
    """
    _, metadata = _read(path)
    told = parse_json(metadata["made"])
    return [name for name, value in made.items() if told.get(name) != value]


def _read(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path = existing_file(path, "file of changed weights")
    tensors, metadata = read_file(path)
    if metadata.get("format") != _FORMAT or not all(torch.isfinite(value).all() for value in tensors.values()):
        raise PSAError(f"{path.name} holds no changed weights of the mini world's UNet. Make it anew.")
    return tensors, metadata


@contextmanager
def weights_changed(unet: Any, weights: Weights) -> Iterator[None]:
    """Within the block the UNet has these weights; afterwards its own, bit for bit.

    Raises:
        PSAError: for weights that this UNet does not have.
    """
    own = dict(unet.named_parameters())
    if not weights or any(name not in own or own[name].shape != value.shape for name, value in weights.items()):
        raise PSAError("These weights are of another UNet than this model's. Make them anew from this model.")
    before = {name: own[name].detach().clone() for name in weights}
    try:
        _assign(own, weights)
        yield
    finally:
        _assign(own, before)


@torch.no_grad()
def _assign(own: Mapping[str, torch.Tensor], weights: Weights) -> None:
    for name, value in weights.items():
        own[name].copy_(value)


class ChangedWeights:
    """The base model with other weights, for everybody alike: what ESD-u and UCE make."""

    knows_viewer = False

    def __init__(self, model: MiniModel, name: str, weights: Weights) -> None:
        self.name, self._model, self._weights = name, model, weights

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        with weights_changed(self._model.unet, self._weights):
            return self._model.draw([r.prompt.caption for r in requests], [r.noise for r in requests])


class PerBanSet:
    """For each viewer the base model with the weights of exactly their ban set.

    Args:
        weights_of: the weights of a ban set; none where nothing changes.
        sets: the ban sets that there are weights of; it draws for nobody else. `None`: for everybody.
    """

    knows_viewer = True

    def __init__(
        self,
        model: MiniModel,
        name: str,
        weights_of: Callable[[BanSet], Weights],
        sets: Collection[BanSet] | None = None,
    ) -> None:
        self.name, self._model, self._weights_of, self._sets = name, model, weights_of, sets

    def draws_for(self, request: Request) -> bool:
        return self._sets is None or _bans(request) in self._sets

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        if not all(map(self.draws_for, requests)):
            raise PSAError(f"'{self.name}' has no weights for these viewers' ban set. Ask those that draws_for names.")
        pictures: dict[int, torch.Tensor] = {}
        for bans in dict.fromkeys(map(_bans, requests)):
            of_set = [n for n, request in enumerate(requests) if _bans(request) == bans]
            captions, seeds = zip(*((requests[n].prompt.caption, requests[n].noise) for n in of_set), strict=True)
            weights = self._weights_of(bans)
            with weights_changed(self._model.unet, weights) if weights else nullcontext():
                pictures |= zip(of_set, self._model.draw(captions, seeds), strict=True)
        return torch.stack([pictures[n] for n in range(len(requests))])


def _bans(request: Request) -> BanSet:
    return frozenset(request.profile.banned_categories)
