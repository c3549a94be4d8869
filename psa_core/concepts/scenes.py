"""Scenes that prompts are made of: the same words with a place for a concept, and without it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import PSAError
from ..files import existing_file, shown, some
from .pairs import LONGEST_PROMPT, check_line, plain_spaces

SCENES = Path(__file__).parent / "scenes.txt"
"""Everyday scenes, in the form that `TemplateScenes` reads."""
_SLOTS = ("concept", "a concept")
_NAME = re.compile(r"\{([^{}]*)\}")
_DEFINED = re.compile(r"([a-z][a-z ]*?)\s*=\s*(.*)")
_MOST_BYTES = 1 << 20
_DETERMINERS = frozenset(
    ("a", "an", "the", "some", "one", "two", "three", "several", "many", "no", "his", "her", "their")
)


@dataclass(frozen=True)
class Scene:
    """`shows` has one place for a concept, `{concept}` or `{a concept}`; `without` has none."""

    shows: str
    without: str

    def name(self, concept: str) -> str:
        """The prompt with a concept's name, which gets an English article in the place of `{a concept}`."""
        return self.shows.replace("{a concept}", with_article(concept)).replace("{concept}", concept)

    def imply(self, hint: str) -> str:
        """The prompt with a hint as it stands."""
        return self.shows.replace("{a concept}", hint).replace("{concept}", hint)


class SceneSource(Protocol):
    """Where scenes come from."""

    def draw(self, rng: np.random.Generator) -> Scene:
        """A scene by chance; the same `rng` gives the same one."""


class TemplateScenes:
    """Scenes of a text, as `scenes.txt` beside this module explains.

    Raises:
        PSAError: where there is no scene, or naming the first line that is wrong.
    """

    def __init__(self, text: str, where: str = "The templates") -> None:
        self._choices: dict[str, tuple[str, ...]] = {}
        self._longest: dict[str, str] = {}
        self._scenes: list[Scene] = []
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
            line = plain_spaces(line)
            if not line or line.startswith("#"):
                continue
            try:
                self._add(line)
            except PSAError as error:
                raise PSAError(f"{where}, line {number}: {error}") from None
        if not self._scenes:
            raise PSAError(f"{where} hold no scene. Write one a line: 'a room with {{a concept}} | a room'.")

    @classmethod
    def read(cls, path: Path | str | None = None) -> "TemplateScenes":
        """From a file; `None` takes ours."""
        path = existing_file(SCENES if path is None else path, "templates file")
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise PSAError(f"{path.name} is larger than {_MOST_BYTES >> 20} MiB, which no templates file is.")
            return cls(path.read_text(encoding="utf-8-sig"), path.name)
        except OSError as error:
            raise PSAError(f"The templates file {path.name} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError:
            raise PSAError(f"{path.name} is not text in UTF-8. Save it as UTF-8.") from None

    def draw(self, rng: np.random.Generator) -> Scene:
        scene = self._scenes[int(rng.integers(len(self._scenes)))]
        names = dict.fromkeys(_NAME.findall(scene.shows) + _NAME.findall(scene.without))
        chosen = {
            name: self._choices[name][int(rng.integers(len(self._choices[name])))]
            for name in names
            if name not in _SLOTS
        }
        return Scene(_filled(scene.shows, chosen), _filled(scene.without, chosen))

    def _add(self, line: str) -> None:
        check_line("a line", line, 4 * LONGEST_PROMPT)
        shows, bar, without = (part.strip() for part in line.partition("|"))
        if bar:
            self._add_scene(shows, without)
            return
        match = _DEFINED.fullmatch(line)
        if not match:
            raise PSAError("it is neither a choice ('name = value; value') nor a scene ('... {a concept} ... | ...').")
        name, values = match[1], tuple(value.strip() for value in match[2].split(";") if value.strip())
        if name in _SLOTS or name in self._choices or not values or any("{" in value for value in values):
            raise PSAError(f"the choice '{shown(name, 40)}' needs a name of its own, and values without braces.")
        self._choices[name], self._longest[name] = values, max(values, key=len)

    def _add_scene(self, shows: str, without: str) -> None:
        names = _NAME.findall(shows)
        if sum(name in _SLOTS for name in names) != 1 or set(_NAME.findall(without)) & set(_SLOTS) or not without:
            raise PSAError("a scene has {concept} or {a concept} once before the '|', and never after it.")
        for name in names + _NAME.findall(without):
            if name not in _SLOTS and name not in self._choices:
                known = some(f"{{{known}}}" for known in (*_SLOTS, *self._choices))
                raise PSAError(f"{{{shown(name, 40)}}} is not defined above it. There are: {known}.")
        if any(brace in _NAME.sub("", shows + without) for brace in "{}"):
            raise PSAError("a brace has no partner.")
        used = {*names, *_NAME.findall(without)} - {*_SLOTS}
        longest = {name: self._longest[name] for name in used}
        if max(len(_filled(shows, longest)), len(_filled(without, longest))) > LONGEST_PROMPT // 2:
            raise PSAError(f"the scene can get longer than {LONGEST_PROMPT // 2} characters. Shorten it.")
        self._scenes.append(Scene(shows, without))


def with_article(phrase: str) -> str:
    """An English phrase with "a" or "an", unless it begins with the likes of "the", or is a name or a plural."""
    first, last = phrase.split()[0], phrase.split()[-1]
    is_plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if first.casefold() in _DETERMINERS or is_plural or not phrase[0].isascii() or not phrase[0].islower():
        return phrase
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _NAME.sub(lambda match: values.get(match[1], match[0]), text)
