"""`psa demo` in a real ComfyUI: the shipped levels workflow, run headless."""

import argparse

import numpy as np
from PIL import Image

from psa_core import demo


def test_the_shipped_workflow_draws_six_pictures(comfy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_STAND_IN", {**demo._STAND_IN, "EmptyLatentImage": {"width": 64, "height": 64}})
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert demo.run(parser.parse_args(["--out", str(tmp_path / "out")])) == 0
    printed = capsys.readouterr().out
    assert str(comfy.folder) in printed and "KSampler 10/10" in printed
    picture = Image.open(tmp_path / "out" / "levels.png")
    pixels = np.asarray(picture, dtype=float)
    height, width = pixels.shape[:2]
    cells = [
        pixels[(row + 1) * height // 2 - 40 :, column * width // 3 + 16 :][:32, :32]
        for row in range(2)
        for column in range(3)
    ]
    assert min(np.abs(a - b).mean() for i, a in enumerate(cells) for b in cells[i + 1 :]) > 2
    assert not picture.text, "the picture carries the graph of a demo"
