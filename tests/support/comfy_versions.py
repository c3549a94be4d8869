"""The ComfyUIs of this machine that tests run on: the lowest version that is found, and the newest."""

import os
import re
from pathlib import Path

from psa_core.comfy_server import ComfyUI, comfyui_at, find_comfyui


def version(folder: Path) -> str:
    """As ComfyUI says it of itself, such as "0.3.64"; "unknown" where it does not."""
    file = folder / "comfyui_version.py"
    found = re.search(r'__version__ = "([\d.]+)"', file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else "unknown"


def installed() -> list[ComfyUI]:
    """What `$COMFYUI_PATH` names, alone; else the lowest and the newest of `find_comfyui`'s and `~/comfy/ComfyUI*`."""
    found = find_comfyui()
    if found is None or os.environ.get("COMFYUI_PATH"):
        return [] if found is None else [found]
    beside = (folder for folder in (Path.home() / "comfy").glob("ComfyUI*") if (folder / "main.py").is_file())
    by_version = {tuple(map(int, re.findall(r"\d+", version(path)))): path for path in (*beside, found.folder)}
    return [comfyui_at(by_version[number]) for number in sorted({min(by_version), max(by_version)})]
