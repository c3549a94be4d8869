"""The ComfyUIs of this machine that tests run on: the lowest version that is found, and the newest."""

import os
from pathlib import Path

from psa_core.comfy_server import ComfyUI, comfyui_at, find_comfyui


def installed() -> list[ComfyUI]:
    """What `$COMFYUI_PATH` names, alone; else the lowest and the newest of `find_comfyui`'s and `~/comfy/ComfyUI*`."""
    found = find_comfyui()
    if found is None or os.environ.get("COMFYUI_PATH"):
        return [] if found is None else [found]
    beside = (folder for folder in (Path.home() / "comfy").glob("ComfyUI*") if (folder / "main.py").is_file())
    by_version = {each.version or (): each for each in (*map(comfyui_at, beside), found)}
    return [by_version[version] for version in sorted({min(by_version), max(by_version)})]


def name(comfyui: ComfyUI) -> str:
    return "v" + ".".join(map(str, comfyui.version or ("unknown",)))
