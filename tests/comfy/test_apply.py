"""PSA Apply on ComfyUI's own model classes, inside ComfyUI's Python."""

from pathlib import Path

import pytest
from script_checks import Outcomes, check_names

SCRIPTS = Path(__file__).parent / "scripts"
CHECKS = SCRIPTS / "check_attn2.py"


@pytest.fixture(scope="session")
def outcomes(comfy_checks) -> Outcomes:
    return comfy_checks(CHECKS)


@pytest.mark.parametrize("check", check_names(CHECKS))
def test_the_attn2_patch_keeps_its_promises(check, outcomes):
    outcomes.verify(check)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_full_size_unets_run(family, comfy_python):
    comfy_python(SCRIPTS / "full_size_forward.py", family)
