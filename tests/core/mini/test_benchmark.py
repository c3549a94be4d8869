"""Adapters and the benchmark, on an untrained model: that the way through works, not how well it draws."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mini_models import write_untrained_base
from PIL import Image

from psa_core import PSAError, StructuredEncoder, UserProfile, load_adapter
from psa_core.cli import main
from psa_core.commands import mini as command
from psa_core.encoders.everyone import EveryoneEncoder
from psa_core.evaluate import HARMLESS
from psa_core.mini import SYMBOLS, base_model, evaluate, parse_prompt, render, sample_scene
from psa_core.mini.dataset import Sizes, mini_users, write_dataset
from psa_core.mini.detector import to_pixels
from psa_core.mini.evaluate import evaluate_mini, split_requests
from psa_core.mini.generate import MiniModel
from psa_core.mini.world import COLOURS
from psa_core.profile import CATEGORIES
from psa_core.training import read_split

SIZES = Sizes(seen_users=12, unseen_users=8, train=12, val=4, test_seen=20, test_unseen=20, harmless=6)
CATEGORY_OF = {symbol: category for category, symbol in SYMBOLS.items()}


@pytest.fixture(autouse=True)
def few_real_scenes(monkeypatch):
    monkeypatch.setattr(evaluate, "_REAL", 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    write_untrained_base(folder / "base")
    base_model.new_scheduler().save_pretrained(folder / "base" / "scheduler")
    for name, ban_all in (("data", False), ("rival", True)):
        write_dataset(folder / name, 1, SIZES, ban_all)
        kind = "safetydpo" if ban_all else "psa"
        arguments = ["mini", "train-adapter", kind, folder / name, folder / "runs" / kind]
        options = ["--base", folder / "base", "--steps", 2, "-o", folder / f"{kind}.safetensors"]
        assert main([str(argument) for argument in arguments + options]) == 0
    return folder


def adapters(folder):
    return {kind: load_adapter(folder / f"{kind}.safetensors") for kind in ("safetydpo", "psa")}


def test_adapters_know_the_encoder_they_were_trained_on(folder):
    trained = adapters(folder)
    assert trained["psa"].encoder_id == StructuredEncoder.id
    assert trained["safetydpo"].encoder_id == EveryoneEncoder.id


def methods(report):
    return list(dict.fromkeys(m.method for m in report.measurements))


def by_level(report, method):
    return [
        m.figure for m in report.measurements if (m.method, m.measure, m.category) == (method, "IP", None) and m.viewer
    ]


def test_the_benchmark_measures_every_method_on_the_same_requests(folder):
    seen, unseen, levels, harmless = evaluate_mini(MiniModel(folder / "base"), adapters(folder), per_cell=3)
    for report in (seen, unseen):
        assert methods(report) == ["base", "safetydpo", "psa"]
        assert [report.figure("psa", name).count for name in ("IP on banned", "allowed kept", "pass rate")] == [3, 3, 6]
        pairs = dict.fromkeys((m.method, m.rival) for m in report.measurements if m.rival)
        assert list(pairs) == [("safetydpo", "base"), ("psa", "base"), ("psa", "safetydpo")]
    assert [figure.count for figure in by_level(levels, "psa")] == [3] * 6
    assert len({(figure.value, figure.count) for figure in by_level(levels, "base")}) == 1
    price = [m.measure for m in harmless.measurements if (m.method, m.category) == ("psa", HARMLESS)]
    assert price == ["agreement", "Frechet distance", "Frechet rise"]


def test_the_same_seed_gives_the_same_figures(folder):
    one, again, other = (evaluate_mini(MiniModel(folder / "base"), adapters(folder), 2, seed) for seed in (0, 0, 1))
    assert [report.to_dict() for report in one] == [report.to_dict() for report in again]
    assert one[-1].to_dict() != other[-1].to_dict()


class Perfect:
    """In the model's place: draws for each user what the user wants, with its adapter; without one what was asked."""

    def __init__(self, vae):
        self.vae, self.drawn = vae, 0

    def draw(self, prompts, seeds, adapter=None, users=None):
        self.drawn += len(prompts)
        pictures = []
        for row, prompt in enumerate(prompts):
            scene = scene_of(prompt)
            banned = adapter.banned(users.vectors[row]) if adapter else ()
            hidden = scene.symbol and CATEGORY_OF[scene.symbol.word] in banned
            pictures.append(render(scene.without_symbol() if hidden else scene))
        return to_pixels(pictures)


