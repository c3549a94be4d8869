"""What PSA Apply costs in the real ComfyUI: time of a denoising step and memory, beside the plain model.

CPU time stands beside wall time: on a busy machine the wall clock tells of the others. Each pair of steps takes turns
in who goes first.

Full-size SD1.5 and SDXL UNets with random weights, in the ComfyUI and its Python that the tests use:

    python bench/apply_cost.py [--sdxl]
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

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

PAIRS = 5 if sdxl else 15
LATENT = 32  # 256 px: the smaller the picture, the larger our share of a step


def main() -> None:
    core, apply, attn2, rows = (
        pack_module(name) for name in ("psa_core", "nodes.comfy.apply", "nodes.comfy.attn2", "nodes.comfy.rows")
    )
    model = full_size_model("sdxl" if sdxl else "sd15", torch.bfloat16 if sdxl else torch.float32)
    sites = attn2.cross_attention_sites(model.model.diffusion_model)
    adapter = core.PSAAdapter([site.width for site in sites], sites[0].context_dim, 35, encoder_id="structured-v1")
    for layer in adapter.psa_adapter:
        torch.nn.init.normal_(layer.to_v_user[0].weight, std=0.02)
    patched = apply.apply_adapter(model, adapter, core.StructuredEncoder().encode([core.LEVELS["L5"]]))

    step = denoising_step(sites[0].context_dim, model.model_dtype(), sdxl, rows)
    plain, with_psa = [], []
    step(model), step(patched)  # warm-up
    for number in range(PAIRS):
        for measured, which in ((plain, model), (with_psa, patched))[:: 1 if number % 2 else -1]:
            measured.append(timed(step, which))
    name = "SDXL (bfloat16)" if sdxl else "SD1.5 (float32)"
    print(f"{name}, {len(sites)} cross-attention layers, {LATENT * 8} px, prompt + negative prompt in one batch")
    for clock, at in (("wall", 0), ("CPU", 1)):
        before, after = ([times[at] for times in measured] for measured in (plain, with_psa))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        print(f"  {clock:4} time  plain {median(before):7.3f} s  PSA Apply {median(after):7.3f} s", end="")
        print(f"  ratio {median(ratios):.4f} (median of {PAIRS} pairs; {min(ratios):.4f} to {max(ratios):.4f})")
    print(f"  extra memory {extra_bytes(patched) / 1e6:.3f} MB")


def denoising_step(context_dim: int, dtype: torch.dtype, with_pooled: bool, rows):
    """A step as a sampler makes it: ComfyUI's model with what PSA knows of the run."""
    torch.manual_seed(0)
    latents = torch.randn(2, 4, LATENT, LATENT)
    text = torch.randn(2, 77, context_dim, dtype=dtype)
    pooled = {"y": torch.randn(2, 2816, dtype=dtype)} if with_pooled else {}
    conditions = {name: [{"uuid": name}] for name in ("positive", "negative")}
    run = rows.Run(SimpleNamespace(conds=conditions, original_conds=conditions), pictures=1)

    def step(model) -> None:
        options = model.model_options["transformer_options"] | {
            "cond_or_uncond": [0, 1],
            "uuids": ["positive", "negative"],
            "sigmas": torch.ones(1),
            rows.RUN: run,
        }
        with torch.inference_mode():
            model.model.apply_model(latents, torch.ones(2), c_crossattn=text, transformer_options=options, **pooled)

    return step


def timed(step, model) -> tuple[float, float]:
    """Seconds by the wall clock, and of all processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    step(model)
    return time.perf_counter() - wall, time.process_time() - cpu


def extra_bytes(patched) -> int:
    """All tensors that the patches hold, each once: their tables, and the rows gathered for this batch."""
    patches = set(patched.model_options["transformer_options"]["patches_replace"]["attn2"].values())
    held = [user for patch in patches for user in (patch.table, *patch._gathered.values())]
    tensors = {id(t): t for user in held for t in (user.key, user.value) if t is not None}
    return sum(t.untyped_storage().nbytes() for t in tensors.values())


if __name__ == "__main__":
    main()
