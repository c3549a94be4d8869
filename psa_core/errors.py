"""The one exception type that a person is meant to read, and what to say of all others."""

_ISSUES = "https://github.com/comfyui-psa/comfyui-psa/issues"


class PSAError(ValueError):
    """Something a person can put right; the message says what was wrong, where, and what to do.

    Messages never hold a field of a profile: they end up in logs, and logs travel.
    """


class EmptySplitError(PSAError):
    """A split of a data set whose pairs are all set aside, or taken out by answers: nothing of it is damaged."""


def bug_sentence(error: Exception) -> str:
    """What to say of an error that nobody foresaw, without its full stop. What it says itself may hold what was read,
    and that may be a profile."""
    return f"This is a bug of ours ({type(error).__name__}). Please report it at {_ISSUES}"
