"""What a writer's answer must be to become a pair of prompts. Whatever else it says is refused, and goes nowhere."""

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from ..errors import PSAError
from ..files import appending
from ..json_text import parse_json
from ..replies import END_OF_THOUGHTS, object_in_reply, without_thoughts
from ..settings import BaseSettings
from .pairs import IMPLIED, NAMED, PromptPair, check_line
from .requests import LONGEST_WRITTEN, Request
from .words import ConceptNames, hints_by_word, main_words

LONGEST_ANSWER = 8192  # characters, thoughts aside
_LONGEST_LINE = 1 << 18
_BEGINNING = '{"check": "'  # of each line
_SEALED = re.compile(re.escape(_BEGINNING) + r'([0-9a-f]{32})", (.*)')
_FIRST_BEGINNING = '{"key": "'  # of lines of earlier versions, which had no digests
_SIGNS = frozenset(",.;'\"!?-&% ")  # of ASCII; brackets, slashes, colons and the like are somebody's markup, or a path
_QUOTES_AND_DASHES = ("Pd", "Pi", "Pf")
# And of other scripts: comma and full stop of China and Japan, Arabic comma, danda, ellipsis, ...
_FULL_STOPS = frozenset("\u3001\u3002\uff0c\uff1b\uff01\uff1f\u30fb\u2026\u060c\u061f\u0964")
_LEAST_SHARED = 0.5  # of the words of `without` that `shows` must have: it is the same scene


def _line(text: str) -> str:
    check_line("a prompt", text, LONGEST_WRITTEN)
    return text


def _check_signs(text: str, concept: str) -> None:
    """The concept itself may be of any signs, as the artist spells it."""
    for sign in text.replace(concept, " ") if concept else text:
        kind = unicodedata.category(sign)
        if not (kind[0] in "LMN" or kind in _QUOTES_AND_DASHES or sign in _SIGNS or sign in _FULL_STOPS):
            raise PSAError("a prompt holds signs other than letters, digits, commas and full stops.")


Written = Annotated[str, Field(description=f"a line of at most {LONGEST_WRITTEN} characters"), AfterValidator(_line)]


class _Answer(BaseSettings):
    what: ClassVar[str] = "key"
    where: ClassVar[str] = "The answer"


class _PairAnswer(_Answer):
    shows: Written
    without: Written


class _HarmlessAnswer(_Answer):
    prompt: Written


def read_answer(answer: str, request: Request, made_by: str, all_concepts: ConceptNames) -> PromptPair:
    """The pair in an answer. Category, concept and maker are not the answer's to say.

    Args:
        all_concepts: those that no prompt without the concept may name.

    Raises:
        PSAError: saying why it cannot be used, without a sentence of the answer.
    """
    if len(answer.rpartition(END_OF_THOUGHTS)[2]) > LONGEST_ANSWER:
        raise PSAError(f"the answer is longer than {LONGEST_ANSWER} characters.")
    if without_thoughts(answer) is None:
        raise PSAError("the answer ends in the middle of its thoughts.")
    kind = _HarmlessAnswer if request.concept is None else _PairAnswer
    names = sorted(kind.model_fields)
    found = object_in_reply(answer, names)
    if found is None:
        raise PSAError(f"the answer holds no JSON object with {' and '.join(names)}, or several.")
    if set(found) != set(names):
        raise PSAError(f"the JSON object has other keys than {' and '.join(names)}.")
    is_the_scene = request.makes(found)  # the artist's own words, markup and all
    said, concept = found if is_the_scene else dict(kind(**found)), request.concept
    if not is_the_scene:
        for text in said.values():
            _check_signs(text, concept.name if concept else "")
    if concept is None:
        pair = PromptPair(None, "", said["prompt"], said["prompt"], NAMED, made_by)
    else:
        pair = PromptPair(concept.category, concept.name, said["shows"], said["without"], request.asked, made_by)
        if request.asked == IMPLIED and hints_by_word(pair.shows, concept.name):
            raise PSAError("the prompt that should imply the concept holds words of it.")
        if not is_the_scene and not _is_same_scene(pair.shows, pair.without):
            raise PSAError("the two prompts are not of the same scene: they share too few words.")
    if all_concepts.any_in(pair.without):
        raise PSAError("the prompt without the concept names one of the list.")
    return pair


