"""Seeds as functions of a place: what is drawn where never depends on what was drawn before."""

import hashlib


def draw_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of `parts` alone."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
