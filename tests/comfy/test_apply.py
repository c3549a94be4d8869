"""PSA Apply on ComfyUI's own model classes, inside ComfyUI's Python."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"


def test_the_attn2_patch_keeps_its_promises(comfy_python):
    comfy_python(SCRIPTS / "check_attn2.py")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_full_size_unets_run(family, comfy_python):
    comfy_python(SCRIPTS / "full_size_forward.py", family)
