"""Standardised profile embeddings, without a word in the adapter's file."""

import torch

from ..adapter.model import PSAAdapter

_CONSTANT = 1e-6  # a coordinate that varies less than this share of its size does not vary


class Standardisation:
    """`z = (e - mean) / scale` over the training users, learned in z and saved in e.

    A language model's embeddings share a few huge coordinates that drown what differs between people.
    The adapter is trained on z. Its file must take raw e, as published ones do, so `fold` moves the
    statistics into user_proj's Linear: `W' = W / scale`, `b' = b - W' mean`; W'e + b' = Wz + b exactly.

    The unconditional row is `user_proj(zeros)` of the *raw* space. In z that is the point
    `-mean / scale`, not zero, and training must use the same point: `apply` is called on raw zeros.

    Args:
        mean, scale: (D,) float32.
    """

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        self.mean, self.scale = mean, scale

    @classmethod
    def fit(cls, embeddings: torch.Tensor, centre_all: bool = False) -> "Standardisation":
        """Over (U, D) embeddings; a coordinate that is the same for everyone stays as it is.

        `fold` writes the mean into the adapter's bias, where it could be read, and a coordinate that never varies
        would show what all these users answered: of a single user, everything. (`centre_all`: as runs that
        earlier versions began centred it all the same.)
        """
        values = embeddings.double()
        mean, scale = values.mean(0), values.std(0, correction=0)
        constant = scale <= _CONSTANT * values.abs().amax(0)
        scale[constant] = 1.0
        if not centre_all:
            mean[constant] = 0.0
        return cls(mean.float(), scale.float())

    @classmethod
    def none(cls, dim: int) -> "Standardisation":
        return cls(torch.zeros(dim), torch.ones(dim))

    def to(self, device: torch.device) -> "Standardisation":
        return Standardisation(self.mean.to(device), self.scale.to(device))

    def apply(self, embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings - self.mean) / self.scale

    @torch.no_grad()
    def fold(self, adapter: PSAAdapter) -> None:
        """Make `adapter`, trained on z, take raw embeddings; in place, computed in float64."""
        proj = adapter.user_proj.proj
        weight = proj.weight.double() / self.scale.to(proj.weight.device).double()
        proj.bias.copy_(proj.bias.double() - weight @ self.mean.to(weight.device).double())
        proj.weight.copy_(weight)
