"""A base model in diffusers layout, and its pipeline: batches of prompts, each drawn for its own viewer."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field, model_validator

from ..adapter.model import PSAAdapter
from ..diffusers_unet import psa_applied
from ..encoders.embedding import UserEmbedding
from ..errors import PSAError
from ..files import safe_file_name
from ..model_folder import KIND_KEY, fingerprint, load_part, placed, read_json, scheduler_class
from ..pictures import to_images
from ..pretrained import quiet
from ..settings import BaseSettings

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_BY_CONTEXT_WIDTH = {768: "sd15", 64: "mini"}  # of folders that do not say their kind, as PSA Mini's once did not


class Settings(BaseSettings):
    """How pictures are drawn; guidance, seed and strength are by default the published evaluation's.

    Args:
        steps: of the sampler; the published evaluation takes 40.
        guidance: the scale of classifier-free guidance; up to 1 there is none.
        guidance_rescale: the share, from 0 to 1, in which guided predictions get back the spread of the conditional
            one (arXiv 2305.08891, sec. 3.4); 0 leaves them as they are.
        negative_prompt: what guidance leads away from, for every picture.
        seed: with a picture's file name it decides the noise that the picture starts from.
        strength: the adapter's; 1.0 is the published one.
        size: of a picture's sides, in pixels; `None` is what the model was trained for.
        precision: of the whole pipeline, one of `PRECISIONS`.

    Raises:
        PSAError: naming the setting that is unusable.
    """

    what: ClassVar[str] = "drawing setting"

    steps: Annotated[int, Field(ge=1, le=1000, description="a number of steps from 1 to 1000; 50 is the default")] = 50
    guidance: Annotated[float, Field(ge=0, description="a number from 0 upwards; 7.5 is the default")] = 7.5
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    negative_prompt: str = ""
    seed: int = 2025
    strength: Annotated[float, Field(description="a finite number; 1.0 is the published one")] = 1.0
    size: Annotated[
        int | None, Field(ge=64, le=8192, multiple_of=8, description="a multiple of 8 pixels, from 64 to 8192")
    ] = None
    precision: Literal[tuple(PRECISIONS)] = "fp32"  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _guided(self) -> "Settings":
        for name in ("negative_prompt", "guidance_rescale"):
            if getattr(self, name) and self.guidance <= 1:
                raise self.refusal(name, "left out where the guidance is 1 or less: without guidance it does nothing")
        return self


@dataclass(frozen=True)
class BaseModel:
    """What a model folder's configuration says, before any weights are read.

    Attributes:
        kind: the name of its folder in the reference's layout: "sd15" or "sdxl", or what the folder says itself.
        size: of the pictures it was trained for, in pixels a side.
        parts: the folders that a picture depends on.
        is_sdxl: whether it has SDXL's pipeline, with two text encoders.
        zero_negative: whether an SDXL's empty negative prompt is zeros, not an encoded text.
    """

    folder: Path
    kind: str
    size: int
    parts: tuple[str, ...]
    is_sdxl: bool = False
    zero_negative: bool = True

    @classmethod
    def read(cls, folder: Path | str) -> "BaseModel":
        """Read `model_index.json` and the configurations it names.

        A folder whose index has no `KIND_KEY` is "sdxl" by its pipeline, or by its context width "sd15" (768) or
        "mini" (64).

        Raises:
            PSAError: where the folder is not an SD1.5, SDXL or PSA Mini model in diffusers layout.
        """
        folder = Path(folder)
        index = read_json(folder / "model_index.json")
        pipeline = index.get("_class_name")
        if pipeline not in _PIPELINES:
            raise PSAError(f"The model in {folder} is not of a kind that is drawn here: {' or '.join(_PIPELINES)}.")
        unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
        is_sdxl = pipeline == _PIPELINES[1]
        width, sample, blocks = (
            config.get(name)
            for config, name in (
                (unet, "cross_attention_dim"),
                (unet, "sample_size"),
                (vae, "block_out_channels"),
            )
        )
        kind = "sdxl" if is_sdxl else _BY_CONTEXT_WIDTH.get(width) if isinstance(width, int) else None
        kind = safe_file_name(index.get(KIND_KEY, kind or "other"), f"kind ({KIND_KEY}) in {folder}/model_index.json")
        if kind == "other":
            raise PSAError(
                f"The model in {folder} is neither SD1.5 nor SDXL: its context width is another. If it is to be drawn "
                f'with all the same, give its model_index.json a name for the pictures\' folder: "{KIND_KEY}": "NAME".'
            )
        if not isinstance(sample, int) or not 1 <= sample <= 1024 or not isinstance(blocks, list) or len(blocks) > 8:
            raise PSAError(f"The configuration of UNet and VAE in {folder} does not say for which size it was trained.")
        parts = ["unet", "vae", "scheduler", "text_encoder", "tokenizer"]
        parts += ["text_encoder_2", "tokenizer_2"] if is_sdxl else []
        zero_negative = index.get("force_zeros_for_empty_prompt", True) is not False
        return cls(folder, kind, sample * 2 ** max(len(blocks) - 1, 0), tuple(parts), is_sdxl, zero_negative)

    def load(self, dtype: torch.dtype) -> dict[str, Any]:
        """Its parts by name; raises PSAError where one is missing or damaged."""
        return {part: load_part(self.folder, part, dtype) for part in self.parts}

    def fingerprint(self) -> str:
        """A hash of all that a picture depends on."""
        return fingerprint(self.folder, list(self.parts))


class TooLittleMemoryError(PSAError):
    """So many pictures cannot be drawn at once."""


class Painter:
    """The pipeline of a base model on one device, without a safety checker, a watermark or a download.

    Args:
        scheduler: a class of diffusers to draw with, configured as the folder's own; `None` takes the folder's.

    Raises:
        PSAError: where the weights are missing or damaged.
    """

    def __init__(
        self,
        base: BaseModel,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        scheduler: str | None = None,
    ) -> None:
        import diffusers

        diffusers.utils.logging.set_verbosity_error()  # else it writes every long caption to the screen
        self.device, self.dtype = torch.device(device), PRECISIONS[precision]
        with quiet():
            loaded = base.load(self.dtype)
            if scheduler is not None:
                loaded["scheduler"] = scheduler_class(scheduler).from_config(loaded["scheduler"].config)
            if base.is_sdxl:
                self.pipe: Any = diffusers.StableDiffusionXLPipeline(
                    **loaded, force_zeros_for_empty_prompt=base.zero_negative, add_watermarker=False
                )
            else:
                self.pipe = diffusers.StableDiffusionPipeline(
                    **loaded, safety_checker=None, feature_extractor=None, requires_safety_checker=False
                )
        self.pipe.to(self.device)
        for part in (self.pipe.unet, self.pipe.vae):
            placed(part, self.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.vae.enable_slicing()  # one picture at a time: memory does not grow with the batch
        self._size = base.size

    def draw(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        adapter: PSAAdapter | None = None,
        users: UserEmbedding | None = None,
    ) -> list[Image.Image]:
        """Draw a picture for each caption; see `pixels`."""
        return to_images(self.pixels(captions, seeds, settings, adapter, users))

    @torch.no_grad()
    def pixels(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        adapter: PSAAdapter | None = None,
        users: UserEmbedding | None = None,
        negatives: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Draw a picture for each caption: (B, 3, H, W) in [0, 1].

        A picture is a function of its caption, seed, user and the settings: what else is in the batch,
        and whether there is an adapter, changes nothing of the noise that it starts from. The noise is
        drawn on the CPU in float32, on every device and at every precision.

        Args:
            seeds: one a caption.
            adapter, users: whose eyes to draw for, a row a caption; without them the base model draws.
            negatives: a negative prompt a caption, in place of the settings' one for all.

        Raises:
            PSAError: for another number of rows, an adapter for another model, negative prompts without guidance,
                too little memory, or a picture that is not a number.
        """
        count = len(captions)
        if negatives is not None and (len(negatives) != count or settings.guidance <= 1):
            raise PSAError("Negative prompts need one for each caption, and a guidance above 1 to lead away from them.")
        if len(seeds) != count or (adapter is not None and (users is None or len(users) != count)):
            raise PSAError("Drawing needs one seed, and with an adapter one user, for each caption.")
        size = settings.size or self._size
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        side = size // self.pipe.vae_scale_factor
        shape = (self.pipe.unet.config.in_channels, side, side)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        if negatives is None and settings.negative_prompt:
            negatives = [settings.negative_prompt] * count
        try:
            with self._drawing_for(adapter, users, settings):
                pixels = self.pipe(
                    prompt=list(captions),
                    height=size,
                    width=size,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    guidance_rescale=settings.guidance_rescale,
                    negative_prompt=None if negatives is None else list(negatives),
                    generator=generators,  # goes on in samplers that add noise, a row of its own each
                    latents=noise.to(self.device, self.dtype),
                    output_type="pt",
                ).images
        except torch.cuda.OutOfMemoryError:
            raise TooLittleMemoryError(
                f"There is not enough GPU memory for {count} pictures at once. Draw fewer at a time, or smaller ones."
            ) from None
        if not torch.isfinite(pixels).all():
            raise PSAError("A picture came out as NaN: the model overflows at this precision. Draw in bf16 or fp32.")
        return pixels

    def _drawing_for(self, adapter: PSAAdapter | None, users: UserEmbedding | None, settings: Settings) -> Any:
        if adapter is None or users is None:
            return nullcontext()
        unet = self.pipe.unet
        guided = settings.guidance > 1 and unet.config.time_cond_proj_dim is None  # the pipelines' own condition
        adapter = adapter.to(self.device)
        tokens = adapter.guidance_tokens(users) if guided else adapter.user_tokens(users)
        return psa_applied(unet, adapter, tokens, settings.strength)
