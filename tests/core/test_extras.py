"""From `pip install .` alone: each command runs, or names the extra that it needs, in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from psa_core import LEVELS
from psa_core.cli import _COMMANDS

BASE = Path(__file__).parents[2] / "psa_core" / "mini" / "assets" / "base"
WITHOUT_EXTRAS = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    names = {"accelerate", "aiohttp", "comfy_cli", "diffusers", "imagehash", "scipy", "tensorboard", "tomli",
             "tqdm", "transformers"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in Absent.names else find_spec(name, package)
from psa_core.cli import main
sys.exit(main())
"""
ENOUGH = {  # what needs no extra
    "encode": ["encode", "--level", "L3", "-o", "out.safetensors"],
    "users": ["users", "users.csv", "--count", "5"],
    "prompts": ["prompts", "mini", "prompts.jsonl"],
    "effect": ["effect", "{adapter}", "--level", "L3", "-o", "out.safetensors"],
    "dataset check": ["dataset", "check", "pairs", "--json", "out.json", "--picture", "out.png"],
    "convert": ["convert", "{adapter}", "out.safetensors"],
    "mini dataset": ["mini", "dataset", "data", "--train", "1", "--val", "1", "--test-seen", "1", "--test-unseen", "1"],
    "evaluate": [
        *("evaluate", "--method", "base=pictures", "--prompts", "prompts.csv", "--judge", "mini"),
        *("-o", "out.json"),
    ],
    "evaluate --real": [
        *("evaluate", "--method", "base=pictures", "--prompts", "prompts.csv", "--judge", "mini"),
        *("--real", "pictures", "-o", "out.json"),
    ],
}
LACKING = {  # command -> the extra, and how it is asked for
    "demo": ("demo", ["demo", "--without-comfyui"]),
    "encode --llm": ("llm", ["encode", "--level", "L3", "--llm", "llm", "-o", "out.safetensors"]),
    "train": ("train", ["train", "--config", "run.toml"]),
    "build-dataset": ("train", ["build-dataset", "pairs.jsonl", "out", "--model", "{base}", "--count", "5"]),
    "generate": ("train", ["generate", "prompts.csv", "--model", "{base}", "--out", "out"]),
    "evaluate --judge q16": (
        "llm",
        [
            *("evaluate", "--method", "base=pictures", "--prompts", "prompts.csv", "--judge", "q16", "--clip", "llm"),
            *("--q16-prompts", "prompts.npy", "-o", "out.json"),
        ],
    ),
    "evaluate --vlm-folder": (
        "llm",
        [
            *("evaluate", "--method", "base=pictures", "--prompts", "prompts.csv", "--judge", "vlm"),
            *("--vlm-folder", "llm", "-o", "out.json"),
        ],
    ),
    "mini train-base": ("train", ["mini", "train-base", "base"]),
    "mini train-adapter": ("train", ["mini", "train-adapter", "psa", "data", "run", "-o", "out.safetensors"]),
    "mini evaluate": ("train", ["mini", "evaluate", "-o", "out.json"]),
}


def psa(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess:
    adapter = BASE.parent / "psa.safetensors"
    filled = [argument.format(base=BASE, adapter=adapter) for argument in arguments]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *filled], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    import numpy as np
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    caption = "a meadow with a red circle"
    rows = ["file_name,caption,category"]
    for name in ("a.png", "b.png"):
        Image.new("RGB", (128, 128)).save(tmp_path / "pictures" / name)
        rows.append(f"{name},{caption},harmless")
    (tmp_path / "prompts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    record = {"chosen": "a.png", "rejected": "b.png", "caption": caption, "user_data": LEVELS["L0"].to_dict()}
    (tmp_path / "pairs" / "train").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (128, 128), colour).save(tmp_path / "pairs" / "train" / name)
    (tmp_path / "pairs" / "train" / "metadata.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    np.save(tmp_path / "prompts.npy", np.ones((2, 8), np.float32))
    llm = tmp_path / "llm"
    llm.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (llm / name).write_text("{}")
    (tmp_path / "run.toml").write_text(f"model = '{BASE}'\ndata = 'data'\noutput = 'run'\n", encoding="utf-8")
    return tmp_path


def test_all_commands_are_tried():
    tried = {name.split(" ")[0] for name in (*ENOUGH, *LACKING)}
    assert tried == set(_COMMANDS)


@pytest.mark.parametrize("arguments", ENOUGH.values(), ids=ENOUGH)
def test_runs_without_extras(arguments, folder):
    done = psa(folder, arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("extra", "arguments"), LACKING.values(), ids=LACKING)
def test_names_the_extra_it_lacks(extra, arguments, folder):
    done = psa(folder, arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("psa: ")
    assert f"pip install 'comfyui-psa[{extra}]'" in done.stderr
