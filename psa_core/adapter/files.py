"""Reading and writing adapters: the two published formats in, `.safetensors` with metadata out."""

import hashlib
import json
import re
from pathlib import Path

import torch

from ..errors import PSAError
from ..files import atomic_path, existing_file, printable, shown, some
from ..json_text import parse_json
from ..tensor_files import content_digest, read_file, save_file
from ..torch_files import read_torch_file
from .model import PSAAdapter

_FORMAT = "psa-adapter"
_LAYER_KEY = re.compile(r"psa_adapter\.(\d+)\.to_([kv])_user\.(\d+)\.weight")
_PROJECTION_KEYS = ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_LAYERS = 1000  # SDXL has 70, and each takes as much memory as a module as a small file does
_READABLE_DTYPES = (*_DTYPES, torch.float64)


def load_adapter(path: Path | str) -> PSAAdapter:
    """Load an adapter, published or ours, on the CPU, in the file's own dtype.

    Two formats: `.safetensors` with keys `user_proj.*` and `psa_adapter.*` (with our metadata or
    without any), and the published torch file `{"psa_adapter": {...}, "user_proj": {...}}`, which is
    read without torch.load: no code in it is run.

    Raises:
        PSAError: for a file that is missing, empty, truncated, not an adapter, of shapes that do not
            fit together, with several projection pairs a layer, or with values that are not finite.
    """
    path = existing_file(path, "adapter file")
    if path.suffix == ".safetensors":
        tensors, metadata = read_file(path)
    else:
        tensors, metadata = _read_torch(path), {}
    digest = metadata.pop("digest", None)  # published files and those of earlier versions have none
    adapter = _build(tensors, metadata, printable(path.name))
    ours = metadata.get("format") == _FORMAT
    if ours and digest is not None and digest != content_digest(tensors, metadata):
        raise PSAError(f"{printable(path.name)} is damaged: its weights or metadata were changed. Copy it again.")
    return adapter


