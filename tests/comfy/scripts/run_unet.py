"""Inside ComfyUI: run a small UNet with an adapter through PSA Apply. Argument: a folder with the case.

Reads config.json (ComfyUI's UNetModel arguments), unet.safetensors (original layout),
adapter.safetensors and inputs.safetensors; writes eps.safetensors, a prediction for each strength.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

from in_comfyui import pack_module, start_comfyui

folder = Path(sys.argv[1])
start_comfyui()

import torch
from random_unets import unet_model
from safetensors.torch import load_file, save_file

core, apply = pack_module("psa_core"), pack_module("nodes.apply")
case = json.loads((folder / "config.json").read_text())
inputs = load_file(folder / "inputs.safetensors")
model = unet_model(case["family"], case["unet"])
unet = model.model.diffusion_model
prefix = "model.diffusion_model."
unet.load_state_dict({k.removeprefix(prefix): v for k, v in load_file(folder / "unet.safetensors").items()})
adapter = core.load_adapter(folder / "adapter.safetensors")
embedding = core.UserEmbedding(inputs["user_embedding"])


def predict(strength: float, kind: int) -> torch.Tensor:
    options = apply.apply_adapter(model, adapter, embedding, strength).model_options["transformer_options"]
    with torch.inference_mode():
        return unet(
            inputs["latents"],
            inputs["timesteps"],
            context=inputs["text"],
            y=inputs.get("y"),
            transformer_options=options | {"cond_or_uncond": [kind], "sigmas": torch.ones(1)},
        )


eps = {f"cond_{strength}": predict(strength, 0) for strength in (0.0, 0.6, 1.0)} | {"uncond_1.0": predict(1.0, 1)}
save_file(eps, folder / "eps.safetensors")
