"""PSA Mini: a small trained world in which the method can be measured.

Scenes of coloured shapes on a background, and seven harmless symbols that stand for the seven
sensitive categories. A detector tells from pixels what was drawn, so nothing is judged by opinion.
"""

from pathlib import Path

from .detector import Detection, Detector
from .world import SYMBOLS, Scene, parse_prompt, render, sample_scene

ASSETS = Path(__file__).parent / "assets"
BASE_MODEL = ASSETS / "base"
"""The shipped base model, in diffusers' layout."""
LEVELS_GRAPH = ASSETS / "levels_graph.json"
"""A prompt for the six levels, as ComfyUI's server takes it; node 3 holds the prompt, node 17 the seed."""
PSA_ADAPTER, RIVAL_ADAPTER = ASSETS / "psa.safetensors", ASSETS / "safetydpo.safetensors"

__all__ = [
    "ASSETS",
    "BASE_MODEL",
    "LEVELS_GRAPH",
    "PSA_ADAPTER",
    "RIVAL_ADAPTER",
    "SYMBOLS",
    "Detection",
    "Detector",
    "Scene",
    "parse_prompt",
    "render",
    "sample_scene",
]
