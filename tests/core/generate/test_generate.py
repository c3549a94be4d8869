"""`psa generate`: what is drawn for whom, from which noise, and what a second run does."""

import argparse
import csv
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import random_adapter
from PIL import Image

pytest.importorskip("diffusers")

from diffusers import StableDiffusionPipeline
from tiny_training import user, write_model

from psa_core import LEVELS, PSAError, StructuredEncoder, UserProfile, save_adapter
from psa_core.commands import generate as generate_command
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.encoders.embedding import UserEmbedding
from psa_core.encoders.everyone import EveryoneEncoder
from psa_core.encoders.structured import InferredEncoder
from psa_core.generate import BaseModel, Painter, Record, Settings, is_whole, plan
from psa_core.generate.run import told_by_profile, viewers_id
from psa_core.pictures import write_picture
from psa_core.prompts import read_prompts
from psa_core.seeds import draw_seed
from psa_core.users import by_id

pytestmark = pytest.mark.filterwarnings("ignore:.*torch_dtype")  # the name that all supported versions know
CAPTIONS = ("a quiet street", "a busy market", "a stormy sea", "ab")
SECRET = UserProfile(47, "female", "Buddhism", "hearing impairment", "sexual assault", user_id="7654321")
NEAR = 6  # of 255: batches of other sizes sum in another order, and JPEG rounds on top


def add_index(folder: Path, kind: str) -> Path:
    """What `write_model` leaves out: the pipeline's own file. The sampler is one that adds noise."""
    from diffusers import DDPMScheduler

    DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1).save_pretrained(
        folder / "scheduler"
    )
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    if kind == "sdxl":
        parts |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "image_encoder": [None, None],
            "feature_extractor": [None, None],
        }
        name = "StableDiffusionXLPipeline"
    else:
        parts |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}  # named, and never loaded
        parts |= {"feature_extractor": [None, None]}
        name = "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name, **parts}))
    return folder


