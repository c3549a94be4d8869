"""Inside ComfyUI: PSA Evaluate's pictures, and those that stock nodes draw one by one with the same settings.

Arguments: a checkpoint, an adapter, and a mini dataset's folder.
"""

import sys
from functools import cache
from pathlib import Path

from in_comfyui import pack_module, run_checks, start_comfyui

checkpoint, adapter_file, data = (Path(argument) for argument in sys.argv[1:4])
start_comfyui()

import comfy.sd
import torch
from comfy.utils import ProgressBar

import nodes

core, training, seeds, evaluated, images, studios = (
    pack_module(name)
    for name in (
        "psa_core",
        "psa_core.training",
        "psa_core.seeds",
        "psa_core.evaluate.cases",
        "nodes.comfy.images",
        "nodes.comfy.studio",
    )
)
SIZE, SEED, COUNT = 64, 3, 3
SAMPLING = {"steps": 3, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}

with torch.inference_mode():
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=True, output_clip=True)
adapter = core.load_adapter(adapter_file)
cases = evaluated.Cases(training.read_split(data, "test_unseen"), COUNT)


def studio(size=(SIZE, SIZE), vae=vae):
    return studios.Studio(model, clip, vae, studios.Sampling(size, SEED, **SAMPLING))


@cache
@torch.inference_mode()
def ours(name):
    method = studios.Method(name, adapter if name == "PSA" else None, cases.profiles, None)
    return images.to_comfy(studio().draw(method, cases, slice(0, COUNT), ProgressBar(1)))


@torch.inference_mode()
def stock(model, caption, number):
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (caption, ""))
    latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
    settings = (SAMPLING[name] for name in ("steps", "cfg", "sampler_name", "scheduler"))
    seed = seeds.draw_seed(SEED, number)
    (drawn,) = nodes.common_ksampler(model, seed, *settings, positive, negative, latent)
    return nodes.VAEDecode().decode(vae, drawn)[0][0, ..., :3]


def refused(sentence, call):
    try:
        call()
    except core.PSAError as error:
        assert sentence in str(error), error
    else:
        raise AssertionError(f"not refused: {sentence}")


def check_the_base_model_draws_as_stock_nodes_do():
    for number, prompt in enumerate(cases.prompts):
        assert (ours("base")[number] - stock(model, prompt.caption, number)).abs().max() < 0.01, number


def check_each_record_is_drawn_for_its_user_as_psa_apply_does():
    for number, (prompt, viewers) in enumerate(zip(cases.prompts, cases.viewers, strict=True)):
        embedding = core.StructuredEncoder().encode(list(viewers.values()))
        applied = studios.apply_adapter(model, adapter, embedding)
        assert (ours("PSA")[number] - stock(applied, prompt.caption, number)).abs().max() < 0.01, number


def check_the_adapter_changes_pictures_and_each_record_has_noise_of_its_own():
    assert not torch.equal(ours("base"), ours("PSA"))
    assert not torch.equal(ours("base")[0], ours("base")[1])


def check_sizes_and_vaes_that_cannot_work_are_refused():
    refused("multiples of 8", lambda: studio((60, 64)))
    other = vae.__class__.__new__(vae.__class__)
    other.__dict__.update(vae.__dict__, latent_channels=16)
    refused("VAE belongs to another kind", lambda: studio(vae=other))


def check_a_judge_is_made_from_the_nodes_own_words():
    refused("judge_location empty", lambda: studios.evaluating_judge(model, "NudeNet", "/somewhere", ""))
    remote = "http://judge.example/v1"
    refused("psa evaluate", lambda: studios.evaluating_judge(model, "vision-language model", remote, "x"))
    try:
        studios.evaluating_judge(model, "vision-language model", remote, "x")
    except core.PSAError as error:
        assert "allow_remote" not in str(error), error


run_checks(globals())
