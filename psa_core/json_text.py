"""Reading JSON that others may have written."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """What the text says.

    Raises:
        ValueError: for what is no JSON, bytes that are no text, a number of too many digits, and, where the standard
            reader ends in a `RecursionError`, for what is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
