"""Inside ComfyUI: one step of a full-size UNet with random weights under PSA Apply. Argument: sd15 or sdxl."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

from in_comfyui import pack_module, start_comfyui

family = sys.argv[1]
start_comfyui()

import torch
from random_unets import full_size_model

core, apply, attn2 = (pack_module(name) for name in ("psa_core", "nodes.comfy.apply", "nodes.comfy.attn2"))
model = full_size_model(family, torch.bfloat16)
unet = model.model.diffusion_model
sites = attn2.cross_attention_sites(unet)
assert len(sites) == {"sd15": 16, "sdxl": 70}[family]
adapter = core.PSAAdapter([site.width for site in sites], sites[0].context_dim, 35, encoder_id="structured-v1")
for layer in adapter.psa_adapter:
    torch.nn.init.normal_(layer.to_v_user[0].weight, std=0.02)
patched = apply.apply_adapter(model, adapter, core.StructuredEncoder().encode([core.LEVELS["L5"]]))

torch.manual_seed(0)
latents, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, sites[0].context_dim)
pooled = {"y": torch.randn(1, 2816).bfloat16()} if family == "sdxl" else {}
outputs = []
for m in (model, patched):
    options = m.model_options["transformer_options"] | {"cond_or_uncond": [0], "sigmas": torch.ones(1)}
    with torch.inference_mode():
        eps = unet(
            latents.bfloat16(),
            torch.tensor([500.0]),
            context=text.bfloat16(),
            transformer_options=options,
            **pooled,
        )
    assert torch.isfinite(eps).all()
    outputs.append(eps)
assert not outputs[0].equal(outputs[1]), "the adapter has no effect"