def adapter_id(adapter: PSAAdapter) -> str:
    """What the adapter draws, as a hash (hex) of its weights: equal for files that differ in format or metadata alone.

    The weights count as float32, in which they are used; so a float32 copy of a half-precision file is the same.
    """
    digest = hashlib.sha256()
    for key, value in sorted(adapter.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def save_adapter(adapter: PSAAdapter, path: Path | str, dtype: torch.dtype = torch.float32) -> None:
    """Write `adapter` as `.safetensors`, atomically: the published layout plus a metadata block.

    The same adapter gives the same file, byte for byte.

    Args:
        dtype: float32, float16 or bfloat16; half the size at half precision, as published files are.

    Raises:
        PSAError: for another file ending or dtype, or weights that are not finite in it.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PSAError("Adapters are saved as .safetensors: end the file's name with .safetensors.")
    if dtype not in _DTYPES:
        raise PSAError("Adapters are saved as float32, float16 or bfloat16.")
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in adapter.state_dict().items()}
    _check_finite(tensors, f"The adapter in {dtype}")
    metadata = _metadata(adapter)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={**metadata, "digest": content_digest(tensors, metadata)})


def _metadata(adapter: PSAAdapter) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "family": adapter.family,
        "cross_attention_dim": str(adapter.cross_attention_dim),
        "layer_widths": json.dumps(adapter.layer_widths),
        "num_tokens": str(adapter.num_tokens),
        "embedding_dim": str(adapter.embedding_dim),
        "encoder_id": adapter.encoder_id or "",
        "training": json.dumps(adapter.training_summary, sort_keys=True),
    }


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    groups = read_torch_file(path)
    if not isinstance(groups, dict) or not all(isinstance(groups.get(g), dict) for g in ("psa_adapter", "user_proj")):
        raise PSAError(
            f"{printable(path.name)} is not a PSA adapter: it lacks the parts 'psa_adapter' and 'user_proj'."
        )
    return {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}


def _build(tensors: dict[str, torch.Tensor], metadata: dict[str, str], name: str) -> PSAAdapter:
    _check_keys(tensors, name)
    proj, norm = tensors["user_proj.proj.weight"], tensors["user_proj.norm.weight"]
    values = [tensors[f"psa_adapter.{i}.to_v_user.0.weight"] for i in range(_layer_count(tensors))]
    if proj.ndim != 2 or norm.ndim != 1 or any(value.ndim != 2 for value in values):
        raise PSAError(f"{name} is damaged: a projection in it has the wrong number of dimensions.")
    if any(0 in tensor.shape for tensor in (proj, norm, *values)):
        raise PSAError(f"{name} is damaged: a projection in it is empty.")
    if proj.shape[0] % norm.shape[0]:
        raise PSAError(f"{name} is damaged: user_proj's sizes {tuple(proj.shape)} and {tuple(norm.shape)} do not fit.")
    with torch.device("meta"):  # shapes alone: the file's tensors become the parameters, uncopied
        adapter = PSAAdapter(
            layer_widths=[value.shape[0] for value in values],
            cross_attention_dim=norm.shape[0],
            embedding_dim=proj.shape[1],
            num_tokens=proj.shape[0] // norm.shape[0],
            encoder_id=metadata.get("encoder_id") or None,
            training=_training_summary(metadata, name),
        )
    for key, expected in adapter.state_dict().items():
        if tensors[key].shape != expected.shape:
            raise PSAError(
                f"{name} is damaged: {key} has the shape {tuple(tensors[key].shape)}; "
                f"{tuple(expected.shape)} was expected."
            )
    _check_finite(tensors, name)
    _check_metadata(metadata, adapter, name)
    adapter.load_state_dict(tensors, assign=True)
    return adapter.eval()


def _check_keys(tensors: dict[str, torch.Tensor], name: str) -> None:
    for key, value in tensors.items():
        if not _is_plain(value):
            raise PSAError(
                f"{name} is not a PSA adapter: its entry '{shown(str(key), 60)}' is not a plain tensor of 16- to 64-"
                "bit floats."
            )
    if any((match := _LAYER_KEY.fullmatch(key)) and match[3] != "0" for key in tensors):
        raise PSAError(
            f"{name} has several projection pairs a layer (to_k_user.1, ...). Their meaning was never defined, and "
            "the reference code ignores all but the first, so this file is refused. Use an adapter with one pair."
        )
    if _layer_count(tensors) > _MOST_LAYERS:
        raise PSAError(f"{name} has {_layer_count(tensors)} layers, and no UNet has more than {_MOST_LAYERS}.")
    expected = {f"user_proj.{key}" for key in _PROJECTION_KEYS} | {
        f"psa_adapter.{i}.to_{kind}_user.0.weight" for i in range(_layer_count(tensors)) for kind in "kv"
    }
    if _layer_count(tensors) == 0 or set(tensors) != expected:
        odd = sorted(set(tensors) ^ expected)[:3]
        raise PSAError(
            f"{name} is not a whole PSA adapter: missing or unknown entries, such as {some(odd) or 'all layers'}."
        )


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.dtype in _READABLE_DTYPES
        and value.layout == torch.strided
        and not value.is_meta
    )


def _layer_count(tensors: dict[str, torch.Tensor]) -> int:
    return len({match[1] for key in tensors if (match := _LAYER_KEY.fullmatch(key))})


def _training_summary(metadata: dict[str, str], name: str) -> dict:
    try:
        summary = parse_json(metadata.get("training", "{}"))
    except ValueError as error:
        raise PSAError(f"{name} is damaged: its training summary is not JSON.") from error
    if not isinstance(summary, dict):
        raise PSAError(f"{name} is damaged: its training summary is no JSON object.")
    return summary


def _check_metadata(metadata: dict[str, str], adapter: PSAAdapter, name: str) -> None:
    """Our own metadata repeats what the shapes say; where they disagree, one of them is damaged."""
    if metadata.get("format") != _FORMAT:
        return
    for key, value in _metadata(adapter).items():
        if key not in ("training", "encoder_id") and metadata.get(key) != value:
            raise PSAError(f"{name} is damaged: its metadata gives another {key} than its weights have.")


def _check_finite(tensors: dict[str, torch.Tensor], name: str) -> None:
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise PSAError(f"{name} holds NaN or infinite weights in {key}. Use another copy or checkpoint.")
