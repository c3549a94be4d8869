"""Two or more viewers before one picture, by their tokens joined in one attention."""

from collections.abc import Mapping, Sequence

import torch

from ...adapter.hooks import contributions_added
from ...adapter.model import PSAAdapter
from ...diffusers_unet import cross_attention_layers
from ...profile import UserProfile
from ..generate import AT_ONCE, MiniModel
from ..method import Request
from .adapters import encoder_of


class Joined:
    """An adapter for audiences: each picture attends to the tokens of all of its viewers (`adapter.effect`).

    Args:
        audiences: the `User_ID` of who stands for an audience in requests -> its viewers, as many in each.
    """

    knows_viewer = True

    def __init__(
        self, model: MiniModel, name: str, adapter: PSAAdapter, audiences: Mapping[str, Sequence[UserProfile]]
    ) -> None:
        self.name, self._model, self._adapter, self._audiences = name, model, adapter, audiences
        self._encoder = encoder_of(adapter)

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return torch.cat([self._part(requests[n : n + AT_ONCE]) for n in range(0, len(requests), AT_ONCE)])

    def _part(self, requests: Sequence[Request]) -> torch.Tensor:
        audiences = [self._audiences[request.profile.user_id or ""] for request in requests]
        with torch.no_grad():
            rows = self._adapter.guidance_tokens(self._encoder.encode([who for those in audiences for who in those]))
            joined = self._adapter.joined_key_values(rows.unflatten(0, (2 * len(requests), -1)))
        with contributions_added(cross_attention_layers(self._model.unet), joined):
            return self._model.draw([r.prompt.caption for r in requests], [r.noise for r in requests])
