"""What a node's `fingerprint_inputs` gives ComfyUI, which saves it in every picture: values that tell nothing."""

import hmac
import secrets

_KEY = secrets.token_bytes(32)  # of this process alone: nobody can compare a picture's fingerprint with guesses


def fingerprint(*parts: object) -> str:
    """Equal for equal parts while this process runs; from outside it cannot be told from a random number."""
    return hmac.digest(_KEY, repr(parts).encode("utf-8", "surrogatepass"), "sha256").hex()


def always_new() -> str:
    """For a node with a side effect: ComfyUI never takes its result from a cache."""
    return secrets.token_hex(16)
