"""Prompts, viewers and strengths side by side: what there is to draw, and the tables that show it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..adapter.model import MAX_STRENGTH
from ..errors import PSAError
from ..files import some
from ..pictures import MAX_PIXELS
from .differences import marked
from .grid import Cell, labelled_table

MOST_PICTURES = 256
_BLANK = (232, 232, 232)

Pictures = Sequence[Sequence[Image.Image | None]]
"""A row for each prompt, a picture for each column; `None` where it is not drawn yet."""


@dataclass(frozen=True)
class Comparison:
    """Each prompt once without an adapter, and then for each viewer at each strength.

    Args:
        prompts: a row of the tables each.
        viewers: what they are called in the tables; nothing else of them is known here.
        strengths: of the adapter, 0 left out.
    """

    prompts: tuple[str, ...]
    viewers: tuple[str, ...]
    strengths: tuple[float, ...]

    @property
    def columns(self) -> list[tuple[int | None, float]]:
        """Viewer's number and strength, from left to right; the first column is nobody's, at strength 0."""
        return [(None, 0.0), *((viewer, each) for viewer in range(len(self.viewers)) for each in self.strengths)]

    @property
    def count(self) -> int:
        """Pictures in all."""
        return len(self.prompts) * len(self.columns)

    def check_count(self, size: tuple[int, int]) -> None:
        """Make sure that the tables stay within what can be drawn and looked at.

        Args:
            size: of a picture, (width, height) in pixels.

        Raises:
            PSAError: for more than `MOST_PICTURES` pictures, or more pixels than a picture may have.
        """
        most = min(MOST_PICTURES, MAX_PIXELS // (size[0] * size[1]))
        if self.count > most:
            raise PSAError(
                f"{self} would be drawn, and at most {most} of {size[0]} x {size[1]} pixels are compared at once. Take "
                "prompts, viewers or strengths away, or draw smaller pictures."
            )

    def __str__(self) -> str:
        prompts, viewers = _counted(len(self.prompts), "prompt"), _counted(len(self.viewers), "viewer")
        strengths = some(f"{each:g}" for each in self.strengths)
        return f"{_counted(self.count, 'picture')} ({prompts}: without PSA, and for {viewers} at strength {strengths})"

    def grid(self, pictures: Pictures, note: str = "") -> Image.Image:
        """All pictures in a table: a row for each prompt, a column for each viewer and strength."""
        return self._table([[(picture, "") for picture in row] for row in pictures], note)

    def differences(self, pictures: Pictures, note: str = "") -> Image.Image:
        """The same table, each picture `marked` where it differs from its row's first; the first as it is."""
        rows: list[list[tuple[Image.Image | None, str]]] = []
        for first, *others in pictures:
            rows.append([(first, "")])
            for other in others:
                if first is None or other is None:
                    rows[-1].append((None, ""))
                else:
                    picture, share = marked(first, other)
                    rows[-1].append((picture, f"{100 * share:.0f} % changed"))
        return self._table(rows, note)

    def _table(self, rows: Sequence[Sequence[tuple[Image.Image | None, str]]], note: str) -> Image.Image:
        size = next((picture.size for row in rows for picture, _ in row if picture is not None), (1, 1))
        blank = Image.new("RGB", size, _BLANK)
        cells = [[Cell(picture or blank, caption) for picture, caption in row] for row in rows]
        labels = [
            "without PSA" if viewer is None else f"{self.viewers[viewer]}\nstrength {strength:g}"
            for viewer, strength in self.columns
        ]
        return labelled_table(cells, self.prompts, labels, note)


def read_prompts(text: str) -> tuple[str, ...]:
    """One prompt a line, without the blanks around it; empty lines say nothing.

    Raises:
        PSAError: for none.
    """
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not prompts:
        raise PSAError("There is no prompt to compare with. Write one a line.")
    return prompts


def read_strengths(text: str) -> tuple[float, ...]:
    """A list such as `0, 0.5, 1`, in its order, each once; 0 is left out, since it is drawn in any case.

    Raises:
        PSAError: for anything else than numbers from -10 to 10, or none but 0.
    """
    words = [word for word in re.split(r"[,;\s]+", text) if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if not all(abs(number) <= MAX_STRENGTH for number in numbers):
        raise PSAError(
            f"Strengths must be numbers from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g} with commas between, such as "
            "0, 0.5, 1."
        )
    strengths = tuple(number for number in dict.fromkeys(numbers) if number)
    if not strengths:
        raise PSAError("There is no strength but 0, which is the model without PSA. Write one or more, such as 0.5, 1.")
    return strengths


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
