"""Reading JSON that others may have written, and telling one from another."""

import hashlib
import json
from typing import Any


def parse_json(text: str | bytes, once: bool = False) -> Any:
    """What the text says.

    Args:
        once: refuse an object with two values under one name, of which the last would count in silence.

    Raises:
        ValueError: for what is no JSON, bytes that are no text, a number of too many digits, and, where the standard
            reader ends in a `RecursionError`, for what is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_named_once if once else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_json(text: bytes) -> bool:
    """Whether `parse_json` reads it: a line of which a kill left a part is none."""
    try:
        parse_json(text.decode("utf-8"))
    except ValueError:
        return False
    return True


def digest(value: Any) -> str:
    """32 hex digits that stand for JSON-compatible data."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two values under one name")
    return found
