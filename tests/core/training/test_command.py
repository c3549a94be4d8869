"""`psa train` on a model folder in diffusers layout, in one process and under `accelerate launch`."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import tiny_training
import torch
from safetensors.torch import load_file
from tiny_training import write_model, write_split

from psa_core import PSAError, load_adapter
from psa_core.commands import train as command
from psa_core.encoders.structured import InferredEncoder
from psa_core.signals import stop_signals
from psa_core.training import TensorCache, TrainConfig, fill_cache, read_metrics, read_split
from psa_core.training.diffusers_models import DiffusersFolder
from psa_core.training.folder import RunFolder

LAST = "last.safetensors"
TRAINING = {**tiny_training.QUICK, "resolution": 128, "bucket_step": 64, "evaluate_every": 2, "warmup_steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models `sd15` and `sdxl`, and `data`."""
    folder = tmp_path_factory.mktemp("place")
    for kind in ("sd15", "sdxl"):
        write_model(folder / kind, kind)
    write_split(folder / "data", "train", range(6), 12)
    write_split(folder / "data", "val", range(6), 6)
    return folder


def run_file(place: Path, name: str, model: str = "sd15", entries: str = "", **settings) -> Path:
    path = place / f"{name}.toml"
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**TRAINING, **settings}.items())
    path.write_text(
        f'model = "{model}"\ndata = "data"\noutput = "{name}"\ncache = "cache-{model}"\nheld_out = ["val"]\n{entries}\n'
        f"[training]\n{values}\n"
    )
    return path