class ByProfile:
    encoder_id = StructuredEncoder.id

    def banned(self, vector):
        return [name for name, value in zip(CATEGORIES, vector[-len(CATEGORIES) :], strict=True) if value > 0]


class ForEveryone:
    encoder_id = EveryoneEncoder.id

    def banned(self, vector):
        return CATEGORIES


def scene_of(prompt):
    """A scene that the prompt describes."""
    asked = parse_prompt(prompt)
    rng = np.random.default_rng(0)
    while True:
        scene = sample_scene(rng, asked.symbol)
        if scene.background == asked.background and len(scene.shapes) == len(asked.shapes):
            shapes = [
                replace(shape, word=word, colour_word=colour, colour=COLOURS[colour])
                for shape, (colour, word) in zip(scene.shapes, asked.shapes, strict=True)
            ]
            return replace(scene, shapes=tuple(shapes))


def test_perfect_methods_get_perfect_figures():
    torch.manual_seed(0)
    perfect = Perfect(base_model.new_vae().eval())
    seen, unseen, levels, harmless = evaluate_mini(
        perfect, {"safetydpo": ForEveryone(), "psa": ByProfile()}, per_cell=14
    )
    for report in (seen, unseen, levels):
        found = {
            method: [report.figure(method, name).value for name in ("IP on banned", "allowed kept")]
            for method in methods(report)
        }
        assert found == {"base": [1.0, 1.0], "safetydpo": [0.0, 0.0], "psa": [0.0, 1.0]}
    for report in (seen, unseen):
        shares = [report.figure("psa", name, rival="safetydpo").value for name in ("wins", "ties", "losses")]
        assert shares == [0.5, 0.5, 0]
    # Two prompts of each category; L1 to L5 ban 2, 4, 4, 5 and 7 of the seven.
    assert [figure.value for figure in by_level(levels, "psa")] == [1, 5 / 7, 3 / 7, 3 / 7, 2 / 7, 0]
    assert {figure.value for figure in by_level(levels, "base")} == {1.0}
    assert harmless.figure("base", "IP").value == 0
    assert harmless.figure("psa", "agreement", category=HARMLESS).value == 1
    assert harmless.figure("psa", "Frechet rise", category=HARMLESS).value == 0
    # Of three methods: two splits of two cells; levels once for those who know no viewer; harmless prompts.
    assert perfect.drawn == 14 * (3 * 4 + (1 + 1 + 6) + 3)


def test_requests_are_the_datasets(folder):
    """Its users and prompts, without its pictures."""
    users, _ = mini_users(1, SIZES)
    requests = {r.prompt.file_name: r for r in split_requests("test_seen", users, 6, seed=1)}
    found = 0
    for record in read_split(folder / "data", "test_seen"):
        if request := requests.get(f"{record.line}.png"):
            expected = (record.caption, record.category, record.profile)
            assert (request.prompt.caption, request.prompt.category, request.profile) == expected
            found += 1
    assert found >= 6
    assert sum(request.is_banned for request in requests.values()) == 6 == len(requests) // 2


def test_users_of_one_kind_fill_no_two_cells():
    with pytest.raises(PSAError, match="nearly everything"):
        split_requests("test_seen", [UserProfile(30, "male", banned_categories=CATEGORIES)], 2, 0)


def test_an_adapter_of_another_encoder_is_refused(folder):
    class Other:
        encoder_id = "another"

    with pytest.raises(PSAError, match="no profile encoder 'another'"):
        evaluate_mini(MiniModel(folder / "base"), {"psa": Other()}, per_cell=2)


def test_the_command_writes_results(folder, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = {kind: str(folder / "runs" / kind / "last.safetensors") for kind in ("psa", "safetydpo")}
    options |= {"base": str(folder / "base"), "per-cell": "2", "output": str(folder / "results.json")}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert command.run(parser.parse_args(["evaluate", *words])) == 0
    found = json.loads((folder / "results.json").read_text())
    assert found["made_by"].startswith("Made by `psa mini evaluate --psa ")
    assert [report["title"] for report in found["reports"]] == [
        "Seen users",
        "Unseen users",
        "Levels",
        "Harmless prompts",
    ]
    page, tables = (folder / "results.md").read_text(), capsys.readouterr().out.strip()
    assert page.startswith("# Results") and tables.startswith("### Seen users")
    assert tables.removesuffix(found["made_by"]) in page and found["made_by"] in page
    assert "shipped" not in page and "last.safetensors" in page  # what was measured is named
    with Image.open(folder / "results.png") as picture:
        assert picture.width == 900
