"""Whatever a node's result depends on counts at the next Run."""

from pathlib import Path

import pytest
from script_checks import Outcomes, check_names

CHECKS = Path(__file__).parent / "scripts" / "check_fingerprints.py"


@pytest.fixture(scope="module")
def outcomes(comfy_checks, tmp_path_factory) -> Outcomes:
    return comfy_checks(CHECKS, tmp_path_factory.mktemp("fingerprints"))


@pytest.mark.parametrize("check", check_names(CHECKS))
def test_a_changed_file_is_read_again(check, outcomes):
    outcomes.verify(check)
