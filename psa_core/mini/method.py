"""What the benchmark asks of a method, and what a method is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..profile import UserProfile
from ..prompts import Prompt


@dataclass(frozen=True)
class Request:
    """One picture to draw: a prompt, its noise's seed, and who it is for."""

    prompt: Prompt
    noise: int
    profile: UserProfile

    @property
    def is_banned(self) -> bool:
        return any(category in self.profile.banned_categories for category in self.prompt.categories)


class Method(Protocol):
    """A way to draw for a viewer: what a user would do instead of something else.

    Attributes:
        name: as tables have it.
        knows_viewer: whether its pictures depend on who looks.
    """

    @property
    def name(self) -> str: ...

    @property
    def knows_viewer(self) -> bool: ...

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        """(B, 3, 128, 128) in [0, 1]; each picture is a function of its own request alone."""
        ...
