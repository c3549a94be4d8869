"""Where the data published with the paper's code lies, if it is here: it is not part of the project."""

import os
from pathlib import Path

_BESIDE = Path(__file__).parents[3] / "shared"


def published_folder() -> Path:
    """`$PSA_SHARED/published`, or `shared/published` beside the checkout; it need not exist."""
    return Path(os.environ.get("PSA_SHARED", _BESIDE)) / "published"
