"""Inside ComfyUI: the trainer's denoiser on a UNet from a file. Argument: a folder with the case.

Reads unet.safetensors (original layout), adapter.safetensors and inputs.safetensors; writes
results.safetensors: the predictions with and without the user, and the adapter's gradients.
"""

import sys
from pathlib import Path

from in_comfyui import pack_module, start_comfyui

folder = Path(sys.argv[1])
start_comfyui()

import torch
from comfy.sd import load_diffusion_model_state_dict
from safetensors.torch import load_file, save_file

core, training, denoisers = (pack_module(name) for name in ("psa_core", "psa_core.training", "nodes.comfy.denoiser"))

with torch.inference_mode():  # as ComfyUI runs its nodes
    model = load_diffusion_model_state_dict(load_file(folder / "unet.safetensors"))
    inputs = load_file(folder / "inputs.safetensors")
    adapter = core.load_adapter(folder / "adapter.safetensors")
    with denoisers.borrowed(model, "bf16") as denoiser, torch.inference_mode(False), torch.enable_grad():
        inputs = {name: value.clone() for name, value in inputs.items()}
        adapter = core.PSAAdapter(
            adapter.layer_widths, adapter.cross_attention_dim, adapter.embedding_dim, adapter.num_tokens
        )
        adapter.load_state_dict(core.load_adapter(folder / "adapter.safetensors").state_dict())
        conditioning = {name: inputs[name] for name in ("text", "pooled", "sizes") if name in inputs}
        user = training.User(adapter, adapter.user_tokens(inputs["user_embedding"]))
        with torch.no_grad():
            reference = denoiser(inputs["noisy"], inputs["timesteps"], conditioning)
        prediction = denoiser(inputs["noisy"], inputs["timesteps"], conditioning, user)
        (prediction * inputs["direction"]).sum().backward()

gradients = {f"gradient.{name}": p.grad for name, p in adapter.named_parameters() if p.grad is not None}
save_file({"reference": reference, "prediction": prediction.detach(), **gradients}, folder / "results.safetensors")
