"""A server with the stand-ins for other packs, and small models."""

from pathlib import Path

from small_models import add_models

from psa_core import comfy_server
from psa_core.comfy_server import ComfyServer, ComfyUI

STAND_INS = Path(__file__).parents[1] / "comfy" / "stand_ins"


def start(comfy: ComfyUI, base: Path, checkpoint: Path, *arguments: str, **packs: Path) -> ComfyServer:
    add_models(base, checkpoint)
    packs = {"comfyui-psa": comfy_server.PACK, "stand_ins": STAND_INS, **packs}
    return ComfyServer(comfy, base, packs=packs, arguments=arguments)
