"""A moving average of weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def warm_decay(decay: float, step: int) -> float:
    """The decay of update `step`, counted from 0: min(decay, (1 + step) / (10 + step)).

    The warm-up of TensorFlow's and diffusers' averages: without it a short run's average is mostly its start.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """An exponential moving average of `parameters`, beside them."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self.values = [parameter.detach().clone() for parameter in parameters]

    def update(self, decay: float) -> None:
        """Move towards the parameters as they are: average = decay * average + (1 - decay) * parameter."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def restore(self, values: Sequence[torch.Tensor]) -> None:
        """Raises ValueError for values of another number or shape."""
        if [value.shape for value in values] != [value.shape for value in self.values]:
            raise ValueError("an average of other weights")
        for value, stored in zip(self.values, values, strict=True):
            value.copy_(stored)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the parameters are their average."""
        current = [parameter.detach().clone() for parameter in self._parameters]
        self.put()
        try:
            yield
        finally:
            self._assign(current)

    def put(self) -> None:
        """Make the parameters their average, for good."""
        self._assign(self.values)

    @torch.no_grad()
    def _assign(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
