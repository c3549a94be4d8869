"""A node's bar, for work that reports what it has done."""

from collections.abc import Callable

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

_EVERY = 50  # a message for each step would cost more than the step


def node_progress() -> Callable[[str, int, int], None]:
    """To be called with what is done, how many of it are, and of how many; raises where somebody pressed Cancel."""
    bar = ProgressBar(1)

    def show(_what: str, done: int, total: int) -> None:
        throw_exception_if_processing_interrupted()
        if done % _EVERY == 0 or done == total:
            bar.update_absolute(done, total)

    return show
