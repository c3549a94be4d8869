"""What PSA Apply costs in the real ComfyUI: time of a denoising step and memory, beside the plain model.

Full-size SD1.5 and SDXL UNets with random weights, in the ComfyUI and its Python that the tests use:

    python bench/apply_cost.py [--sdxl]
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

INSIDE = "--inside-comfyui"
sdxl = "--sdxl" in sys.argv

if INSIDE not in sys.argv:
    from psa_core.comfy_server import find_comfyui

    comfyui = find_comfyui()
    if comfyui is None:
        sys.exit("This measures the real ComfyUI, and there is none: set COMFYUI_PATH to its folder.")
    command = [str(comfyui.python), str(Path(__file__).resolve()), INSIDE, *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=comfyui.folder).returncode)

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from in_comfyui import pack_module, start_comfyui

start_comfyui()

import torch
from random_unets import full_size_model

PAIRS = 3 if sdxl else 9
LATENT = 32  # 256 px: the smaller the picture, the larger our share of a step


def main() -> None:
    core, apply, attn2 = (pack_module(name) for name in ("psa_core", "nodes.apply", "nodes.attn2"))
    model = full_size_model("sdxl" if sdxl else "sd15", torch.bfloat16 if sdxl else torch.float32)
    sites = attn2.cross_attention_sites(model.model.diffusion_model)
    adapter = core.PSAAdapter([site.width for site in sites], sites[0].context_dim, 35, encoder_id="structured-v1")
    for layer in adapter.psa_adapter:
        torch.nn.init.normal_(layer.to_v_user[0].weight, std=0.02)
    patched = apply.apply_adapter(model, adapter, core.StructuredEncoder().encode([core.LEVELS["L5"]]))

    step = denoising_step(sites[0].context_dim, model.model_dtype(), sdxl)
    plain, with_psa = [], []
    step(model), step(patched)  # warm-up
    for _ in range(PAIRS):
        plain.append(timed(step, model))
        with_psa.append(timed(step, patched))
    ratios = [b / a for a, b in zip(plain, with_psa, strict=True)]
    name = "SDXL (bfloat16)" if sdxl else "SD1.5 (float32)"
    print(f"{name}, {len(sites)} cross-attention layers, {LATENT * 8} px, prompt + negative prompt in one batch")
    print(f"  step, plain      {median(plain):8.3f} s")
    print(f"  step, PSA Apply  {median(with_psa):8.3f} s")
    print(
        f"  ratio            {median(ratios):8.4f}   (median of {PAIRS} pairs; {min(ratios):.4f} to {max(ratios):.4f})"
    )
    print(f"  extra memory     {extra_bytes(patched) / 1e6:8.3f} MB")


def denoising_step(context_dim: int, dtype: torch.dtype, with_pooled: bool):
    torch.manual_seed(0)
    latents = torch.randn(2, 4, LATENT, LATENT, dtype=dtype)
    text = torch.randn(2, 77, context_dim, dtype=dtype)
    pooled = {"y": torch.randn(2, 2816, dtype=dtype)} if with_pooled else {}

    def step(model) -> None:
        options = model.model_options["transformer_options"] | {"cond_or_uncond": [0, 1], "sigmas": torch.ones(1)}
        with torch.inference_mode():
            unet = model.model.diffusion_model
            unet(latents, torch.full((2,), 500.0), context=text, transformer_options=options, **pooled)

    return step


def timed(step, model) -> float:
    start = time.perf_counter()
    step(model)
    return time.perf_counter() - start


def extra_bytes(patched) -> int:
    """All tensors that the patches hold, each once: their tables, and the rows gathered for this batch."""
    patches = set(patched.model_options["transformer_options"]["patches_replace"]["attn2"].values())
    held = [user for patch in patches for user in (patch.table, *patch._gathered.values())]
    tensors = {id(t): t for user in held for t in (user.key, user.value) if t is not None}
    return sum(t.untyped_storage().nbytes() for t in tensors.values())


if __name__ == "__main__":
    main()
