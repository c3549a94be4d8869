"""The classifier tells what renders show, keeps through its file, and judges for a viewer."""

import numpy as np
import pytest
import torch

from psa_core import LEVELS, PSAError
from psa_core.judges.judging import Question
from psa_core.mini import SYMBOLS, parse_prompt, render, sample_scene
from psa_core.mini.classifier import (
    SHIPPED,
    accuracy,
    load_classifier,
    save_classifier,
    shipped_classifier,
    train_classifier,
)
from psa_core.mini.detector import to_pixels
from psa_core.mini.judge import MiniClassifierJudge, MiniJudge


def test_it_is_right_on_fresh_renders():
    """Measured: .99 and more; a tenth of that in errors would be another network."""
    for worn in (False, True):
        shares = accuracy(shipped_classifier(), 12345, 400, worn)
        assert min(shares.values()) > 0.9, shares


def test_it_says_what_a_scene_holds():
    scenes = [sample_scene(np.random.default_rng(n), symbol) for n, symbol in enumerate([*SYMBOLS.values(), None])]
    found = shipped_classifier().detect(to_pixels([render(scene) for scene in scenes]))
    agreeing = [
        detection.agrees(parse_prompt(scene.prompt)) and detection.symbol == (scene.symbol and scene.symbol.word)
        for scene, detection in zip(scenes, found, strict=True)
    ]
    assert sum(agreeing) >= len(scenes) - 1


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (train_classifier(seed, steps=2).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_it_says_the_same_after_its_file(tmp_path):
    trained = train_classifier(steps=2)
    save_classifier(trained, tmp_path / "c.safetensors")
    kept = load_classifier(tmp_path / "c.safetensors")
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kept.features(pixels), trained.features(pixels), atol=0.05, rtol=0.05)
    assert kept.features(pixels).shape == (2, 64)
    save_classifier(kept, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_picture_is_judged_alone():
    pictures = [render(sample_scene(np.random.default_rng(n), "star")) for n in range(4)]
    pixels = to_pixels(pictures)
    torch.testing.assert_close(shipped_classifier().features(pixels)[2:3], shipped_classifier().features(pixels[2:3]))


def test_what_is_no_classifier_is_refused(tmp_path):
    from psa_core.mini import PSA_ADAPTER

    with pytest.raises(PSAError, match="no classifier of PSA Mini"):
        load_classifier(PSA_ADAPTER)
    with pytest.raises(PSAError, match="There is no classifier"):
        load_classifier(tmp_path / "c.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(SHIPPED.read_bytes()[:-100])
    with pytest.raises(PSAError, match="truncated or damaged"):
        load_classifier(tmp_path / "cut.safetensors")
    with pytest.raises(PSAError, match="128 x 128"):
        shipped_classifier().detect(torch.rand(1, 3, 32, 32))
    with pytest.raises(PSAError, match="at least one step"):
        train_classifier(steps=0)


def test_the_shipped_file_is_small():
    assert SHIPPED.stat().st_size < 500_000


def test_both_judges_of_mini_agree_on_renders():
    pictures, questions = [], []
    for number in range(40):
        scene = sample_scene(np.random.default_rng(number), [*SYMBOLS.values()][number % 7] if number % 8 else None)
        pictures.append(render(scene))
        questions.append(Question(scene.prompt, (), "L3", LEVELS["L3"]))
    first, second = (judge.judge(pictures, questions) for judge in (MiniJudge(), MiniClassifierJudge()))
    assert sum(one == other for one, other in zip(first, second, strict=True)) >= 36
    assert MiniJudge().identity() != MiniClassifierJudge().identity()
