"""Inside ComfyUI: PSA Evaluate's pictures, and those that stock nodes draw one by one with the same settings.

Arguments: a checkpoint, an adapter, a mini dataset's folder, and a folder for `drawn.safetensors`.
"""

import sys
from pathlib import Path

from in_comfyui import pack_module, start_comfyui

checkpoint, adapter_file, data, out = (Path(argument) for argument in sys.argv[1:5])
start_comfyui()

import comfy.sample
import comfy.sd
import numpy as np
import torch
from comfy.utils import ProgressBar
from safetensors.torch import save_file

import nodes

core, training, seeds, cases_module, studios = (
    pack_module(name)
    for name in (
        "psa_core",
        "psa_core.training",
        "psa_core.seeds",
        "psa_core.evaluate.cases",
        "nodes.comfy.studio",
    )
)
SIZE, SEED, COUNT = 64, 3, 3
SAMPLING = {"steps": 3, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def stock(model, caption, number):
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (caption, ""))
    latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
    seed = seeds.draw_seed(SEED, number)
    settings = (SAMPLING[name] for name in ("steps", "cfg", "sampler_name", "scheduler"))
    (drawn,) = nodes.common_ksampler(model, seed, *settings, positive, negative, latent)
    return nodes.VAEDecode().decode(vae, drawn)[0][..., :3]


with torch.inference_mode():
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=True, output_clip=True)
    adapter = core.load_adapter(adapter_file)
    cases = cases_module.Cases(training.read_split(data, "test_unseen"), COUNT)
    studio = studios.Studio(model, clip, vae, studios.Sampling((SIZE, SIZE), SEED, **SAMPLING))
    captions = [prompt.caption for prompt in cases.prompts]
    results = {}
    for name, each in (("base", None), ("PSA", adapter)):
        method = studios.Method(name, each, cases.profiles, None)
        pictures = studio.draw(method, cases, slice(0, COUNT), ProgressBar(1))
        results[f"{name} ours"] = (
            torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).float() / 255
        )
        alone = []
        for number, (caption, viewers) in enumerate(zip(captions, cases.viewers, strict=True)):
            embedding = core.StructuredEncoder().encode(list(viewers.values()))
            alone.append(stock(studios.apply_adapter(model, each, embedding) if each else model, caption, number))
        results[f"{name} stock"] = torch.cat(alone).contiguous()
save_file({name: value.contiguous() for name, value in results.items()}, out / "drawn.safetensors")
