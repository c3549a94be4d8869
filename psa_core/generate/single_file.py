"""A checkpoint in one .safetensors file, as artists have them, drawn with through diffusers; nothing is downloaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..errors import PSAError
from ..extras import require
from ..files import existing_file
from ..model_folder import load_part, read_json
from ..tensor_files import no_larger_than, open_file
from .painter import BaseModel

_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)
_NEEDS = (
    "A checkpoint in one file holds weights alone. Give, as --config, a folder of its kind in diffusers layout, such "
    "as stable-diffusion-v1-5 or stable-diffusion-xl-base-1.0: model_index.json, the parts' config.json, scheduler and "
    "tokenizers. Its weights may be left out."
)


@dataclass(frozen=True)
class SingleFile(BaseModel):
    """A checkpoint file; `folder` has the configurations that go with it."""

    file: Path = Path()

    @classmethod
    def open(cls, file: Path | str, config: Path | str | None) -> "SingleFile":
        """Read the configurations.

        Raises:
            PSAError: for a file that is no .safetensors checkpoint, or configurations that are missing.
        """
        file = existing_file(file, "checkpoint")
        if file.suffix != ".safetensors":
            raise PSAError(f"{file.name} is no .safetensors file, and others can carry code. Convert the checkpoint.")
        try:
            with open_file(file) as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise PSAError(f"The checkpoint {file.name} is damaged. Copy or download it again.") from error
        if config is None:
            raise PSAError(_NEEDS)
        base = BaseModel.read(config)
        for part in base.parts:
            if not (base.folder / part).is_dir():
                raise PSAError(f"{base.folder} has no '{part}'. {_NEEDS}")
        return cls(**vars(base), file=file)

    def load(self, dtype: torch.dtype) -> dict[str, Any]:
        require("train", "Reading a checkpoint", "diffusers", "transformers")
        import diffusers

        index = read_json(self.folder / "model_index.json")
        if any(isinstance(value, list) and value and value[0] not in _LIBRARIES for value in index.values()):
            raise PSAError(f"{self.folder}/model_index.json names other libraries, which could be anybody's code.")
        kind = diffusers.StableDiffusionXLPipeline if self.is_sdxl else diffusers.StableDiffusionPipeline
        small = [part for part in self.parts if "tokenizer" in part or part == "scheduler"]
        given = {part: load_part(self.folder, part, dtype) for part in small}
        options = {} if self.is_sdxl else {"safety_checker": None, "feature_extractor": None}
        try:
            with no_larger_than([self.file]):
                pipe = kind.from_single_file(
                    str(self.file),
                    config=str(self.folder),
                    local_files_only=True,
                    torch_dtype=dtype,
                    **options,
                    **given,
                )
            loaded = {part: getattr(pipe, part) for part in self.parts}
            _refuse_missing(loaded)
        except PSAError:
            raise
        except Exception as error:  # a file of anyone's making
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PSAError(
                f"The checkpoint {self.file.name} does not fit the configurations in {self.folder} ({reason}). Give "
                "those of its kind, SD1.5 or SDXL."
            ) from error
        return loaded

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        with open(self.file, "rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
        for path in sorted(self.folder.rglob("*.json")):
            digest.update(str(path.relative_to(self.folder)).encode() + path.read_bytes())
        return digest.hexdigest()


def _refuse_missing(loaded: dict[str, Any]) -> None:
    """Raise where weights were not in the file: they would be empty."""
    for part, model in loaded.items():
        if isinstance(model, torch.nn.Module) and any(tensor.is_meta for tensor in model.state_dict().values()):
            raise PSAError(f"The checkpoint lacks weights of its '{part}'. Take one with all parts, VAE and text too.")
