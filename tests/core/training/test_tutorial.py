"""docs/training.md: its settings are the trainer's, its examples run, and its links lead somewhere."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tiny_training import write_model

from psa_core import load_adapter
from psa_core.commands import train as command
from psa_core.settings import read_toml
from psa_core.training import PRESETS, TrainConfig, read_metrics
from psa_core.training.config import READING

DOCS = Path(__file__).parents[3] / "docs"
TUTORIAL = (DOCS / "training.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"\n##+ ", TUTORIAL.split(f"## {title}\n", 1)[1], maxsplit=1)[0]


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)
    return code


def rows(table: str) -> dict[str, list[str]]:
    """A table's cells by the word that its first column has in backquotes."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in lines}


def settings(cells: dict[str, str], tmp_path: Path) -> TrainConfig:
    """The settings whose values are written in `cells`, as TOML."""
    path = tmp_path / "settings.toml"
    path.write_text("\n".join(f"{name} = {cell.strip('`')}" for name, cell in cells.items() if cell))
    return TrainConfig.from_dict(read_toml(path))


def test_the_settings_table_is_the_configs(tmp_path):
    table = rows(section("All settings"))
    assert list(table) == list(TrainConfig.model_fields)
    assert settings({name: cells[0] for name, cells in table.items()}, tmp_path) == TrainConfig.from_dict({})
    recommended = {"preset": '"published"', **{name: cells[1] for name, cells in table.items() if cells[1]}}
    stated = settings(recommended, tmp_path).changed(preset="recommended")
    assert stated == TrainConfig.from_dict({"preset": "recommended"})


def test_the_departures_name_what_the_presets_choose():
    """Each way of reading pictures in which `recommended` departs stands in the table."""
    table = section("Departures")
    for words in ("bilinearly", "square", "(R, R, 0, 0, R, R)", "a sample", "the mean", "by Lanczos", "own shape"):
        assert words in table
    assert set(READING) == {"aspect", "resize", "latents", "sizes"}


def test_the_presets_are_told(tmp_path):
    text = section("Presets")
    assert set(PRESETS) == set(re.findall(r"`((?:published|recommended)(?:-sdxl)?)`", text))
    sdxl = {name: cells for name, cells in rows(text).items() if name not in PRESETS}
    for column, kind in enumerate(("published", "recommended")):
        own = {name: cells[column] for name, cells in sdxl.items()}
        stated = settings({"preset": f'"{kind}"', **own}, tmp_path)
        assert stated.changed(preset=f"{kind}-sdxl") == TrainConfig.from_dict({"preset": f"{kind}-sdxl"})


def test_the_practice_set_and_the_run_file_train(tmp_path):
    """As written, but for fewer steps and smaller pictures, on a small model in the place of the real one."""
    subprocess.run([sys.executable, "-c", block("python")], cwd=tmp_path, check=True, timeout=120)
    write_model(tmp_path / "models" / "stable-diffusion-v1-5", "sd15")
    run_file = block("toml").replace("steps = 500\nevaluate_every = 50", "steps = 2\nevaluate_every = 2")
    run_file = run_file.replace("resolution = 256", "resolution = 64")
    assert "steps = 2" in run_file and "resolution = 64" in run_file
    (tmp_path / "run.toml").write_text(run_file)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["--config", str(tmp_path / "run.toml")])) == 0
    assert "val/accuracy" in read_metrics(tmp_path / "runs" / "practice")[-1]
    adapter = load_adapter(tmp_path / "runs" / "practice" / "best.safetensors")
    assert adapter.training_summary["users"] > 16 and adapter.training_summary["preset"] == "recommended"


def headings(text: str) -> set[str]:
    """The link targets of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pictures_and_links_are_there():
    for target in re.findall(r"\]\(([^)]+)\)", TUTORIAL):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        page = DOCS / (name or "training.md")
        assert page.is_file(), target
        assert not heading or heading in headings(page.read_text(encoding="utf-8")), target
