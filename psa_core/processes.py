"""Which processes there are, Accelerate's view or that of one, and which device."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from .errors import PSAError
from .extras import require

_OF_CONNECTIONS = ("DistBackendError", "DistNetworkError", "DistStoreError")  # not in a torch without such processes
_IN_NCCL_ITSELF = re.compile("ncclUnhandledCudaError|ncclInternalError|ncclInvalid")  # such as two on one GPU
_IN_GLOO = re.compile(  # whose errors have no class of their own
    "connection (closed by peer|reset by peer|refused|timed out)|broken pipe|timed out waiting|caused pair closure",
    re.IGNORECASE,
)


class OneProcess:
    """What the trainer asks of Accelerate, answered for one process: so training there needs no further package."""

    process_index, num_processes, is_main_process = 0, 1, True

    @property
    def device(self) -> torch.device:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    def wait_for_everyone(self) -> None:
        pass

    def prepare(self, module: nn.Module) -> nn.Module:
        return module

    def no_sync(self, _module: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def reduce(self, tensor: torch.Tensor, _how: str) -> torch.Tensor:
        return tensor


def mean_over_processes(processes: Any, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Scalars by name, as the mean over all processes."""
    stacked = torch.stack([value.float() for value in values.values()])
    return dict(zip(values, processes.reduce(stacked, "mean").tolist(), strict=True))


def from_main(processes: Any, data: bytes) -> bytes:
    """The main process's `data` in every process; the same length everywhere."""
    if processes.num_processes == 1:
        return data
    mine = torch.tensor(list(data), dtype=torch.float32, device=processes.device)
    shared = processes.reduce(mine if processes.is_main_process else torch.zeros_like(mine), "sum")
    return bytes(int(value) for value in shared)


def anyone(processes: Any, wish: bool) -> bool:
    """Whether any process's `wish` is true."""
    if processes.num_processes == 1:
        return wish
    return bool(processes.reduce(torch.tensor(float(wish), device=processes.device), "sum"))


def make_accelerator() -> Any:
    """Accelerate's view of the processes, or `OneProcess`. Precision and devices stay with the denoiser.

    Raises:
        PSAError: where Accelerate is missing in a launch of several, or the launch is one that is not supported.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return OneProcess()
    require("train", "A launch of several processes", "accelerate")
    from accelerate import Accelerator, DistributedType

    class Processes(Accelerator):
        """Where another process is gone, waiting for it is a sentence."""

        def wait_for_everyone(self) -> None:
            with _others_there():
                super().wait_for_everyone()

        def reduce(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
            with _others_there():
                return super().reduce(tensor, how)

    accelerator = Processes(mixed_precision="no", device_placement=False)
    kinds = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in kinds:
        raise PSAError(
            f"This runs in one process or under data parallelism, not under {accelerator.distributed_type.value}. "
            "Choose 'multi-GPU' or 'multi-CPU' in accelerate config."
        )
    if accelerator.num_processes != processes:  # each would take itself for the only one, in one run folder
        raise PSAError(
            f"{processes} processes were launched, but Accelerate sees {accelerator.num_processes}. On a machine "
            "without a GPU, set ACCELERATE_USE_CPU=true."
        )
    return accelerator


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not _is_of_connection(error):  # a GPU tells here of what went wrong before
            raise
        raise PSAError(
            "Another process of this launch has ended, so this one ends, too. What that one said tells why."
        ) from error


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether it says that another process is gone."""
    kinds = tuple(kind for name in _OF_CONNECTIONS if (kind := getattr(torch.distributed, name, None)))
    if isinstance(error, kinds):
        return not _IN_NCCL_ITSELF.search(str(error))
    return type(error) is RuntimeError and bool(_IN_GLOO.search(str(error)))


def chosen_device(name: str | None) -> torch.device:
    """The torch device of this name, or without one CUDA's where there is a GPU; raises PSAError for another."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PSAError(f"There is no device {name} here. Give --device cpu, or cuda where there is a GPU.") from error
