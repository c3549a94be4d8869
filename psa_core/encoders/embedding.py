"""The profile embedding: the vector that stands for a viewer from here on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import PSAError
from ..files import atomic_path, existing_file, shown
from ..tensor_files import read_file, save_file

_FORMAT = "psa-embedding"


@dataclass(frozen=True, eq=False, repr=False)
class UserEmbedding:
    """Embeddings of P profiles by one encoder.

    Args:
        vectors: (P, D), any float dtype; kept as float32 on the CPU.
        encoder_id: which encoder made them, or `None` where a file does not say (published `.npy`).

    Raises:
        PSAError: for another shape, no profile, values that are not finite, or an encoder id that is no text.
    """

    vectors: torch.Tensor
    encoder_id: str | None = None

    def __post_init__(self) -> None:
        vectors = self.vectors
        if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
            raise PSAError("A profile embedding must be a tensor of floating-point numbers.")
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise PSAError(
                f"A profile embedding must have the shape (profiles, dim); this one has {tuple(vectors.shape)}."
            )
        vectors = vectors.detach().to(device="cpu", dtype=torch.float32)
        if not torch.isfinite(vectors).all():
            raise PSAError("The profile embedding holds NaN or infinite values. Encode the profile again.")
        if self.encoder_id is not None and (not isinstance(self.encoder_id, str) or not self.encoder_id):
            raise PSAError("A profile embedding's encoder id must be a text, or None where it is not known.")
        object.__setattr__(self, "vectors", vectors)

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def __repr__(self) -> str:
        encoder = repr(self.encoder_id) if self.encoder_id else "encoder not known"
        return f"UserEmbedding({len(self)} profiles, dim {self.dim}, {encoder})"  # no numbers: they tell of a person


def load_embedding(path: Path | str) -> UserEmbedding:
    """Load a profile embedding.

    `.npy` files are the published kind: (D,), (1, D), (1, 1, D), or a batch (P, D) or (P, 1, D), of
    float16, float32 or float64, with no word about their encoder. `.safetensors` files are ours and
    carry the encoder's id.

    Raises:
        PSAError: for a file that is missing, empty, truncated, of another kind or shape, or not finite.
    """
    path = existing_file(path, "embedding file")
    if path.suffix == ".npy":
        return UserEmbedding(_as_rows(_read_npy(path), path.name))
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    raise PSAError(f"{path.name} is not an embedding file. Give a .npy or .safetensors file.")


def save_embedding(embedding: UserEmbedding, path: Path | str) -> None:
    """Write `embedding` as `.safetensors`, atomically and readable by its owner alone (mode 0600)."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PSAError("Embeddings are saved as .safetensors: end the file's name with .safetensors.")
    metadata = {"format": _FORMAT, "encoder_id": embedding.encoder_id or ""}
    with atomic_path(path, mode=0o600) as temporary:
        save_file({"embedding": embedding.vectors}, temporary, metadata=metadata)


def _read_npy(path: Path) -> torch.Tensor:
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)  # np.load would take zips and pickles too
            if file.read(1):
                raise ValueError("more bytes than its header says")
    except Exception as error:  # numpy meets a damaged header with almost any exception
        raise PSAError(
            f"{path.name} is not a whole .npy file of numbers: it is truncated, damaged or holds objects. "
            "Copy or make it again."
        ) from error
    if array.dtype.kind != "f":
        raise PSAError(
            f"{path.name} holds {shown(str(array.dtype), 40)} values; an embedding holds floating-point numbers."
        )
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused as such
        return torch.from_numpy(array.astype(np.float32))


def _as_rows(tensor: torch.Tensor, name: str) -> torch.Tensor:
    shape = tuple(tensor.shape)
    if tensor.ndim == 1:
        return tensor[None]
    if tensor.ndim == 3 and shape[1] == 1:
        return tensor[:, 0]
    if tensor.ndim == 2:
        return tensor
    raise PSAError(
        f"{name} has the shape {shape}; an embedding file has (D,), (1, D), (1, 1, D), or a batch (P, D) or (P, 1, D)."
    )


def _load_safetensors(path: Path) -> UserEmbedding:
    tensors, metadata = read_file(path)
    if metadata.get("format") != _FORMAT or set(tensors) != {"embedding"}:
        raise PSAError(f"{path.name} is a .safetensors file, but not a PSA profile embedding.")
    return UserEmbedding(_as_rows(tensors["embedding"], path.name), metadata.get("encoder_id") or None)