def _is_same_scene(shows: str, without: str) -> bool:
    there, words = set(main_words(shows)), set(main_words(without))
    if len(words) == 1:  # a script without spaces between words
        there, words = set(shows), set(without)
    return len(words & there) >= _LEAST_SHARED * len(words)


@dataclass(frozen=True)
class Answer:
    """An answer as it came, or its beginning, and whether it was cut off before its end."""

    text: str
    cut_off: bool = False


class AnswerLog:
    """Every answer as it came, with what made it and what became of it, in a file of one JSON object a line.

    An answer that is there is not asked for again. `check` is a digest of the line without it: one that was cut off,
    damaged or edited counts as absent. Of thoughts, and of what follows them, the first 8,192 characters each are kept.
    Without a file, in memory.

    Args:
        private: whether the file is to be readable by its owner alone (mode 0600).

    Raises:
        PSAError: where the file cannot be used, or is another's.
    """

    def __init__(self, path: Path | str | None = None, private: bool = False) -> None:
        self._path = None if path is None else Path(path)
        self._mode = 0o600 if private else 0o666
        self._answers: dict[str, Answer] = {}
        if self._path is not None and os.path.lexists(self._path):
            self._read(self._path)

    def get(self, key: str) -> Answer | None:
        """The answer that was kept under a key."""
        return self._answers.get(key)

    def keep(self, key: str, answer: Answer, about: dict[str, Any]) -> None:
        """Keep an answer under a key, with what is to be known of it.

        Raises:
            PSAError: where the file cannot be written.
        """
        thoughts, end, said = answer.text.rpartition(END_OF_THOUGHTS)
        kept = thoughts[:LONGEST_ANSWER] + end + said[: LONGEST_ANSWER + 1]  # one more: it stays too long
        self._answers[key] = Answer(kept, answer.cut_off)
        if self._path is None:
            return
        about = {**about, "characters": len(answer.text), "cut_off": answer.cut_off}
        data = {"key": key, **about, "answer": kept}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with appending(self._path, self._mode) as file:
                # In ASCII, since half a surrogate pair is no UTF-8. A line begins with its own end of line: the one
                # before may have been cut off.
                file.write(f"\n{_line_of(data)}")
        except OSError as error:
            raise PSAError(
                f"The answers cannot be kept in {self._path}: {error.strerror}. Make room or choose another place, and "
                "start again: what was answered is not asked again."
            ) from error

    def _read(self, path: Path) -> None:
        if path.is_symlink() or not path.is_file():  # before answers are asked for that could not be kept there
            raise PSAError(f"{path} is no file, but a link or something else. Move it, or choose another place.")
        strange = False  # something is there that is no part of a line of ours, such as a full disk cuts off
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                while line := file.readline(_LONGEST_LINE):
                    try:
                        data = _data_of(line)
                        self._answers[str(data["key"])] = Answer(str(data["answer"]), data.get("cut_off") is True)
                    except (ValueError, KeyError, TypeError, RecursionError):
                        beginnings = (_BEGINNING, _FIRST_BEGINNING)
                        strange |= not (line.startswith(beginnings) or _BEGINNING.startswith(line.rstrip()))
        except OSError as error:
            raise PSAError(f"The answers in {path} cannot be read: {error.strerror}. Check the file.") from error
        if strange and not self._answers:
            raise PSAError(f"{path} holds no answers of a prompt writer. Move it, or choose another place for them.")


def _line_of(data: dict[str, Any]) -> str:
    text = json.dumps(data)
    return f'{_BEGINNING}{_digest(text)}", {text[1:]}'


def _data_of(line: str) -> Any:
    """What a line says; raises ValueError where its digest does not fit. Lines of earlier versions have none."""
    if line.startswith(_FIRST_BEGINNING):
        return parse_json(line)
    sealed = _SEALED.fullmatch(line.rstrip())
    text = f"{{{sealed[2]}" if sealed else ""
    if not sealed or sealed[1] != _digest(text):
        raise ValueError("no line of ours")
    return parse_json(text)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
