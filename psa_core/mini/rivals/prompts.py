"""What needs no training: the prompt without the banned words, and a negative prompt of them."""

import re
from collections.abc import Mapping, Sequence

import torch

from ...profile import UserProfile
from ..generate import MiniModel
from ..method import Request
from ..world import SYMBOLS

Phrases = Mapping[str, Sequence[str]]
"""Symbol -> what else it is called in prompts: what an oracle lists, such as `phrases.known_phrases` of each symbol."""


def banned_symbols(profile: UserProfile) -> list[str]:
    """The symbols that the profile bans, in the order of their categories."""
    return [symbol for category, symbol in SYMBOLS.items() if category in profile.banned_categories]


def with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def listed(symbols: Sequence[str]) -> str:
    """The symbols' names as a prompt has them: "a star and an arrow"."""
    return " and ".join(map(with_article, symbols))


def without_terms(prompt: str, symbols: Sequence[str], phrases: Phrases | None = None) -> str:
    """The prompt less the symbols' names, and less their phrases where there are some; its grammar is kept.

    >>> without_terms("a desert with a red circle and a star", ["star"])
    'a desert with a red circle'
    """
    for symbol in symbols:
        for term in (*(phrases or {}).get(symbol, ()), with_article(symbol), symbol):
            prompt = _without(prompt, term)
    return prompt


def _without(prompt: str, term: str) -> str:
    """Deletes a thing of a list together with the word that joins it to the others, or else the bare words."""
    thing = rf"{re.escape(term)}\b(?!-)"
    for joined, left in ((rf" and {thing}", ""), (rf"\bwith {thing} and ", "with "), (rf" with {thing}", "")):
        prompt = re.sub(joined, left, prompt)
    return " ".join(re.sub(rf"\b{thing}", "", prompt).split())


class WordDeletion:
    """The base model, given the prompt without what the viewer bans.

    Args:
        phrases: of an oracle, deleted too; without it only the names are.
    """

    knows_viewer = True

    def __init__(self, model: MiniModel, name: str = "word deletion", phrases: Phrases | None = None) -> None:
        self.name, self._model, self._phrases = name, model, phrases

    def caption(self, request: Request) -> str:
        return without_terms(request.prompt.caption, banned_symbols(request.profile), self._phrases)

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return self._model.draw([self.caption(request) for request in requests], [r.noise for r in requests])


class NegativePrompt:
    """The base model, with guidance away from what the viewer bans, named as in prompts.

    Args:
        phrases: of an oracle. Those that the prompt holds join the names: a list of all, for a strict viewer, is
            longer than the 77 tokens that a prompt may have.
    """

    knows_viewer = True

    def __init__(self, model: MiniModel, name: str = "negative prompt", phrases: Phrases | None = None) -> None:
        self.name, self._model, self._phrases = name, model, phrases or {}

    def negative(self, request: Request) -> str:
        symbols = banned_symbols(request.profile)
        said = [phrase for symbol in symbols for phrase in self._phrases.get(symbol, ())]
        found = [phrase for phrase in said if _without(request.prompt.caption, phrase) != request.prompt.caption]
        return " and ".join([*found, *map(with_article, symbols)])

    def draw(self, requests: Sequence[Request]) -> torch.Tensor:
        return self._model.draw(
            [request.prompt.caption for request in requests],
            [request.noise for request in requests],
            negatives=[self.negative(request) for request in requests],
        )
