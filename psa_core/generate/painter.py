"""A base model in diffusers layout, and its pipeline: batches of prompts, each drawn for its own viewer."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..adapter.model import PSAAdapter, check_strength
from ..diffusers_unet import psa_applied
from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from ..mini.base_model import TEXT_WIDTH
from ..pictures import to_images

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_BY_CONTEXT_WIDTH: dict[Any, str] = {768: "sd15", TEXT_WIDTH: "mini"}


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; guidance, seed and strength are by default the published evaluation's.

    Args:
        steps: of the sampler; the published evaluation takes 40.
        guidance: the scale of classifier-free guidance; up to 1 there is none.
        seed: with a picture's file name it decides the noise that the picture starts from.
        strength: the adapter's; 1.0 is the published one.
        size: of a picture's sides, in pixels; `None` is what the model was trained for.
        precision: of the whole pipeline, one of `PRECISIONS`.

    Raises:
        PSAError: naming the setting that is unusable.
    """

    steps: int = 50
    guidance: float = 7.5
    seed: int = 2025
    strength: float = 1.0
    size: int | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PSAError("The number of steps must be at least 1; 50 is the default.")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise PSAError("The guidance must be a number from 0 upwards; 7.5 is the default.")
        if self.size is not None and (self.size < 64 or self.size % 8):
            raise PSAError("A picture's size must be a multiple of 8 pixels, from 64 upwards.")
        if self.precision not in PRECISIONS:
            raise PSAError(f"The precision must be one of: {', '.join(PRECISIONS)}.")
        check_strength(self.strength)


@dataclass(frozen=True)
class BaseModel:
    """What a model folder's configuration says, before any weights are read.

    Attributes:
        kind: the name of its folder in the reference's layout: "sd15", "sdxl", or "mini" for PSA Mini.
        size: of the pictures it was trained for, in pixels a side.
        parts: the folders that a picture depends on.
    """

    folder: Path
    kind: str
    size: int
    parts: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path | str) -> "BaseModel":
        """Read `model_index.json` and the configurations it names.

        Raises:
            PSAError: where the folder is not an SD1.5, SDXL or PSA Mini model in diffusers layout.
        """
        folder = Path(folder)
        index = _read_json(folder / "model_index.json")
        pipeline = index.get("_class_name")
        if pipeline not in _PIPELINES:
            raise PSAError(f"The model in {folder} is not of a kind that is drawn here: {' or '.join(_PIPELINES)}.")
        unet, vae = (_read_json(folder / part / "config.json") for part in ("unet", "vae"))
        kind = "sdxl" if pipeline == _PIPELINES[1] else _BY_CONTEXT_WIDTH.get(unet.get("cross_attention_dim"))
        if kind is None:
            raise PSAError(f"The model in {folder} is neither SD1.5 nor SDXL: its context width is another.")
        try:
            size = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        except (KeyError, TypeError, ValueError):
            raise PSAError(
                f"The UNet's configuration in {folder} does not say for which size it was trained."
            ) from None
        parts = ["unet", "vae", "scheduler", "text_encoder", "tokenizer"]
        return cls(folder, kind, size, tuple(parts + (["text_encoder_2", "tokenizer_2"] if kind == "sdxl" else [])))


class Painter:
    """The pipeline of a base model on one device, without a safety checker, a watermark or a download.

    Raises:
        PSAError: where the weights are missing or damaged.
    """

    def __init__(self, base: BaseModel, device: torch.device | str = "cpu", precision: str = "fp32") -> None:
        import diffusers

        diffusers.utils.logging.set_verbosity_error()  # else it writes every long caption to the screen
        self.device, self.dtype = torch.device(device), PRECISIONS[precision]
        if base.kind == "sdxl":
            pipeline: Any = diffusers.StableDiffusionXLPipeline
            options: dict[str, Any] = {"add_watermarker": False}
        else:
            pipeline = diffusers.StableDiffusionPipeline
            options = {"safety_checker": None, "requires_safety_checker": False}
        local = {"local_files_only": True, "use_safetensors": True}
        try:
            self.pipe = pipeline.from_pretrained(base.folder, torch_dtype=self.dtype, **local, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PSAError(f"The model in {base.folder} cannot be loaded as .safetensors weights: {reason}") from error
        self.pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.vae.enable_slicing()  # one picture at a time: memory does not grow with the batch
        self._size = base.size

    @torch.no_grad()
    def draw(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        adapter: PSAAdapter | None = None,
        users: UserEmbedding | None = None,
    ) -> list[Image.Image]:
        """Draw a picture for each caption.

        A picture is a function of its caption, seed, user and the settings: what else is in the batch,
        and whether there is an adapter, changes nothing of the noise that it starts from. The noise is
        drawn on the CPU in float32, on every device and at every precision.

        Args:
            seeds: one a caption.
            adapter, users: whose eyes to draw for, a row a caption; without them the base model draws.

        Raises:
            PSAError: for another number of rows, an adapter for another model, too little memory, or a
                picture that is not a number.
        """
        count = len(captions)
        if len(seeds) != count or (adapter is not None and (users is None or len(users) != count)):
            raise PSAError("Drawing needs one seed, and with an adapter one user, for each caption.")
        size = settings.size or self._size
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        side = size // self.pipe.vae_scale_factor
        shape = (self.pipe.unet.config.in_channels, side, side)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        try:
            with self._drawing_for(adapter, users, settings):
                pixels = self.pipe(
                    prompt=list(captions),
                    height=size,
                    width=size,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    generator=generators,  # goes on in samplers that add noise, a row of its own each
                    latents=noise.to(self.device, self.dtype),
                    output_type="pt",
                ).images
        except torch.cuda.OutOfMemoryError:
            raise PSAError(f"There is not enough GPU memory for {count} pictures at once. Draw fewer.") from None
        if not torch.isfinite(pixels).all():
            raise PSAError("A picture came out as NaN: the model overflows at this precision. Draw in bf16 or fp32.")
        return to_images(pixels)

    def _drawing_for(self, adapter: PSAAdapter | None, users: UserEmbedding | None, settings: Settings) -> Any:
        if adapter is None or users is None:
            return nullcontext()
        unet = self.pipe.unet
        guided = settings.guidance > 1 and unet.config.time_cond_proj_dim is None  # the pipelines' own condition
        adapter = adapter.to(self.device)
        tokens = adapter.guidance_tokens(users) if guided else adapter.user_tokens(users)
        return psa_applied(unet, adapter, tokens, settings.strength)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PSAError(
            f"There is no {path.name} in {path.parent}. Give a base model in diffusers layout, such as a local copy "
            "of stable-diffusion-v1-5."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PSAError(f"{path} is damaged. Copy or download the model again.") from error
    if not isinstance(data, dict):
        raise PSAError(f"{path} is damaged. Copy or download the model again.")
    return data
