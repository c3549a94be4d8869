"""PSA Mini: a small trained world in which the method can be measured.

Scenes of coloured shapes on a background, and seven harmless symbols that stand for the seven
sensitive categories. A detector tells from pixels what was drawn, so nothing is judged by opinion.
"""

from .detector import Detection, Detector
from .world import SYMBOLS, Scene, parse_prompt, render, sample_scene

__all__ = ["SYMBOLS", "Detection", "Detector", "Scene", "parse_prompt", "render", "sample_scene"]
