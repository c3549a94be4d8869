"""Loading the CLIP model that Q16 and features of pictures are computed with."""

from pathlib import Path
from typing import Any

from ..errors import PSAError


def load_clip(folder: Path | str) -> tuple[Any, Any]:
    """(model, picture processor) of a folder in transformers' layout: float32, on the CPU, nothing downloaded.

    Raises:
        PSAError: where the folder holds no whole CLIP model as .safetensors.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PSAError(f"There is no CLIP model at {folder}. Give a folder in transformers' layout.")
    try:
        import transformers
    except ImportError:
        raise PSAError("A CLIP model needs transformers: pip install transformers.") from None
    classes: Any = transformers  # whose types know no keyword options
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = classes.CLIPModel.from_pretrained(
            folder, **options, use_safetensors=True, output_loading_info=True
        )
        processor = classes.CLIPImageProcessor.from_pretrained(folder, **options)
    except Exception as error:  # a folder of anyone's making
        raise PSAError(
            f"{folder} holds no CLIP model in transformers' layout, with weights as .safetensors "
            f"({type(error).__name__}). Copy or download the whole model."
        ) from error
    if report["missing_keys"]:  # they would be random
        raise PSAError(f"The weights in {folder} are not all of a CLIP model's. Download the folder again.")
    return model.float().eval(), processor
