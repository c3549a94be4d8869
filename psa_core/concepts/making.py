"""From concepts to pairs of prompts: each is asked for, checked, asked for again where it must be, else set aside."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..chat_server import TooLongAnswerError
from ..errors import PSAError
from ..files import shown
from ..json_lines import read_objects, write_objects
from ..replies import CutOffError
from ..seeds import draw_seed
from .answers import Answer, AnswerLog, read_answer
from .lists import Concept
from .pairs import IMPLIED, MOST_PAIRS, NAMED, PromptPair
from .requests import Request
from .scenes import SceneSource
from .words import ConceptNames
from .writers import PromptWriter

_HOPELESS = 20  # pairs set aside before the first one that was taken
_NAMED_IN_A_NOTE = 5
_LISTED = 20  # set-aside pairs that a summary lists


@dataclass(frozen=True)
class Counts:
    """How many pairs a concept gets, the share of them that only imply it, and how many harmless scenes there are.

    Raises:
        PSAError: for what cannot be.
    """

    pairs: int = 20
    implied: float = 0.25
    harmless: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, int) or self.pairs < 1:
            raise PSAError("A concept needs at least 1 pair of prompts.")
        if not isinstance(self.implied, int | float) or not 0 <= self.implied <= 1:
            raise PSAError("The share of implied prompts must be from 0 to 1.")
        if not isinstance(self.harmless, int) or self.harmless < 0:
            raise PSAError("The number of harmless scenes must not be negative.")


@dataclass(frozen=True)
class SetAside:
    """A pair that no answer was good enough for, and what was wrong with the last one."""

    category: str | None
    concept: str
    asked: str
    reason: str

    def __str__(self) -> str:
        what = f"{self.category}, {shown(self.concept, 60)} ({self.asked})" if self.category else "a harmless scene"
        return f"{what}: {self.reason}"


@dataclass(frozen=True)
class Prompts:
    """Pairs, those that were set aside, and what else there is to say."""

    pairs: list[PromptPair]
    set_aside: list[SetAside] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_prompts(
    concepts: Sequence[Concept],
    writer: PromptWriter,
    scenes: SceneSource,
    counts: Counts | None = None,
    seed: int = 0,
    log: AnswerLog | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Prompts:
    """Pairs of prompts for every concept, in the list's order, named ones first; harmless scenes after all.

    A pair depends on the seed, its concept, its number and the writer alone, unless it would be there twice. What
    `log` holds is not asked for again.

    Args:
        tell: called with (pairs done, of how many); what it raises ends the work, and `log` holds what was answered.

    Raises:
        PSAError: for no concept, too many pairs, an answer that cannot be had, or where none could be used.
    """
    counts, log = counts or Counts(), log or AnswerLog()
    if not concepts:
        raise PSAError("There is no concept to write prompts for.")
    total = len(concepts) * counts.pairs + counts.harmless
    if total > MOST_PAIRS:
        raise PSAError(f"That would be {total} pairs of prompts, and there can be {MOST_PAIRS}. Ask for fewer.")
    wanted = list(_wanted(concepts, writer, counts))
    maker = _Maker(concepts, writer, writer.identity(), scenes, seed, log)
    made = Prompts([], notes=_notes(concepts, writer, counts))
    for done, (concept, asked, number) in enumerate(wanted):
        if tell:
            tell(done, len(wanted))
        found = maker.make(concept, asked, number)
        if isinstance(found, SetAside):
            made.set_aside.append(found)
        else:
            made.pairs.append(found)
        if not made.pairs and len(made.set_aside) >= min(_HOPELESS, len(wanted)):
            raise PSAError(
                f"None of the answers of '{shown(writer.name)}' could be used. The last one: {made.set_aside[-1]} Use "
                "another writer, or change the list."
            )
    if tell:
        tell(len(wanted), len(wanted))
    return made


def write_set_aside(path: Path, made: Prompts) -> Path | None:
    """List all pairs that were set aside in a file, a JSON object a line; where there are none, an older list goes.

    Raises:
        PSAError: where it cannot be written.
    """
    if made.set_aside:
        write_objects(path, map(asdict, made.set_aside))
        return path
    if is_set_aside_list(path):
        path.unlink(missing_ok=True)
    return None


def is_set_aside_list(path: Path) -> bool:
    """Whether a file is a list that `write_set_aside` wrote, by its first line."""
    try:
        _, first = next(read_objects(path, "list of what was set aside", MOST_PAIRS))
    except (PSAError, StopIteration):
        return False
    return first.keys() == {each.name for each in fields(SetAside)}


def summary(made: Prompts, listed_in: Path | None = None) -> str:
    """What was made, in a few lines; `listed_in` is the file that lists all that were set aside."""
    kinds = [
        f"{sum(p.category is not None and p.asked == asked for p in made.pairs)} {asked}" for asked in (NAMED, IMPLIED)
    ]
    harmless = sum(pair.category is None for pair in made.pairs)
    concepts = len({(pair.category, pair.concept) for pair in made.pairs if pair.category})
    lines = [f"{len(made.pairs)} pairs of prompts for {concepts} concepts: {', '.join(kinds)}, {harmless} harmless"]
    lines += made.notes
    if made.set_aside:
        lines.append(f"{len(made.set_aside)} set aside{f', all of them listed in {listed_in}' if listed_in else ''}:")
        lines += [f"  {each}" for each in made.set_aside[:_LISTED]]
        lines += ["  ..."] * (len(made.set_aside) > _LISTED)
    return "\n".join(lines)


def _wanted(
    concepts: Sequence[Concept], writer: PromptWriter, counts: Counts
) -> Iterator[tuple[Concept | None, str, int]]:
    for concept in concepts:
        implied = round(counts.pairs * counts.implied) if concept.hints or not writer.needs_hints else 0
        yield from ((concept, NAMED, number) for number in range(counts.pairs - implied))
        yield from ((concept, IMPLIED, number) for number in range(implied))
    yield from ((None, NAMED, number) for number in range(counts.harmless))


def _notes(concepts: Sequence[Concept], writer: PromptWriter, counts: Counts) -> list[str]:
    bare = [shown(concept.name, 40) for concept in concepts if not concept.hints]
    if not (writer.needs_hints and bare and round(counts.pairs * counts.implied)):
        return []
    names = ", ".join(bare[:_NAMED_IN_A_NOTE]) + (", ..." if len(bare) > _NAMED_IN_A_NOTE else "")
    return [
        f"{len(bare)} concepts have no hints, and templates cannot imply them: their prompts all name them ({names}). "
        "Write hints after '=', or let a language model write."
    ]


class _Maker:
    def __init__(
        self,
        concepts: Sequence[Concept],
        writer: PromptWriter,
        identity: str,
        scenes: SceneSource,
        seed: int,
        log: AnswerLog,
    ) -> None:
        self._names = ConceptNames(concept.name for concept in concepts)
        self._writer, self._identity = writer, identity
        self._scenes, self._seed, self._log = scenes, seed, log
        self._seen: set[tuple[str, str]] = set()

    def make(self, concept: Concept | None, asked: str, number: int) -> PromptPair | SetAside:
        category, name = (concept.category, concept.name) if concept else (None, "")
        reason = None
        for attempt in range(self._writer.attempts):
            place = (self._seed, "prompts", category or "", name, asked, number, attempt)
            rng = np.random.default_rng(draw_seed(*place))
            request = Request(concept, asked, self._scenes.draw(rng), int(rng.integers(1 << 31)), reason)
            key = _key(self._identity, request, place)
            answer, is_new = self._answer(key, request)
            try:
                if answer.cut_off:
                    raise PSAError("the answer was cut off: it is longer than the model may write at once.")
                pair = read_answer(answer.text, request, self._writer.name, self._names)
                if (pair.shows, pair.without) in self._seen:
                    raise PSAError("the same two prompts are there already.")
                reason = None
            except PSAError as error:
                reason = str(error)
            if is_new:
                about: dict[str, Any] = {"category": category, "concept": name, "asked": asked, "number": number}
                about |= {"attempt": attempt + 1, **self._origin(request), "outcome": reason or "taken"}
                self._log.keep(key, answer, about)
            if reason is None:
                self._seen.add((pair.shows, pair.without))
                return pair
        return SetAside(category, name, asked, reason or "")

    def _origin(self, request: Request) -> dict[str, Any]:
        """What an answer comes from, so that it can be asked for again."""
        return {
            "made_by": self._writer.name,
            "writer": self._identity,
            "seed": self._seed,
            "scene": asdict(request.scene),
            "question": self._writer.question(request),
        }

    def _answer(self, key: str, request: Request) -> tuple[Answer, bool]:
        """The answer, and whether it is new."""
        kept = self._log.get(key)
        if kept is not None:
            return kept, False
        try:
            return Answer(self._writer.answer(request)), True
        except CutOffError as error:
            return Answer(error.text, cut_off=True), True
        except TooLongAnswerError as error:
            return Answer(error.text), True


def _key(identity: str, request: Request, place: Sequence[int | str]) -> str:
    parts = [identity, *place, request.scene.shows, request.scene.without, request.choice, request.refused]
    hints = request.concept.hints if request.concept else ()
    return hashlib.sha256(json.dumps([parts, hints]).encode()).hexdigest()[:32]
