"""Whether a prompt names a concept, told by words alone."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

# fmt: off
_SMALL_WORDS = frozenset((
    "a", "an", "and", "at", "by", "for", "from", "in", "into", "of", "on", "or", "over", "the", "to", "under", "with",
    "without",
))
# fmt: on
# Thai to Burmese, Khmer, kana, Han, Hangul: scripts that put no spaces between words, or hang endings on them.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_POSSESSIVE = re.compile(r"['\u2019]s\b")  # the s is no word of its own


@lru_cache(1 << 14)
def main_words(concept: str) -> tuple[str, ...]:
    """A concept's words in small letters, without the likes of "a" and "with", unless it has no others."""
    words = _words(concept)
    return tuple(word for word in words if word not in _SMALL_WORDS) or words


def names_concept(prompt: str, concept: str) -> bool:
    """Whether all main words of a concept are in a prompt: in any order and case, singular or plural."""
    words = main_words(concept)
    if not words:  # signs alone
        return concept.strip() in prompt
    return all(_has(prompt, word) for word in words)


class ConceptNames:
    """Many concepts' names, of which a prompt is held against those alone that begin as something in it does."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        common = Counter(word for name in names for word in set(main_words(name)))
        self._by_start: dict[str, list[str]] = {}
        for name in names:
            rarest = min(main_words(name), key=common.__getitem__, default="")
            within = _UNSPACED.search(rarest) if rarest else True  # found anywhere, not as a word
            for start in (rarest or name.strip())[:1] if within else _forms(rarest):
                self._by_start.setdefault(start, []).append(name)

    def any_in(self, prompt: str) -> bool:
        """Whether a prompt names one of them, as `names_concept` says."""
        starts = {*prompt, *_plain(prompt), *(form for word in _words(prompt) for form in _forms(word))}
        near = {name for start in starts for name in self._by_start.get(start, ())}
        return any(names_concept(prompt, name) for name in near)


def hints_by_word(prompt: str, concept: str) -> bool:
    """Whether any main word of a concept is in a prompt."""
    return any(_has(prompt, word) for word in main_words(concept)) or names_concept(prompt, concept)


@lru_cache(1 << 14)
def _words(text: str) -> tuple[str, ...]:
    """Runs of letters, digits and the marks on them, by which many scripts write vowels."""
    runs = "".join(sign if sign.isalnum() or unicodedata.category(sign)[0] == "M" else " " for sign in _plain(text))
    return tuple(word for word in runs.split() if any(map(str.isalnum, word)))  # a mark on a sign is none


def _plain(text: str) -> str:
    return _POSSESSIVE.sub("", unicodedata.normalize("NFKC", text).casefold())


def _has(prompt: str, word: str) -> bool:
    if _UNSPACED.search(word):
        return word in _plain(prompt)
    return any(other in _forms(word) or word in _forms(other) for other in _words(prompt))


def _forms(word: str) -> tuple[str, ...]:
    """A word and its plurals, as English makes most of them: no "ass" of "as"."""
    return (
        word,
        word if word.endswith("s") else f"{word}s",
        f"{word}es",
        f"{word[:-1]}ies" if word.endswith("y") else word,
    )
