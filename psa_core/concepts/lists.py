"""Lists of concepts: what some viewers should not see, as an artist writes it down.

A text file in UTF-8. A line that begins with `#` names one of the seven categories, and below it stands one concept a
line; phrases that hint at a concept without its words may follow after `=`, with `;` between them:

    # Shocking
    spider = eight legs on a web; a creature that waits in its web
    storm cloud
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import PSAError
from ..files import existing_file, shown
from ..schema import CATEGORIES, known_category
from ..spelling import plain_text
from .pairs import LONGEST_CONCEPT, LONGEST_PROMPT, check_line, plain_spaces
from .words import hints_by_word

PLACEHOLDERS = Path(__file__).parent / "placeholders.txt"
"""Mild stand-ins for the seven categories, to try things out with."""
MOST_CONCEPTS, MOST_HINTS = 10_000, 100
_MOST_BYTES = 4 << 20
_BULLET = re.compile("[-*+\u2022\u00b7\u2013\u2023\u25e6] ")
_NUMBER = re.compile(r"([0-9]{1,5})[.)] ")


@dataclass(frozen=True)
class Concept:
    """A thing of one of the seven categories; `hints` are phrases for it that hold none of its main words."""

    category: str
    name: str
    hints: tuple[str, ...] = ()


def read_concepts(path: Path | str) -> list[Concept]:
    """Read a list from a file; raises PSAError as `parse_concepts` does."""
    path = existing_file(path, "list of concepts")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PSAError(f"{path.name} is larger than {_MOST_BYTES >> 20} MiB, which no list of concepts is.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PSAError(f"The list of concepts {path.name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise PSAError(f"{path.name} is not text in UTF-8. Save it as UTF-8.") from None
    return parse_concepts(text, path.name)


def parse_concepts(text: str, where: str = "The list of concepts") -> list[Concept]:
    """The concepts of a text, in its order.

    Empty lines, spaces of any kind, bullets ("- ", "* ", ...), numbers in order ("1. ", "2. ", ...) and a byte order
    mark do no harm.

    Raises:
        PSAError: where there is none, or naming the first line that is wrong: an unknown category, a concept before
            any, one that an earlier line has (a picture has one category), or a hint that holds its concept's words.
    """
    concepts: dict[str, tuple[int, Concept]] = {}
    category, counted = None, 0
    for number, line in _lines(text):
        try:
            if line.startswith("#"):
                category = _category(line)
                continue
            if category is None:
                raise PSAError(
                    f"a concept stands before any category. Write one over it, such as '# {CATEGORIES[-1]}'."
                )
            line, counted = _without_bullet(line, counted)
            concept = _concept(category, line)
            before, known = concepts.setdefault(plain_text(concept.name), (number, concept))
            if before != number:
                raise PSAError(
                    f"'{shown(concept.name)}' is in line {before} already, under {known.category}. A picture has one "
                    "category: leave one of the two out."
                )
            if len(concepts) > MOST_CONCEPTS:
                raise PSAError(f"there are more than {MOST_CONCEPTS} concepts. Make several lists of them.")
        except PSAError as error:
            raise PSAError(f"{where}, line {number}: {error}") from None
    if not concepts:
        raise PSAError(f"{where} holds no concept. Write one a line, below its category, such as '# {CATEGORIES[-1]}'.")
    return [concept for _, concept in concepts.values()]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered from 1, without empty ones. Only the ends of line that editors write count as such."""
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = enumerate(map(plain_spaces, plain.split("\n")), start=1)
    return ((number, line) for number, line in lines if line)


def _without_bullet(line: str, counted: int) -> tuple[str, int]:
    """A line of a list without what marks it as one, and the number that it has there, or else `counted`. A number that
    is not the next one is part of the name."""
    if bullet := _BULLET.match(line):
        return line[bullet.end() :], counted
    number = _NUMBER.match(line)
    if number and int(number[1]) in (1, counted + 1):
        return line[number.end() :], int(number[1])
    return line, counted


def _category(line: str) -> str:
    known = known_category(line)
    if known is None:
        raise PSAError(f"'{shown(line, 40)}' is no category. There are: {', '.join(CATEGORIES)}.")
    return known


def _concept(category: str, line: str) -> Concept:
    name, equals, rest = (part.strip() for part in line.partition("="))
    check_line("the concept", name, LONGEST_CONCEPT)
    hints = tuple(hint.strip() for hint in rest.split(";") if hint.strip())
    if equals and not hints:
        raise PSAError("there is no hint after '='. Write one, or leave '=' out.")
    if len(hints) > MOST_HINTS:
        raise PSAError(f"there are more than {MOST_HINTS} hints. Leave some out.")
    for hint in hints:
        check_line("a hint", hint, LONGEST_PROMPT // 2)
        if hints_by_word(hint, name):
            raise PSAError(f"the hint '{shown(hint, 60)}' holds words of its concept. Say it in others.")
    return Concept(category, name, hints)
