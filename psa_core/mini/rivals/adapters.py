"""The base model, and adapters on it: PSA's by what its encoder knows of a viewer, and those that know nobody."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ...adapter.attention import UserKeyValue, user_attention
from ...adapter.model import PSAAdapter
from ...diffusers_unet import cross_attention_layers
from ...encoders.everyone import EveryoneEncoder
from ...encoders.protocol import ProfileEncoder
from ...encoders.structured import InferredEncoder, StructuredEncoder
from ...errors import PSAError
from ...profile import LEVELS
from ..generate import AT_ONCE, MiniModel
from ..method import Request

Caption = Callable[[Request], str]
"""What is drawn instead of the request's own prompt, such as `WordDeletion.caption`."""
NOBODY = LEVELS["L0"]
"""The profile that bans nothing."""


def encoder_of(adapter: PSAAdapter) -> ProfileEncoder:
    """The profile encoder that a mini adapter was trained on."""
    for encoder in (StructuredEncoder(), InferredEncoder(), EveryoneEncoder()):
        if adapter.encoder_id == encoder.id:
            return encoder
    raise PSAError(f"The mini world has no profile encoder '{adapter.encoder_id}', which this adapter was trained on.")


class Base:
    """The model as it is."""

    knows_viewer = False

    def __init__(self, model: MiniModel, name: str = "base") -> None:
        self.name, self._model = name, model

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return self._model.draw([r.prompt.caption for r in requests], [r.noise for r in requests])


class WithAdapter:
    """An adapter, for each viewer as its encoder sees them: ban-all and majority adapters see everyone alike.

    Args:
        caption: the prompt to draw, where it is another than the request's.
    """

    def __init__(
        self, model: MiniModel, name: str, adapter: PSAAdapter, strength: float = 1.0, caption: Caption | None = None
    ) -> None:
        self.name, self.model, self.adapter, self._strength = name, model, adapter, strength
        self._encoder, self._caption = encoder_of(adapter), caption or _own_caption
        self.knows_viewer = caption is not None or not isinstance(self._encoder, EveryoneEncoder)

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return self.model.draw(
            [self._caption(request) for request in requests],
            [request.noise for request in requests],
            self.adapter,
            self._encoder.encode([request.profile for request in requests]),
            self._strength,
        )


class LessNobody:
    """An adapter, less what it does for nobody: who bans nothing (L0) gets the base model's picture, bit for bit.

    In each cross-attention the viewer's term has L0's taken away, and guidance's unconditional rows have none. So it
    takes two terms a layer in place of one, where the adapter has several tokens.
    """

    knows_viewer = True

    def __init__(self, model: MiniModel, name: str, adapter: PSAAdapter, strength: float = 1.0) -> None:
        self.name, self._model, self._adapter, self._strength = name, model, adapter, strength
        self._encoder = encoder_of(adapter)

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return torch.cat([self._part(requests[n : n + AT_ONCE]) for n in range(0, len(requests), AT_ONCE)])

    def _part(self, requests: Sequence[Request]) -> torch.Tensor:
        profiles = [request.profile for request in requests]
        with torch.no_grad():
            viewers, nobody = (
                self._adapter.user_tokens(self._encoder.encode(people))
                for people in (profiles, [NOBODY] * len(profiles))
            )
        with difference_added(self._model.unet, self._adapter, viewers, nobody, self._strength):
            return self._model.draw([r.prompt.caption for r in requests], [r.noise for r in requests])


@contextmanager
def difference_added(
    unet: Any, adapter: PSAAdapter, viewers: torch.Tensor, nobody: torch.Tensor, strength: float = 1.0
) -> Iterator[None]:
    """Within the block the conditional rows of a guided batch get `strength * (Attn(viewers) - Attn(nobody))`.

    Args:
        viewers, nobody: (B, N, cross_attention_dim) tokens; the UNet is then given 2B rows, the unconditional first.
    """
    layers = cross_attention_layers(unet)
    adapter.check_fits([layer.to_q.out_features for layer in layers], layers[0].to_k.in_features)
    with ExitStack() as hooks, torch.no_grad():
        terms = (adapter.key_values(viewers), adapter.key_values(nobody))
        for layer, viewer, other in zip(layers, *terms, strict=True):
            for hook in _hook_layer(layer, viewer, other, strength):
                hooks.callback(hook.remove)
        yield


def _hook_layer(layer: Any, viewers: UserKeyValue, nobody: UserKeyValue, strength: float) -> list[Any]:
    query: list[torch.Tensor | None] = [None]

    def keep_query(_module, _inputs, output: torch.Tensor) -> None:
        query[0] = output.chunk(2)[1]

    def add(_module, inputs: tuple) -> tuple:
        plain, guided = inputs[0].chunk(2)
        terms = [user_attention(query[0], user, layer.heads) for user in (viewers, nobody)]
        return (torch.cat([plain, guided + strength * (terms[0] - terms[1])]), *inputs[1:])

    return [layer.to_q.register_forward_hook(keep_query), layer.to_out[0].register_forward_pre_hook(add)]


def _own_caption(request: Request) -> str:
    return request.prompt.caption
