"""`psa demo`: one prompt and one seed, drawn for the six viewers L0 to L5, in a real ComfyUI or without one.

The models are small and untrained, made on the spot: their pictures show no objects, but a profile
changes them on the way it changes a real model's.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .adapter import PSAAdapter
from .adapter_files import save_adapter
from .checkpoints import preview_vae, small_adapter, small_unet, write_checkpoint
from .comfy_server import PACK, ComfyServer, ComfyUI, comfyui_at, find_comfyui
from .diffusers_unet import psa_applied
from .encoders.structured import StructuredEncoder
from .errors import PSAError
from .files import atomic_path
from .grid import labelled_grid
from .profile import LEVELS
from .workflow_format import ui_to_api

WORKFLOW = PACK / "workflows" / "psa_levels_sd15.json"
MODEL_NAME = "psa-demo.safetensors"
SIZE, STEPS, CFG, SEED = 192, 10, 7.0, 42  # pixels; small: two cores draw it in a minute
_INSTALL_LIMIT = 900  # seconds

_STAND_IN = {  # node class -> inputs of the levels workflow that the demo replaces
    "CheckpointLoaderSimple": {"ckpt_name": MODEL_NAME},
    "PSALoadAdapter": {"adapter_name": MODEL_NAME},
    "EmptyLatentImage": {"width": SIZE, "height": SIZE},
    "KSampler": {"steps": STEPS, "cfg": CFG, "seed": SEED},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="the demo's folder (default: .demo)")
    parser.add_argument("--without-comfyui", action="store_true", help="draw through diffusers alone")


def run(args: argparse.Namespace) -> int:
    """Draw the six levels into `args.out` and say where the picture is."""
    if importlib.util.find_spec("diffusers") is None:
        raise PSAError("The demo needs diffusers to make its model: pip install 'comfyui-psa[train]'.")
    with _stopping_on_sigterm():
        out = args.out.absolute()
        out.mkdir(parents=True, exist_ok=True)
        unet = small_unet("sd15", SEED)
        adapter = small_adapter(unet, SEED)
        comfyui = None if args.without_comfyui else _find_or_install(out)
        if comfyui is None:
            print("Drawing without ComfyUI, through diffusers.")
            grid = _draw_with_diffusers(unet, adapter)
        else:
            print(f"Drawing in the ComfyUI at {comfyui.folder}.")
            grid = _draw_with_comfyui(comfyui, unet, adapter, out / "comfyui")
        picture = out / "levels.png"
        with atomic_path(picture) as temporary:
            grid.save(temporary)
    print(f"One prompt and seed for the viewers L0 to L5, by an untrained model: {picture}")
    return 0


def _find_or_install(out: Path) -> ComfyUI | None:
    if not WORKFLOW.is_file():
        print("This installation of psa holds no ComfyUI nodes.")
        return None
    found = find_comfyui()
    own = out / "ComfyUI"
    if found is None and not own.exists():
        _install(own, out / "install.log")
    return found or (comfyui_at(own) if own.exists() else None)


def _install(folder: Path, log_file: Path) -> None:
    """Let comfy-cli install ComfyUI into `folder`, in an environment of its own; leave nothing behind if it fails."""
    comfy_cli = shutil.which("comfy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if comfy_cli is None:
        print("No ComfyUI was found, nor comfy-cli to install one.")
        return
    print(f"No ComfyUI was found. Installing one with comfy-cli (minutes; log: {log_file}) ...")
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    command = [comfy_cli, "--skip-prompt", "--no-enable-telemetry", "--workspace", str(folder)]
    command += ["install", "--version", "latest", "--cpu", "--skip-manager"]
    try:
        with open(log_file, "wb") as log:
            subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_INSTALL_LIMIT,
                check=True,
            )
    except (subprocess.SubprocessError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        print("comfy-cli could not install ComfyUI: without a connection to github.com it cannot.")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _draw_with_comfyui(comfyui: ComfyUI, unet: Any, adapter: PSAAdapter, base: Path) -> Image.Image:
    models = base / "models"
    write_checkpoint(models / "checkpoints" / MODEL_NAME, unet, SEED)
    save_adapter(adapter, models / "psa_adapters" / MODEL_NAME)
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    with ComfyServer(comfyui, base) as server:
        prompt = ui_to_api(workflow, server.object_info())
        for node in prompt.values():
            node["inputs"] |= _STAND_IN.get(node["class_type"], {})
        outputs = server.queue(prompt, _progress_line())
        (image,) = (image for entry in outputs.values() for image in entry.get("images", ()))
        return Image.open(base / image["type"] / image["subfolder"] / image["filename"])


def _draw_with_diffusers(unet: Any, adapter: PSAAdapter) -> Image.Image:
    """The levels workflow without ComfyUI; in place of a random text encoder's output, random numbers."""
    from diffusers import DPMSolverMultistepScheduler

    profiles = list(LEVELS.values())
    tokens = adapter.user_tokens(StructuredEncoder().encode(profiles))
    rows = torch.cat([tokens, adapter.uncond_tokens(len(profiles))])
    scheduler: Any = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
    )
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(SEED)
    text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    text = text.repeat_interleave(len(profiles), dim=0)
    noise = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=generator)
    latents = noise.repeat(len(profiles), 1, 1, 1) * scheduler.init_noise_sigma
    show = _progress_line()
    with torch.inference_mode(), psa_applied(unet, adapter, rows):
        for step, timestep in enumerate(scheduler.timesteps):
            show("Sampling", step, STEPS)
            inputs = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1)
            wanted, unwanted = unet(inputs, timestep, text).sample.chunk(2)
            latents = scheduler.step(unwanted + CFG * (wanted - unwanted), timestep, latents).prev_sample
        show("Sampling", STEPS, STEPS)
        pictures = preview_vae().decode(latents).sample
    arrays = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return labelled_grid([Image.fromarray(array) for array in arrays], list(LEVELS), columns=3)


def _progress_line() -> Callable[[str, int, int], None]:
    """Shows what runs: one line that is written over on a terminal, one line a node elsewhere."""
    terminal = sys.stdout.isatty()

    def show(name: str, step: int, steps: int) -> None:
        if terminal:
            print(f"\r\x1b[K  {name}{f' {step}/{steps}' if steps else ''}", end="\n" if 0 < steps == step else "")
            sys.stdout.flush()
        elif step in (0, steps):
            print(f"  {name}{f' {step}/{steps}' if steps else ''}", flush=True)

    return show


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Within the block SIGTERM unwinds as Ctrl-C does, so that the server does not outlive us."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
