"""kill -9 at random moments of each command that writes: what is started again ends with the same files."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("diffusers")

import killed_commands

SHORT = ("train", "encode", "evaluate", "mini dataset", "dataset check", "users", "prompts")
"""What takes a few seconds; the others wait for the slow tier."""
CASES = [(name, 2) for name in SHORT] + [
    pytest.param(name, 20, marks=pytest.mark.slow) for name in killed_commands.COMMANDS
]


@pytest.mark.parametrize(("command", "kills"), CASES)
def test_a_killed_command_ends_with_the_same_files(tmp_path, command, kills):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, killed_commands.__file__, str(tmp_path), command, str(kills)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    log = tmp_path / "log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    assert f"{kills} kills" in done.stdout
