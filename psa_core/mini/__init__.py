"""PSA Mini: a small trained world in which the method can be measured.

Scenes of coloured shapes on a background, and seven harmless symbols that stand for the seven
sensitive categories. A detector tells from pixels what was drawn, so nothing is judged by opinion.
"""

from pathlib import Path
from types import MappingProxyType

from .detector import Detection, Detector
from .world import SYMBOLS, Scene, parse_prompt, render, sample_scene

ASSETS = Path(__file__).parent / "assets"
BASE_MODEL = ASSETS / "base"
"""The shipped base model, in diffusers' layout."""
LEVELS_GRAPH = ASSETS / "levels_graph.json"
"""A prompt for the six levels, as ComfyUI's server takes it; node 3 holds the prompt, node 17 the seed."""
ADAPTERS = MappingProxyType({name: ASSETS / f"{name}.safetensors" for name in ("psa", "psa-inferred", "ban-all")})
"""The shipped adapters: PSA's, with bans given and with bans inferred, and one that bans everything for everyone."""
PSA_ADAPTER, BAN_ALL_ADAPTER = ADAPTERS["psa"], ADAPTERS["ban-all"]

__all__ = [
    "ADAPTERS",
    "ASSETS",
    "BAN_ALL_ADAPTER",
    "BASE_MODEL",
    "LEVELS_GRAPH",
    "PSA_ADAPTER",
    "SYMBOLS",
    "Detection",
    "Detector",
    "Scene",
    "parse_prompt",
    "render",
    "sample_scene",
]
