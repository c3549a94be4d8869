"""Packages that only a part of psa needs, and the extra that brings them."""

from importlib.util import find_spec

from .errors import PSAError


def require(extra: str, what: str, *packages: str) -> None:
    """Raise PSAError, naming the `extra` to install, unless all `packages` that `what` needs are there."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise PSAError(
            f"{what} needs {' and '.join(missing)}: pip install 'comfyui-psa[{extra}]', or in ComfyUI's Python, "
            f"which has the pack without installing it, pip install {' '.join(missing)}."
        )
