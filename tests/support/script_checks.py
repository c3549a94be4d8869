"""`check_*` functions of a script that runs inside ComfyUI's Python, each as a test of its own.

The script ends with `run_checks(globals())` and runs once a session. A test module has:

    @pytest.fixture(scope="session")
    def outcomes(comfy_checks):
        return comfy_checks(SCRIPT)

    @pytest.mark.parametrize("check", check_names(SCRIPT))
    def test_the_patch_keeps_its_promises(check, outcomes):
        outcomes.verify(check)
"""

import ast
import json
from dataclasses import dataclass
from pathlib import Path


def check_names(script: Path) -> list[str]:
    """The names of a script's `check_*` functions, in its order, read without running it."""
    tree = ast.parse(script.read_text(encoding="utf-8"), filename=str(script))
    return [each.name for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("check_")]


@dataclass(frozen=True)
class Outcomes:
    """What became of each check: None, or its traceback; and what the script wrote beside them."""

    failures: dict[str, str | None]
    said: str

    @classmethod
    def read(cls, path: Path, said: str) -> "Outcomes":
        """From the lines that `run_checks` wrote."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return cls(dict(json.loads(line) for line in lines), said)

    def verify(self, name: str) -> None:
        """Fail as the check failed, or where the script ended before it."""
        assert name in self.failures, f"the script ended before {name}:\n{self.said[-6000:]}"
        assert self.failures[name] is None, self.failures[name]