def adapter_for(unet, encoder=StructuredEncoder, **options):
    widths = tuple(layer.to_q.out_features for layer in cross_attention_layers(unet))
    return random_adapter(
        widths, unet.config.cross_attention_dim, encoder.dim, encoder_id=encoder.id, std=0.5, **options
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Models `sd15` and `sdxl` (with a sampler that adds noise), adapters for the first, prompts and users."""
    folder = tmp_path_factory.mktemp("generate")
    for kind in ("sd15", "sdxl"):
        add_index(write_model(folder / kind, kind), kind)
    unet = painter(folder / "sd15").pipe.unet
    save_adapter(adapter_for(unet), folder / "psa.safetensors")
    save_adapter(adapter_for(unet, EveryoneEncoder), folder / "global.safetensors")
    write_prompts(folder / "prompts.csv", [("a.png", 1), ("b.jpg", 2), ("sub/c.png", 1), ("d.png", 3)])
    with open(folder / "users.csv", "w", newline="") as file:
        rows = [user(number).to_dict() for number in (1, 2, 3)]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_prompts(path: Path, rows: list[tuple[str, int | None]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption", "user_id"])
        for (name, number), caption in zip(rows, itertools.cycle(CAPTIONS)):
            writer.writerow([name, caption, "" if number is None else number])
    return path


def painter(folder: Path) -> Painter:
    return Painter(BaseModel.read(folder))


def arguments(place: Path, out: Path, *more: object) -> list[str]:
    given = (place / "prompts.csv", "--model", place / "sd15", "--out", out, "--steps", 2, *more)
    return [str(argument) for argument in given]


def generate(place: Path, out: Path, *more: object) -> Path:
    parser = argparse.ArgumentParser()
    generate_command.add_arguments(parser)
    assert generate_command.run(parser.parse_args(arguments(place, out, *more))) == 0
    return out


def pictures(folder: Path) -> dict[str, np.ndarray]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path), np.int16) for path in found}


def farthest(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> int:
    assert one.keys() == two.keys() and one
    return max(int(np.abs(one[name] - two[name]).max()) for name in one)


def psa(place: Path, *more: object) -> tuple[object, ...]:
    return ("--adapter", place / "psa.safetensors", *more)


def test_layout_of_base_levels_and_users(place, tmp_path):
    names = ["a.png", "b.jpg", "d.png", "sub/c.png"]
    assert list(pictures(generate(place, tmp_path) / "base" / "mini")) == names
    generate(place, tmp_path, *psa(place, "--levels", "L0", "L5"))
    levels = pictures(tmp_path / "psa" / "mini")
    assert sorted(levels) == [f"level_{level}/{name}" for level in (0, 5) for name in names]
    assert Image.open(tmp_path / "psa/mini/level_5/b.jpg").format == "JPEG"
    assert levels["level_0/a.png"].shape == (128, 128, 3)
    assert np.abs(levels["level_0/a.png"] - levels["level_5/a.png"]).max() > 30  # the viewers see other pictures
    generate(place, tmp_path, *psa(place, "--users", place / "users.csv", "--method", "own way"))
    assert list(pictures(tmp_path / "own way" / "mini")) == names


@pytest.mark.parametrize(
    ("pipeline", "width", "kind"),
    [
        ("StableDiffusionPipeline", 768, "sd15"),
        ("StableDiffusionXLPipeline", 2048, "sdxl"),
        ("StableDiffusionPipeline", 64, "mini"),
    ],
)
def test_the_folder_says_its_kind_and_size(tmp_path, pipeline, width, kind):
    for part, config in {
        "unet": {"cross_attention_dim": width, "sample_size": 64},
        "vae": {"block_out_channels": [8] * 4},
    }.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    base = BaseModel.read(tmp_path)
    assert (base.kind, base.size, "text_encoder_2" in base.parts) == (kind, 512, kind == "sdxl")


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_noise_is_the_same_with_any_method_and_batch(place, kind):
    """Strength 0 is the base model to the bit, and a picture does not depend on what is drawn beside it."""
    artist = painter(place / kind)
    adapter = adapter_for(artist.pipe.unet)
    users = StructuredEncoder().encode(list(LEVELS.values())[:4])
    seeds = [draw_seed(2025, name) for name in "abcd"]
    base = artist.draw(CAPTIONS, seeds, Settings(steps=3))
    off = artist.draw(CAPTIONS, seeds, Settings(steps=3, strength=0.0), adapter, users)
    assert [image.tobytes() for image in off] == [image.tobytes() for image in base]
    drawn = artist.draw(CAPTIONS, seeds, Settings(steps=3), adapter, users)
    for row in range(4):
        one = UserEmbedding(users.vectors[[row]], users.encoder_id)
        (alone,) = artist.draw(CAPTIONS[row : row + 1], seeds[row : row + 1], Settings(steps=3), adapter, one)
        assert distance(alone, drawn[row]) <= 2
        assert distance(base[row], drawn[row]) > 20
    assert distance(drawn[0], drawn[1]) > 20


def distance(one: Image.Image, two: Image.Image) -> int:
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16)).max())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_are_those_of_another_implementation(tmp_path, tokens, guidance):
    """Unconditional rows get user_proj(zeros), conditional ones their users: written out here, step by step."""
    from diffusers import DDIMScheduler

    from psa_core.diffusers_unet import psa_applied

    folder = add_index(write_model(tmp_path / "model", "sd15"), "sd15")
    artist = painter(folder)
    pipe = artist.pipe
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    adapter = adapter_for(pipe.unet, num_tokens=tokens)
    users = StructuredEncoder().encode([LEVELS["L5"], LEVELS["L1"]])
    settings = Settings(steps=3, guidance=guidance, strength=0.7)
    drawn = artist.draw(CAPTIONS[:2], [11, 12], settings, adapter, users)
    pipe.scheduler.set_timesteps(3)
    for row, seed in enumerate((11, 12)):
        with torch.no_grad():
            text, empty = pipe.encode_prompt(CAPTIONS[row], "cpu", 1, True)
            latents = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(seed))
            for step in pipe.scheduler.timesteps:
                with psa_applied(pipe.unet, adapter, adapter.user_tokens(users.vectors[[row]]), 0.7):
                    noise = pipe.unet(latents, step, text).sample
                if guidance > 1:
                    with psa_applied(pipe.unet, adapter, adapter.uncond_tokens(1), 0.7):
                        without = pipe.unet(latents, step, empty).sample
                    noise = without + guidance * (noise - without)
                latents = pipe.scheduler.step(noise, step, latents).prev_sample
            pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample[0]
        expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(drawn[row], np.float32) - expected).max() <= 2


def test_a_second_run_draws_what_is_missing_or_torn(place, tmp_path, capsys):
    out = generate(place, tmp_path, *psa(place, "--levels", "all"))
    assert "24 pictures drawn, 0 were there" in capsys.readouterr().out
    before = pictures(out)
    folder = out / "psa" / "mini"
    untouched = (folder / "level_1" / "a.png").stat().st_mtime_ns
    (folder / "level_2" / "a.png").unlink()
    for name in ("level_3/b.jpg", "level_4/d.png"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        assert not is_whole(folder / name)
    generate(place, tmp_path, *psa(place, "--levels", "all", "--batch-size", 2))
    assert "3 pictures drawn, 21 were there" in capsys.readouterr().out
    assert farthest(before, pictures(out)) <= NEAR
    assert (folder / "level_1" / "a.png").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_whole_is_whole_to_the_last_byte(tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    content = path.read_bytes()
    assert is_whole(path) and not is_whole(tmp_path / "absent.png")
    assert not is_whole(tmp_path / "\ud800.png"), "a name of signs that no file name here can have"
    for length in (*range(40), *range(40, len(content) - 16, 9), *range(len(content) - 16, len(content))):
        path.write_bytes(content[:length])
        assert not is_whole(path)


def test_nothing_is_loaded_where_nothing_is_missing(place, tmp_path, monkeypatch, capsys):
    generate(place, tmp_path)
    monkeypatch.setattr(generate_command, "Painter", None)
    generate(place, tmp_path)
    assert "0 pictures drawn, 4 were there" in capsys.readouterr().out


def test_a_run_with_other_settings_is_refused(place, tmp_path):
    given = psa(place, "--levels", "L1")
    generate(place, tmp_path, *given)
    before = pictures(tmp_path)
    for more, told in (
        (("--steps", 3), r"steps \(2 there, 3 now\)\. Use"),
        (("--guidance", 4, "--seed", 1), r"guidance \(7.5 there, 4.0 now\), seed \(2025 there, 1 now\)"),
        (("--strength", 0.5), r"strength \(1.0 there, 0.5 now\)"),
        (("--adapter", place / "global.safetensors", "--method", "psa"), "adapter, encoder"),
    ):
        with pytest.raises(PSAError, match=told):
            generate(place, tmp_path, *(given if "--adapter" not in more else ()), *more)
    path = place / "prompts.csv"
    text = path.read_text()
    try:
        path.write_text(text.replace("a stormy sea", "a calm sea"))
        with pytest.raises(PSAError, match=r"differs: prompts\. Use"):
            generate(place, tmp_path, *given)
    finally:
        path.write_text(text)
    assert farthest(before, pictures(tmp_path)) == 0
    generate(place, tmp_path, *psa(place, "--levels", "L1", "L2"))  # more viewers are no other settings


def test_changed_weights_are_other_settings(place, tmp_path):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(place / "sd15", model)
    generate(place, tmp_path / "out", "--model", model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PSAError, match=r"differs: model\. Use"):
        generate(place, tmp_path / "out", "--model", model)


def test_pictures_without_a_record_are_not_taken_for_ours(place, tmp_path):
    folder = tmp_path / "base" / "mini"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    with pytest.raises(PSAError, match=r"no generation\.json"):
        generate(place, tmp_path)
    (folder / "a.png").unlink()
    (folder / "generation.json").write_text("{")
    with pytest.raises(PSAError, match="damaged"):
        generate(place, tmp_path)


def test_files_tell_nothing_of_the_users(place, tmp_path, capsys):
    with open(tmp_path / "users.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, SECRET.to_dict())
        writer.writeheader()
        writer.writerow(SECRET.to_dict())
    prompts = write_prompts(tmp_path / "prompts.csv", [("a.png", 7654321), ("b.jpg", 7654321)])
    given = arguments(place, tmp_path / "out", *psa(place, "--users", tmp_path / "users.csv"))
    parser = argparse.ArgumentParser()
    generate_command.add_arguments(parser)
    generate_command.run(parser.parse_args([str(prompts), *given[1:]]))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) == 3
    said = capsys.readouterr()
    for text in (*(path.read_bytes().decode("latin-1") for path in files), said.out, said.err):
        words = ("7654321", "female", "Buddhism", "hearing", "assault", "Sexuality", "Banned", "47,", "Age")
        assert [word for word in words if word in text] == []
    assert all(
        not Image.open(path).info.keys() - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        for path in files
        if path.suffix != ".json"
    )


def test_stored_embeddings_draw_the_same_as_profiles(place, tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for profile in (*LEVELS.values(), *(user(number) for number in (1, 2, 3))):
        np.save(folder / f"{profile.user_id}.npy", StructuredEncoder().encode([profile]).vectors.numpy())
    for name, by_profile in (("levels", ("--levels", "L4", "L5")), ("users", ("--users", place / "users.csv"))):
        by_file = ("--embeddings", folder, *(by_profile if name == "levels" else ()))
        one = generate(place, tmp_path / name / "one", *psa(place, *by_profile))
        two = generate(place, tmp_path / name / "two", *psa(place, *by_file))
        assert farthest(pictures(one), pictures(two)) == 0
    (folder / "0000002.npy").unlink()
    with pytest.raises(PSAError, match=r"0000002\.npy"):
        generate(place, tmp_path / "three", *psa(place, "--embeddings", folder))


def test_an_adapter_that_knows_no_profiles_draws_once_for_everyone(place, tmp_path):
    given = ("--adapter", place / "global.safetensors")
    drawn = pictures(generate(place, tmp_path, *given) / "safetydpo" / "mini")
    base = pictures(generate(place, tmp_path) / "base" / "mini")
    assert drawn.keys() == base.keys() and farthest(drawn, base) > 20
    with pytest.raises(PSAError, match="the same for everyone"):
        generate(place, tmp_path, *given, "--levels", "all")


def test_size_and_stochastic_samplers(place, tmp_path):
    out = generate(place, tmp_path, "--size", 64, "--batch-size", 3)
    assert all(picture.shape == (64, 64, 3) for picture in pictures(out).values())
    alone = generate(place, tmp_path / "alone", "--size", 64)
    assert farthest(pictures(out / "base"), pictures(alone / "base")) <= NEAR


def test_half_precision_starts_from_the_same_noise(place):
    from psa_core.generate.painter import PRECISIONS

    seen = []
    for precision in PRECISIONS:
        artist = Painter(BaseModel.read(place / "sd15"), precision=precision)
        whole = artist.pipe.unet.forward

        def look(latents, *rest, whole=whole, **named):
            seen.append(latents.float())
            return whole(latents, *rest, **named)

        artist.pipe.unet.forward = look
        artist.draw(["ab"], [5], Settings(steps=1, precision=precision))
    assert torch.equal(seen[1], seen[0].half().float()) and torch.equal(seen[2], seen[0].bfloat16().float())


def test_nan_is_an_error_and_not_a_black_picture(place):
    artist = painter(place / "sd15")
    next(artist.pipe.unet.parameters()).data.fill_(float("nan"))
    with pytest.raises(PSAError, match="NaN"):
        artist.draw(["ab"], [5], Settings(steps=1))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--levels", "L1"), "the same for everyone"),
        (("--adapter", "psa"), "Say who looks"),
        (("--adapter", "psa", "--levels", "L6"), "no level L6"),
        (("--adapter", "psa", "--levels", "L1", "--users", "users.csv"), "--users alone"),
        (("--adapter", "psa", "--embeddings", "nowhere"), "no folder of profile embeddings"),
        (("--adapter", "psa", "--levels", "L1", "--templates", "x"), "--llm"),
        (("--method", "../up"), "method's name cannot be used"),
        (("--steps", 0), "number of steps"),
        (("--guidance", "nan"), "guidance"),
        (("--size", 100), "multiple of 8"),
        (("--batch-size", 0), "at least 1"),
        (("--model", "nowhere"), r"no model_index\.json"),
    ],
)
def test_refusals(place, tmp_path, more, told):
    more = [str(place / "psa.safetensors") if argument == "psa" else argument for argument in more]
    with pytest.raises(PSAError, match=told):
        generate(place, tmp_path / "out", *more)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_the_adapter_names_the_encoder_that_needs_no_model(place, tmp_path):
    unet = painter(place / "sd15").pipe.unet
    save_adapter(adapter_for(unet, InferredEncoder), tmp_path / "inferred.safetensors")
    out = generate(place, tmp_path / "out", "--adapter", tmp_path / "inferred.safetensors", "--levels", "L5")
    (record,) = out.rglob("generation.json")
    assert json.loads(record.read_text())["encoder"] == InferredEncoder.id and len(pictures(out)) == 4


def test_prompts_and_users_that_do_not_fit(place, tmp_path):
    def run(rows, *more):
        prompts = write_prompts(tmp_path / "prompts.csv", rows)
        given = arguments(place, tmp_path / "out", *psa(place, *more))
        parser = argparse.ArgumentParser()
        generate_command.add_arguments(parser)
        generate_command.run(parser.parse_args([str(prompts), *given[1:]]))

    with pytest.raises(PSAError, match=r"b\.png belongs to no user"):
        run([("a.png", 1), ("b.png", None)], "--users", place / "users.csv")
    with pytest.raises(PSAError, match="user 0000009 is not in the users file"):
        run([("a.png", 1), ("b.png", 9)], "--users", place / "users.csv", "--method", "other")
    save_adapter(random_adapter(std=0.5, encoder_id="structured-v1", embedding_dim=35), tmp_path / "wrong.safetensors")
    with pytest.raises(PSAError, match="This adapter is for"):
        run([("a.png", 1)], "--levels", "L1", "--adapter", tmp_path / "wrong.safetensors", "--method", "wrong")
    save_adapter(random_adapter(std=0.5, encoder_id="some language model"), tmp_path / "llm.safetensors")
    with pytest.raises(PSAError, match="--llm"):
        run([("a.png", 1)], "--levels", "L1", "--adapter", tmp_path / "llm.safetensors", "--method", "llm")


def test_a_pickled_model_is_not_loaded(place, tmp_path):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(place / "sd15", model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(PSAError, match="safetensors"):
        generate(place, tmp_path / "out", "--model", model)


def test_two_processes_draw_what_one_does(place, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import argparse, torch\nfrom psa_core.commands import generate as generate_command\ntorch.set_num_threads(1)\n"
        "parser = argparse.ArgumentParser()\ngenerate_command.add_arguments(parser)\n"
        "generate_command.run(parser.parse_args())\n"
    )
    given = psa(place, "--levels", "L0", "L3", "L5", "--batch-size", 2)
    one = generate(place, tmp_path / "one", *given)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.run(
        [*launcher, *arguments(place, tmp_path / "two", *given)], env=env, capture_output=True, text=True, timeout=480
    )
    assert process.returncode == 0, process.stderr
    for number in (1, 2):
        assert f"6 pictures drawn, 0 were there (process {number} of 2)" in process.stdout
    assert farthest(pictures(one), pictures(tmp_path / "two")) <= NEAR
    records = [json.loads((out / "psa/mini/generation.json").read_text()) for out in (one, tmp_path / "two")]
    assert records[0] == records[1]


def test_a_folders_own_word_for_its_kind(tmp_path):
    folder = add_index(write_model(tmp_path / "model", "sd15"), "sd15")
    index = json.loads((folder / "model_index.json").read_text())

    def kind(**more) -> str:
        (folder / "model_index.json").write_text(json.dumps(index | more))
        return BaseModel.read(folder).kind

    assert (kind(), kind(_psa_kind="toy 2")) == ("mini", "toy 2")  # of width 64, and of its own word
    assert StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).unet is not None  # diffusers reads on
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 96}))
    assert kind(_psa_kind="toy") == "toy"
    with pytest.raises(PSAError, match="its context width is another"):
        kind()
    for odd in ("../up", "", 5, None, ["a"], "con"):
        with pytest.raises(PSAError, match="cannot be used"):
            kind(_psa_kind=odd)


ODD = [None, True, -1, 10**30, 0.5, "", "x", [], [[]], {}, {"a": 1}, [None, None], ["os", "system"], float("nan")]


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "vae/config.json"])
def test_descriptions_of_any_shape_are_read_or_refused_in_a_sentence(tmp_path, name):
    for part, config in {
        "unet": {"cross_attention_dim": 768, "sample_size": 64},
        "vae": {"block_out_channels": [8] * 4},
    }.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    whole = json.loads((tmp_path / name).read_text())
    texts = [json.dumps(odd) for odd in ODD]
    texts += [json.dumps(whole | {key: odd}) for key in whole for odd in ODD]
    texts += ["[" * 100_000, '{"a":' * 100_000, "{", "\xff", "9" * 5000, " " * (2 << 20)]
    refused = 0
    for text in texts:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        try:
            base = BaseModel.read(tmp_path)
            assert base.kind == "sd15" and 1 <= base.size <= 1024 * 128
        except PSAError:
            refused += 1
    assert refused > len(texts) / 2


@pytest.mark.parametrize("part", ["unet", "scheduler", "text_encoder"])
def test_no_code_that_lies_in_a_models_folder_is_run(place, tmp_path, part):
    """diffusers' own loader runs `{part}/{library}.py` where `model_index.json` names that library."""
    folder, canary = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(place / "sd15", folder)
    index = json.loads((folder / "model_index.json").read_text())
    for library in ("diffusers", "transformers", "evil"):
        (folder / part / f"{library}.py").write_text(f"open({str(canary)!r}, 'w')")
    (folder / "model_index.json").write_text(json.dumps(index | {part: ["evil", "Evil"]}))
    assert painter(folder).pipe.unet is not None
    assert not canary.exists()
    config = folder / "scheduler" / "scheduler_config.json"
    others = ("DDPMWuerstchenScheduler", "FlowMatchEulerDiscreteScheduler", "VQDiffusionScheduler")  # of other models
    for odd in ("os", "StableDiffusionPipeline", "utils", 5, None, ["DDIMScheduler"], *others):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": odd}))
        with pytest.raises(PSAError, match="scheduler"):
            painter(folder)


def test_damaged_parts_are_sentences(place, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(place / "sd15", folder)
    for name in ("unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/vocab.json"):
        content = (folder / name).read_bytes()
        for damaged in (b"{", b"[]", b'{"a": {}}'):
            (folder / name).write_bytes(damaged)
            with pytest.raises(PSAError):
                painter(folder)
        (folder / name).write_bytes(content)
    assert painter(folder).pipe.unet is not None


def test_negative_prompt_and_rescaled_guidance(place):
    """A negative prompt takes the empty one's place; rescaling is Lin et al.'s formula, applied at each step."""
    artist = painter(place / "sd15")
    drawn = {
        name: artist.draw(["ab"], [3], Settings(steps=2, guidance=6, **more))[0]
        for name, more in {
            "plain": {},
            "empty": {"negative_prompt": "", "guidance_rescale": 0.0},
            "negative": {"negative_prompt": "a stormy sea"},
            "itself": {"negative_prompt": "ab"},
            "rescaled": {"guidance_rescale": 0.7},
        }.items()
    }
    unguided = artist.draw(["ab"], [3], Settings(steps=2, guidance=1))[0]
    assert distance(drawn["plain"], drawn["empty"]) == 0
    assert distance(drawn["itself"], unguided) <= 2  # away from itself is nowhere
    assert min(distance(drawn["plain"], drawn[name]) for name in ("negative", "rescaled")) > 2


@pytest.mark.parametrize("given", [("--negative-prompt", "fog"), ("--guidance-rescale", 0.5)])
def test_negative_prompt_and_rescale_are_recorded(place, tmp_path, given):
    generate(place, tmp_path, *given)
    name = given[0].removeprefix("--").replace("-", "_")
    record = json.loads((tmp_path / "base" / "mini" / "generation.json").read_text())
    assert record["settings"][name] == given[1]
    with pytest.raises(PSAError, match=name):
        generate(place, tmp_path)
    with pytest.raises(PSAError, match="without guidance it does nothing"):
        generate(place, tmp_path / "other", *given, "--guidance", 1)


def test_a_converted_adapter_is_the_same_adapter(place, tmp_path):
    """As a half-precision .bin without metadata, or as .safetensors under another name with other metadata."""
    from psa_core import load_adapter

    adapter = load_adapter(place / "psa.safetensors")
    groups: dict[str, dict[str, torch.Tensor]] = {"psa_adapter": {}, "user_proj": {}}
    for key, value in adapter.state_dict().items():
        group, rest = key.split(".", 1)
        groups[group][rest] = value
    torch.save(groups, tmp_path / "psa.bin")
    adapter.training_summary = {"steps": 7}
    save_adapter(adapter, tmp_path / "copy.safetensors")
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for number in (1, 2, 3):
        vectors = StructuredEncoder().encode([user(number)]).vectors
        np.save(folder / f"{user(number).user_id}.npy", vectors.numpy())
    for file in (place / "psa.safetensors", tmp_path / "psa.bin", tmp_path / "copy.safetensors"):
        generate(place, tmp_path / "out", "--adapter", file, "--method", "psa", "--embeddings", folder)


def test_a_folder_of_the_first_format_goes_on(place, tmp_path):
    """As version 1 of `generation.json` stood there: hashes of the adapter's file and of whole rows, fewer settings."""
    given = psa(place, "--levels", "L1")
    record = generate(place, tmp_path, *given) / "psa" / "mini" / "generation.json"
    data = json.loads(record.read_text())
    rows = [["a.png", 1], ["b.jpg", 2], ["sub/c.png", 1], ["d.png", 3]]
    rows = [[name, caption, None, f"{number:07d}"] for (name, number), caption in zip(rows, CAPTIONS, strict=True)]
    first = {
        **data,
        "format": "psa-generation-1",
        "adapter": hashlib.blake2b((place / "psa.safetensors").read_bytes()).hexdigest()[:32],
        "prompts": hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest(),
        "settings": {
            name: value
            for name, value in data["settings"].items()
            if name not in ("negative_prompt", "guidance_rescale")
        },
    }
    record.write_text(json.dumps(first))
    generate(place, tmp_path, *given)
    with pytest.raises(PSAError, match="negative_prompt"):
        generate(place, tmp_path, *given, "--negative-prompt", "fog")
    record.write_text(json.dumps(first | {"adapter": "0" * 32}))
    with pytest.raises(PSAError, match=r"differs: adapter\."):
        generate(place, tmp_path, *given)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_run_that_was_killed_anywhere_ends_with_the_same_bytes(place, tmp_path, monkeypatch, batch_size):
    given = psa(place, "--levels", "L0", "L5", "--batch-size", batch_size)

    def files(out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}

    whole = files(generate(place, tmp_path / "whole", *given))

    class KilledError(BaseException):
        """Nothing in the pack catches it, and no handler tidies up: the part that was being written stays."""

    for moment in range(8):
        saves = itertools.count()

        def killed(image, path, saves=saves, moment=moment, **options):
            if next(saves) == moment:
                dead = path.parent / f".part-{'0' * 16}.png"  # as a process leaves it that nobody can ask
                dead.write_bytes(b"half")
                os.utime(dead, (0, 0))
                raise KilledError
            write_picture(image, path, **options)

        out = tmp_path / str(moment)
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr("psa_core.generate.run.write_picture", killed)
            generate(place, out, *given)
        assert any(".part-" in name for name in files(out))
        assert files(generate(place, out, *given)) == whole


def test_two_users_of_one_id_are_refused(place, tmp_path):
    with open(tmp_path / "users.csv", "w", newline="") as file:
        rows = [user(number).to_dict() for number in (1, 2, 2, 3)]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(PSAError, match="same User_ID"):
        generate(place, tmp_path / "out", *psa(place, "--users", tmp_path / "users.csv"))


def write_users(path: Path, *profiles: UserProfile) -> Path:
    with open(path, "w", newline="") as file:
        rows = [profile.to_dict() for profile in profiles]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_another_profile_under_the_same_id_is_another_run(place, tmp_path):
    users = [user(number) for number in (1, 2, 3)]
    path = write_users(tmp_path / "users.csv", *users)
    generate(place, tmp_path / "out", *psa(place, "--users", path))
    record = (tmp_path / "out/psa/mini/generation.json").read_bytes()
    write_users(path, *users[:2], replace(users[2], banned_categories=("Hate",), age=19))
    with pytest.raises(PSAError, match=r"viewers' profiles or embeddings.*\(users\)") as caught:
        generate(place, tmp_path / "out", *psa(place, "--users", path))
    said = str(caught.value).replace(str(tmp_path), "")  # which has a number of its own
    assert "Hate" not in said and "19" not in said
    write_users(path, *users)
    generate(place, tmp_path / "out", *psa(place, "--users", path))
    assert (tmp_path / "out/psa/mini/generation.json").read_bytes() == record


def test_other_embeddings_under_the_same_name_are_another_run(place, tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for profile in LEVELS.values():
        np.save(folder / f"{profile.user_id}.npy", StructuredEncoder().encode([profile]).vectors.numpy())
    given = psa(place, "--embeddings", folder)
    generate(place, tmp_path / "out", *given, "--levels", "L1")
    generate(place, tmp_path / "out", *given, "--levels", "L1", "L2")  # more viewers are no other ones
    np.save(folder / f"{LEVELS['L1'].user_id}.npy", StructuredEncoder().encode([LEVELS["L5"]]).vectors.numpy())
    generate(place, tmp_path / "out", *given, "--levels", "L2")
    with pytest.raises(PSAError, match=r"\(level_1\)"):
        generate(place, tmp_path / "out", *given, "--levels", "L1", "L2")


def test_a_record_tells_a_profile_only_to_who_has_the_key(place, tmp_path):
    pictures_ = plan(read_prompts(place / "prompts.csv"), tmp_path, personal=True)
    profiles = by_id([user(number) for number in (1, 2, 3)])
    one, same, other = (viewers_id(pictures_, [], told_by_profile(profiles), key) for key in (b"1", b"1", b"2"))
    assert one == same and one.keys() == other.keys() == {"users"} and one != other


def test_a_folder_of_an_earlier_version_goes_on_and_notes_its_viewers(place, tmp_path, caplog):
    given = psa(place, "--users", place / "users.csv")
    path = generate(place, tmp_path, *given) / "psa/mini/generation.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != "viewers"}))
    generate(place, tmp_path, *given)
    assert json.loads(path.read_text()) == whole and "earlier version" in caplog.text
    path.write_text(json.dumps(whole | {"viewers": {"users": 5}}))
    with pytest.raises(PSAError, match="viewers"):
        generate(place, tmp_path, *given)


def test_of_two_first_runs_with_other_settings_one_hears_so(tmp_path):
    def claim(number: int, folder: Path, start: threading.Barrier) -> str | None:
        record = Record("mini", "0" * 32, None, None, "1" * 32, Settings(steps=2 + number))
        start.wait()
        try:
            record.claim(folder, [])
        except PSAError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        for attempt in range(30):
            start, folder = threading.Barrier(4), tmp_path / str(attempt)
            said = list(pool.map(lambda n, f=folder, s=start: claim(n, f, s), range(4)))
            assert said.count(None) == 1, said
            there = json.loads((folder / "generation.json").read_text())
            assert there["settings"]["steps"] == 2 + said.index(None)