def train(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def launch(*arguments, processes: int | None = None, environment: dict | None = None) -> subprocess.Popen:
    head = [sys.executable, tiny_training.__file__]
    if processes:
        # What `accelerate launch` does for several GPUs; its own way to several CPUs needs MPI.
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        head = [*launcher, "--nproc_per_node", str(processes), tiny_training.__file__]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | (environment or {})
    command_line = [*head, "train", "--config", *map(str, arguments)]
    return subprocess.Popen(command_line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_trains_a_diffusers_folder(place, kind, capsys):
    assert train("--config", run_file(place, f"plain-{kind}", kind, steps=4)) == 0
    said = capsys.readouterr().out
    assert "train: 12 pairs, 6 users, 0 left out" in said and "All 4 steps are done." in said
    adapter = load_adapter(place / f"plain-{kind}" / "last.safetensors")
    assert adapter.cross_attention_dim == {"sd15": 64, "sdxl": 96}[kind]
    assert any(layer.to_v_user[0].weight.any() for layer in adapter.psa_adapter)
    assert len(read_metrics(place / f"plain-{kind}")) == 4


def test_an_adapter_can_learn_without_seeing_the_bans(place):
    assert train("--config", run_file(place, "inferred", entries='encoder = "structured-inferred"', steps=1)) == 0
    assert load_adapter(place / "inferred" / "last.safetensors").encoder_id == InferredEncoder.id


def test_precision_and_checkpointing_train_too(place):
    settings = {"precision": "bf16", "gradient_checkpointing": True, "preset": "recommended", "steps": 2}
    assert train("--config", run_file(place, "bf16", "sdxl", 'harmless = "val"', **settings)) == 0
    assert all(row["anchor_error"] >= 0 for row in read_metrics(place / "bf16"))


def test_encoders_are_those_of_the_pipelines(place):
    """The cached conditioning and latents are what diffusers' own SD1.5 and SDXL pipelines compute."""
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    config = TrainConfig.from_dict(TRAINING)
    folder = DiffusersFolder(place / "sdxl", torch.device("cpu"), config)
    parts = {
        "vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection, "tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer,
    }  # fmt: skip
    loaded = {name: kind.from_pretrained(place / "sdxl", subfolder=name) for name, kind in parts.items()}
    pipeline = StableDiffusionXLPipeline(**loaded, scheduler=None)
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt(["a cat", "abba"], device="cpu", do_classifier_free_guidance=False)
        ours = folder.text_encoder().encode(["a cat", "abba"])
        pixels = torch.rand(2, 3, 64, 64) * 2 - 1
        latents = loaded["vae"].encode(pixels).latent_dist.mean * loaded["vae"].config.scaling_factor
    torch.testing.assert_close(ours["text"], text)
    torch.testing.assert_close(ours["pooled"], pooled)
    torch.testing.assert_close(folder.image_encoder().encode(pixels), latents)


def test_a_shared_cache_holds_the_texts_of_each_precision(place, tmp_path):
    kept = TensorCache(tmp_path)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        config = TrainConfig.from_dict({**TRAINING, "precision": precision})
        texts = DiffusersFolder(place / "sd15", torch.device("cpu"), config).text_encoder()
        fill_cache(read_split(place / "data", "val"), kept, config, tiny_training.encoders()[0], texts)
        assert kept.get(texts.key(""))["text"].dtype == dtype


@pytest.mark.parametrize("times", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_config_with_a_damaged_byte_is_refused_or_the_run_ends_the_same(place, tmp_path, monkeypatch, times):
    """A run that goes on by a config in which a bit has flipped, or whose end is cut off: it is refused, ends as it
    would have, or is another one in another folder."""
    path, begun = place / "damaged.toml", tmp_path / "begun"
    content = run_file(place, "damaged", steps=4, schedule="cosine", evaluate_every=2).read_bytes()
    run, save = place / "damaged", RunFolder.save

    def noting(folder: RunFolder, state: dict) -> None:
        save(folder, state)
        if state["step"] == 2 and not begun.exists():
            shutil.copytree(run, begun)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", noting)
        assert train("--config", path) == 0
    whole, before, seed = load_file(run / LAST), files(begun), random.randrange(2**32)
    print(f"seed {seed}, {times} damages")
    rng, ends = random.Random(seed), Counter()
    for _ in range(times):
        shutil.rmtree(run)
        shutil.copytree(begun, run)
        at = rng.randrange(len(content))
        flipped = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        path.write_bytes(content[:at] if rng.random() < 0.1 else flipped)
        try:
            code = train("--config", path)
        except PSAError as error:
            assert str(error).endswith((".", "?"))
            code = 2
        ends[code] += 1
        last = load_file(run / LAST)
        is_whole = code == 0 and all(torch.equal(last[name], value) for name, value in whole.items())
        assert is_whole or files(run) == before, f"damaged at {at}: {path.read_bytes()}"
    print(dict(ends))


def files(run: Path) -> dict[str, bytes]:
    """A run's adapters and state."""
    return {path.name: path.read_bytes() for path in run.glob("*.safetensors")}


def test_two_processes_train_the_same_adapter_and_resume(place):
    """Same config, same adapter: one process for 6 steps; two for 3, then two for the other 3."""
    settings = {"anchor_weight": 1.0, "standardise": True, "num_tokens": 2}
    finish(launch(run_file(place, "one", steps=6, **settings)))
    finish(launch(run_file(place, "two", steps=3, **settings), processes=2))
    assert read_metrics(place / "two")[-1]["step"] == 3
    output = finish(launch(run_file(place, "two", steps=6, **settings), processes=2))
    assert output.count("All 6 steps are done.") == 1  # one process speaks
    one, two = (load_adapter(place / run / "last.safetensors") for run in ("one", "two"))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert one.training_summary == two.training_summary
    rows = [read_metrics(place / run) for run in ("one", "two")]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "winner_error", "gradient_norm"):
        assert [row[name] for row in rows[0]] == pytest.approx([row[name] for row in rows[1]], rel=1e-3)
    assert rows[0][-1]["val/loss"] == pytest.approx(rows[1][-1]["val/loss"], rel=1e-3)


def test_processes_that_do_not_see_each_other_are_refused(place):
    path = run_file(place, "apart", steps=2)
    process = launch(path, processes=2, environment={"ACCELERATE_USE_CPU": "false"})
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0 and "ACCELERATE_USE_CPU=true" in output
    assert RunFolder(place / "apart").load() is None


@pytest.mark.parametrize("number", [signal.SIGINT, *stop_signals()])
def test_signal_saves_and_a_second_start_goes_on(place, number):
    name = f"signal-{number}"
    process = launch(run_file(place, name, steps=100_000, save_every=10_000, evaluate_every=0))
    deadline = time.monotonic() + 120
    while len(read_metrics(place / name)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    said = finish(process, 128 + number)
    assert "Unfinished" in said and "start again to go on" in said
    step = RunFolder(place / name).load()["step"]
    assert 2 <= step == read_metrics(place / name)[-1]["step"]
    finish(launch(run_file(place, name, steps=step + 1, save_every=10_000, evaluate_every=0)))
    assert read_metrics(place / name)[-1]["step"] == step + 1


def test_skip_bad_lists_what_it_left_out(place, capsys):
    path = run_file(place, "skip", steps=1, entries='split = "bad"')
    shutil.copytree(place / "data" / "train", place / "data" / "bad")
    (place / "data" / "bad" / "user_0000003_Violence_square_3_s.png").write_bytes(b"no")
    with pytest.raises(PSAError, match="line 4: user_0000003_Violence_square_3_s"):
        train("--config", path)
    assert not (place / "skip").exists()
    assert train("--config", path, "--skip-bad") == 0
    assert "left out: bad/metadata.jsonl, line 4: user_0000003" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_found_before_the_work(place):
    (place / "blocked").write_text("a file")
    (place / "uncached").symlink_to("sd15")
    with pytest.raises(PSAError, match=r"run folder .* cannot be made"):
        train("--config", run_file(place, "blocked", "uncached"))
    assert not (place / "cache-uncached").exists()


def test_refusals(place, tmp_path):
    with pytest.raises(PSAError, match="has no 'unet'"):
        train("--config", run_file(place, "nowhere", "data"))
    with pytest.raises(PSAError, match="no folder of profile embeddings"):
        train("--config", run_file(place, "embeds", entries='encoder = "nothing"'))
    broken = tmp_path / "broken"
    shutil.copytree(place / "sd15", broken)
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        PSAError, match=r"cannot be loaded as .safetensors weights: its part 'vae' is missing or damaged"
    ):
        train("--config", run_file(place, "broken", str(broken).replace("\\", "/"), entries=""))
