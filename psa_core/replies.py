"""Finding the answer in what a language model says around it."""

import json
from collections.abc import Sequence
from typing import Any

from .errors import PSAError

_LONGEST_REPLY = 1 << 16  # characters after its thoughts; a longer one is no answer
_MOST_BRACES = 500  # at which an object is looked for
_THOUGHTS, END_OF_THOUGHTS = "<think>", "</think>"


class CutOffError(PSAError):
    """A reply reached the most that the model may say before its end; `text` is what there is of it."""

    def __init__(self, text: str) -> None:
        super().__init__("The language model's answer was cut off before its end.")
        self.text = text


def without_thoughts(reply: str) -> str | None:
    """What a model says behind its thoughts; `None` where they do not end."""
    said = reply.rpartition(END_OF_THOUGHTS)[2]
    return None if _THOUGHTS in said else said


def object_in_reply(reply: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """The one JSON object with these keys in a reply, thoughts aside; `None` where there is none, or several."""
    said = without_thoughts(reply)
    if said is None or len(said) > _LONGEST_REPLY:
        return None
    found = [data for data in _objects(said) if data.keys() >= set(keys)]
    return found[0] if len(found) == 1 else None


def _objects(text: str) -> list[dict[str, Any]]:
    """Every JSON object in `text` that is not inside another one; of very many braces, those of the first."""
    found, place = [], 0
    decoder = json.JSONDecoder(object_pairs_hook=_unrepeated)
    for _ in range(_MOST_BRACES):
        place = text.find("{", place)
        if place < 0:
            break
        try:
            data, place = decoder.raw_decode(text, place)
            found.append(data)
        except (ValueError, RecursionError):
            place += 1
    return found


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that says two things under one key says nothing."""
    data = dict(pairs)
    return data if len(data) == len(pairs) else {}
