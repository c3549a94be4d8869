"""The base model: its tokenizer, the VAE's starting point, and a training that stops and goes on."""

import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F
from checkpoints import small_adapter
from safetensors import SafetensorError

from psa_core import PSAError, StructuredEncoder, UserProfile
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.locks import locked_folder
from psa_core.mini import BASE_MODEL, base_model, vae_weights
from psa_core.mini.base_model import load_tokenizer, new_unet, new_vae, scenes, tokenize, words, write_tokenizer
from psa_core.mini.generate import MiniModel
from psa_core.model_folder import load_part

VAE_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / "tokenizer")
    return load_tokenizer(folder)


@pytest.mark.parametrize("word", words())
def test_every_word_of_the_world_is_one_token(tokenizer, word):
    _, token, _ = tokenizer(word).input_ids
    assert tokenizer.decode([token]).strip() == word


def test_every_prompt_of_the_world_fits_and_reads_back(tokenizer):
    _, captions = scenes(1, 50)
    for prompt in itertools.chain(*captions):
        numbers = tokenizer(prompt).input_ids
        assert len(numbers) <= base_model.MAX_TOKENS
        assert tokenizer.decode(numbers[1:-1]).strip() == prompt


def test_other_words_fall_into_letters(tokenizer):
    assert len(tokenizer("cat").input_ids) > 3
    assert tokenizer.decode(tokenizer("cat").input_ids[1:-1]).strip() == "cat"


def test_prompts_become_rows_of_one_length(tokenizer):
    assert tokenize(tokenizer, ["", "a sea"]).shape == (2, base_model.MAX_TOKENS)


def test_the_untrained_vae_keeps_each_cells_mean_colour():
    torch.manual_seed(0)
    vae, pixels = new_vae(), scenes(2, 16)[0].float() / 127.5 - 1
    blurred = F.interpolate(F.avg_pool2d(pixels, 8), scale_factor=8)
    with torch.no_grad():
        plain = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        vae_weights.start_as_blur(vae, pixels)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    # Far nearer to the blurred picture's error than to that of a VAE with random weights, which is ten times as large.
    errors = [F.l1_loss(each, pixels) for each in (blurred, decoded, plain)]
    assert errors[1] - errors[0] < 0.1 * (errors[2] - errors[0])


def test_folded_latents_are_standardised_and_decode_as_before():
    torch.manual_seed(0)
    vae, pictures = new_vae(), scenes(3, 64)[0]
    pixels = pictures.float() / 127.5 - 1
    vae_weights.start_as_blur(vae, pixels)
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        spread = (
            vae.encode(pixels).latent_dist.std / vae.encode(pixels).latent_dist.mode().std((0, 2, 3))[:, None, None]
        )
        vae_weights.standardise_latents(vae, pictures)
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mode() * base_model.LATENT_SCALE
        after = vae.decode(posterior.mode()).sample
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior.std * base_model.LATENT_SCALE, spread, rtol=1e-3, atol=0)


class Stop(Exception):  # noqa: N818  (a request, not an error)
    pass


@pytest.fixture
def quick(monkeypatch):
    small = {"VAE_STEPS": 4, "VAE_BATCH": 2, "VAE_SCENES": 16, "UNET_BATCH": 2, "SCENES": 8, "_SAVE_EVERY": 2}
    for name, value in small.items():
        monkeypatch.setattr(base_model, name, value)


