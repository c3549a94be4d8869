"""Inside ComfyUI: load a mini model and run each part. Argument: a folder with the case.

Reads base/ (the model), prompts.json and inputs.safetensors; writes outputs.safetensors.
"""

import json
import sys
from pathlib import Path

from in_comfyui import pack_module, start_comfyui

folder = Path(sys.argv[1])
start_comfyui()

import torch
from safetensors.torch import load_file, save_file

assert "diffusers" not in sys.modules
sys.modules["diffusers"] = None  # importing it fails from here on, as for most users of ComfyUI

mini = pack_module("nodes.comfy.mini_model")
inputs = load_file(folder / "inputs.safetensors")
prompts = json.loads((folder / "prompts.json").read_text())
with torch.inference_mode():  # as nodes run
    model, clip, vae = (load(folder / "base") for load in (mini.load_model, mini.load_clip, mini.load_vae))

    def encode(texts: list[str], layer: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        clip.clip_layer(layer)
        encoded = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in texts]
        return torch.cat([text for text, _ in encoded]), torch.cat([pooled for _, pooled in encoded])

    text, pooled = encode(prompts)
    outputs = {
        "noise": model.model.diffusion_model(inputs["latents"], inputs["timesteps"], context=inputs["text"]),
        "text": text,
        "pooled": pooled,
        "text_skip_1": encode(prompts, layer=-2)[0],
        "tokens": torch.tensor([[token for token, _ in clip.tokenize(prompt)["l"][0]] for prompt in prompts]),
        "weighted": encode(["(a red circle:1.5) and a heart"])[0],
        "decoded": vae.decode(inputs["latents"]),
        "encoded": vae.encode(inputs["pixels"]),
        "sigmas": model.get_model_object("model_sampling").sigmas,
        "scaled": model.model.process_latent_in(inputs["latents"]),
    }
save_file({name: value.float().contiguous().clone() for name, value in outputs.items()}, folder / "outputs.safetensors")
