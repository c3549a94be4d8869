"""What a node shows of work that reports what it has done or waits for; all of it hears of Cancel."""

import time
from collections.abc import Callable

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from .say import say, this_node

_EVERY = 50  # a message for each step would cost more than the step
_SECONDS = 1.0  # between two sentences


def node_progress() -> Callable[[str, int, int], None]:
    """To be called with what is done, how many of it are, and of how many; raises where somebody pressed Cancel."""
    bar = ProgressBar(1)

    def show(_what: str, done: int, total: int) -> None:
        throw_exception_if_processing_interrupted()
        if done % _EVERY == 0 or done == total:
            bar.update_absolute(done, total)

    return show


class NodeWords:
    """Called with a sentence, in any thread, says it on the node that is being executed now, at most once a second.

    Raises where somebody pressed Cancel.
    """

    def __init__(self) -> None:
        self._node, self._said = this_node(), -_SECONDS

    def __call__(self, text: str) -> None:
        throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if now - self._said >= _SECONDS:
            self._said = now
            say(text, self._node)
