"""The bar that commands show."""

import sys
from typing import Any


class Bar:
    """tqdm, where `shown`: on the main process, over its own share."""

    def __init__(self, shown: bool, unit: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit=unit, disable=not shown)

    def show(self, done: int, total: int, message: str | None = None, **figures: str) -> None:
        """Move to `done` of `total`; `figures` stand beside the bar, `message` on a line of its own."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if figures:
            self._bar.set_postfix(figures)
        if message:
            self._bar.write(message)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()


def show_count(done: int, total: int) -> None:
    """How far a command is, on a terminal: for what needs no more than a number."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr)
