"""Whether two texts are the same, however they are spelt."""

import unicodedata


def plain_text(text: str) -> str:
    """A prompt or a concept's name as it is compared with others: without capitals, composed, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())
