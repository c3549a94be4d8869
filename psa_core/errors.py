"""The one exception type that a person is meant to read."""


class PSAError(ValueError):
    """Something a person can put right; the message says what was wrong, where, and what to do.

    Messages never hold a field of a profile: they end up in logs, and logs travel.
    """
