"""`psa demo` in a real ComfyUI: prompts through the shipped levels workflow of PSA Mini, run headless."""

import argparse
import re

from PIL import Image

from psa_core.commands import demo


def test_the_shipped_workflow_draws_each_viewer_what_they_allow(comfy, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert demo.run(parser.parse_args(["--out", str(tmp_path / "out")])) == 0
    printed = capsys.readouterr().out
    assert str(comfy.folder) in printed and printed.count("KSampler 12/12") == len(demo.PROMPTS)
    right, count = map(int, re.search(r"finds (\d+) of (\d+) pictures right", printed).groups())
    assert count == 24 and right >= 20
    with Image.open(tmp_path / "out" / "levels.png") as picture:
        assert picture.width > 6 * demo._SHOWN_SIDE and picture.height > 4 * demo._SHOWN_SIDE
        assert not picture.text, "the picture carries the graph of a demo"
    saved = list((tmp_path / "out" / "comfyui" / "output").rglob("*.png"))
    assert len(saved) == count, "the pictures are saved one by one"
