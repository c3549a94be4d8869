"""Pairs of prompts in a file: two prompts of one scene, of which one shows a concept and one does not.

`prompts.jsonl` holds one JSON object a line, with the six fields of `PromptPair` under their names.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import PSAError
from ..json_lines import read_objects, write_objects
from ..schema import CATEGORIES
from .words import names_concept

NAMED, IMPLIED = "named", "implied"
ASKED = (NAMED, IMPLIED)
LONGEST_CONCEPT, LONGEST_PROMPT, LONGEST_MAKER = 100, 1000, 200  # characters
MOST_PAIRS = 200_000
# As editors and web pages have them.
_SPACES = re.compile("[\t \u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff]+")
_JOINERS = "\u200c\u200d"  # of Persian's and India's scripts, and of emoji; no other invisible sign belongs in a line


@dataclass(frozen=True)
class PromptPair:
    """Two prompts of one scene.

    Attributes:
        category: one of the seven, or `None` for a harmless scene: `concept` is then "", and both prompts are the same.
        concept: as the artist's list spells it.
        shows: the prompt that shows the concept.
        without: the same scene without it; it never names the concept.
        asked: "named" where all main words of the concept are in `shows` (`words.names_concept`), else "implied".
        made_by: what made it, such as "templates".

    Raises:
        PSAError: for anything else, prompts of more than a line or 1,000 characters included.
    """

    category: str | None
    concept: str
    shows: str
    without: str
    asked: str
    made_by: str

    def __post_init__(self) -> None:
        if self.category is not None and self.category not in CATEGORIES:
            raise PSAError(f"the category must be one of {', '.join(CATEGORIES)}, or null for a harmless scene.")
        check_line("shows", self.shows, LONGEST_PROMPT)
        check_line("without", self.without, LONGEST_PROMPT)
        check_line("made_by", self.made_by, LONGEST_MAKER)
        if self.asked not in ASKED:
            raise PSAError(f"'asked' must be {NAMED} or {IMPLIED}.")
        if self.category is None:
            if self.concept != "" or self.shows != self.without or self.asked != NAMED:
                raise PSAError(
                    "a harmless scene (category null) has an empty concept, the same prompt as 'shows' and as "
                    f"'without', and is asked {NAMED}."
                )
            return
        check_line("concept", self.concept, LONGEST_CONCEPT)
        if names_concept(self.without, self.concept):
            raise PSAError("the prompt 'without' names the concept. Take its words out.")
        if names_concept(self.shows, self.concept) != (self.asked == NAMED):
            has = "does not name" if self.asked == NAMED else "names"
            raise PSAError(f"it is asked {self.asked}, but the prompt 'shows' {has} the concept. Correct one of them.")
        if self.shows == self.without:
            raise PSAError("both prompts are the same. Let one of them show the concept.")


def check_line(what: str, text: object, longest: int) -> None:
    """Raise PSAError, naming `what`, unless `text` is one plain line of 1 to `longest` characters."""
    if not isinstance(text, str) or not text.strip() or text != text.strip():
        raise PSAError(f"'{what}' must be a text, not empty, and without spaces around it.")
    if len(text) > longest:
        raise PSAError(f"'{what}' has more than {longest} characters. Shorten it.")
    if not all(letter.isprintable() or letter in _JOINERS for letter in text):
        raise PSAError(f"'{what}' must be one line, without control characters.")


def plain_spaces(text: str) -> str:
    """A line with one plain space wherever somebody's editor has tabs, other kinds of spaces, or several."""
    return _SPACES.sub(" ", text).strip()


def write_prompt_pairs(path: Path | str, pairs: Iterable[PromptPair]) -> None:
    """Write pairs atomically, in their order; the same pairs give the same bytes.

    Raises:
        PSAError: where there is no pair, two have the same prompts, there are too many, or the file cannot be written.
    """
    pairs = list(pairs)
    _check_all(pairs, lambda number: f"pair {number}")
    write_objects(path, map(asdict, pairs))


def read_prompt_pairs(path: Path | str) -> list[PromptPair]:
    """Read a file of prompt pairs, in its order.

    Raises:
        PSAError: for a file without pairs or with more than 200,000, or naming the first line that is not one: no
            JSON object, a field that is missing or unknown, a pair that is not valid, or two prompts that an
            earlier line has.
    """
    pairs, numbers = [], []
    for number, data in read_objects(path, "file of prompt pairs", MOST_PAIRS):
        try:
            pairs.append(_pair(data))
        except PSAError as error:
            raise PSAError(f"{Path(path).name}, line {number}: {error}") from None
        numbers.append(number)
    _check_all(pairs, lambda index: f"{Path(path).name}, line {numbers[index - 1]}")
    return pairs


def _pair(data: Mapping[str, Any]) -> PromptPair:
    names = [field.name for field in fields(PromptPair)]
    if set(data) != set(names):
        raise PSAError(f"a pair has these fields and no other: {', '.join(names)}.")
    return PromptPair(**data)


def _check_all(pairs: Sequence[PromptPair], place: Callable[[int], str]) -> None:
    if not pairs:
        raise PSAError("There is no prompt pair. Give at least one.")
    if len(pairs) > MOST_PAIRS:
        raise PSAError(f"There are more than {MOST_PAIRS} prompt pairs. Make several files of them.")
    seen: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(pairs, start=1):
        before = seen.setdefault((pair.shows, pair.without), number)
        if before != number:
            raise PSAError(f"{place(number)}: the same two prompts as {place(before)}. Leave one of them out.")