def test_a_stopped_training_goes_on_to_the_same_model(quick, tmp_path):
    def stop_at(text):
        if text.startswith("unet: step 4"):
            raise Stop

    base_model.train_base(tmp_path / "whole", unet_steps=6)
    lines = []
    for _ in range(2):  # a report comes before the save, so the second start meets step 2
        try:
            base_model.train_base(tmp_path / "stopped", unet_steps=6, report=stop_at if not lines else lines.append)
        except Stop:
            lines.append("stopped")
    assert not any("vae" in line for line in lines)
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole, stopped = ((tmp_path / run / part / f"{name}.safetensors").read_bytes() for run in ("whole", "stopped"))
        assert whole == stopped


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")], ids=str)
def test_a_full_disk_at_the_last_step_loses_no_training(quick, tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    with monkeypatch.context() as patched, pytest.raises(PSAError, match="its training is kept"):
        patched.setattr("diffusers.UNet2DConditionModel.save_pretrained", full)
        base_model.train_base(tmp_path / "model", unet_steps=2)
    lines: list[str] = []
    base_model.train_base(tmp_path / "model", unet_steps=2, report=lines.append)
    assert not lines and MiniModel(tmp_path / "model")


def test_the_folder_is_one_that_diffusers_loads_and_the_adapter_draws_with(quick, tmp_path):
    base_model.train_base(tmp_path, unet_steps=2)
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert pipeline.scheduler.config.beta_end == 0.012
    assert not (tmp_path / "training").exists()
    model = MiniModel(tmp_path)
    users = StructuredEncoder().encode([UserProfile(5, "male"), UserProfile(40, "female")])
    adapter = small_adapter(pipeline.unet)
    prompts, seeds = ["a sea with a red circle"] * 2, [1, 1]
    plain, personal = model.draw(prompts, seeds, steps=2), model.draw(prompts, seeds, adapter, users, steps=2)
    assert plain.shape == (2, 3, 128, 128)
    assert torch.equal(plain[0], plain[1])
    assert not torch.equal(personal[0], personal[1])
    torch.testing.assert_close(model.draw(prompts, seeds, adapter, users, strength=0.0, steps=2), plain)
    with pytest.raises(PSAError, match="one seed"):
        model.draw(prompts, [1], steps=2)


def test_a_model_that_goes_on_from_another_names_no_place(quick, tmp_path):
    base_model.train_base(tmp_path / "first", unet_steps=2)
    base_model.train_base(tmp_path / "second", unet_steps=2, start=tmp_path / "first")
    for folder in (tmp_path / "second", BASE_MODEL):
        for config in folder.rglob("*.json"):
            text = config.read_text(encoding="utf-8")
            assert "_name_or_path" not in text and str(tmp_path) not in text


def test_going_on_keeps_the_vae_and_the_words_that_both_know(quick, tmp_path):
    base_model.train_base(tmp_path / "first", unet_steps=2)
    base_model.train_base(tmp_path / "second", unet_steps=2, start=tmp_path / "first")
    first, second = ((tmp_path / name / "vae" / VAE_FILE).read_bytes() for name in ("first", "second"))
    assert first == second
    unet, text_encoder = base_model._models_of(tmp_path / "first", tmp_path / "second", 0)
    before = load_part(tmp_path / "first", "text_encoder", torch.float32).state_dict()
    for name, value in text_encoder.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in unet.parameters())


def test_a_missing_part_is_named(tmp_path):
    with pytest.raises(PSAError, match="has no 'unet'"):
        MiniModel(tmp_path)


def test_the_model_is_small_and_has_fourteen_cross_attentions():
    models = (new_unet(), new_vae(), base_model.new_text_encoder())
    assert len(cross_attention_layers(models[0])) == 14
    assert 2 * sum(p.numel() for model in models for p in model.parameters()) < 8e6  # bytes, in half precision


def test_a_folder_that_holds_something_is_left_alone(quick, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "precious").write_text("mine")
    with pytest.raises(PSAError, match="is not empty"):
        base_model.train_base(tmp_path, unet_steps=2)
    assert (tmp_path / "training" / "precious").read_text() == "mine"


def test_a_finished_model_is_not_trained_over(quick, tmp_path):
    base_model.train_base(tmp_path, unet_steps=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(PSAError, match="is not empty"):
        base_model.train_base(tmp_path, unet_steps=2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_stopped_training_goes_on_as_the_same_one_alone(quick, tmp_path):
    def stop(text: str) -> None:
        raise Stop

    place = tmp_path / "model"
    base_model.train_base(tmp_path / "first", unet_steps=2)
    for start in (None, tmp_path / "first"):
        with pytest.raises(Stop):
            base_model.train_base(place, unet_steps=4, report=stop, start=start)
        for changes in ({"seed": 1}, {"unet_steps": 5}, {"start": BASE_MODEL}):
            with pytest.raises(PSAError, match="is not empty"):
                base_model.train_base(place, **{"unet_steps": 4, "start": start, **changes})
        with (
            locked_folder(place, "training a base model in"),
            pytest.raises(PSAError, match="Another process is training a base model in"),
        ):
            base_model.train_base(place, unet_steps=4, start=start)
        base_model.train_base(place, unet_steps=4, start=start)
        assert sorted(path.name for path in place.iterdir()) == [
            ".lock", "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"
        ]  # fmt: skip
        shutil.rmtree(place)


def test_a_kill_after_the_last_file_leaves_nothing_to_train(quick, tmp_path, monkeypatch):
    def killed(*_, **__) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(base_model.shutil, "rmtree", killed)
        base_model.train_base(tmp_path, unet_steps=2)
    shutil.rmtree(tmp_path / "training")
    monkeypatch.setattr(base_model, "_train_in", None)
    base_model.train_base(tmp_path, unet_steps=2)
    assert not (tmp_path / ".unfinished").exists()
