"""A run's folder: what lies in it, and who may write there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..adapter.files import load_adapter, save_adapter
from ..adapter.model import PSAAdapter
from ..errors import PSAError
from ..files import sweep_parts
from ..locks import locked_folder
from ..tensor_files import open_file
from .state import load_old_state, load_state, save_state

_STATE, _OLD_STATE = "state.safetensors", "state.pt"
_KIND = "psa training run, 2"
_BEST = "best.safetensors"
_WRITTEN = ("last.safetensors", _BEST, "metrics.jsonl")  # beside the state
_OLD_RUN = {"key": "", "pending": None}  # what earlier versions did not note


class RunFolder:
    """`state.safetensors` (all that a resume needs), `last.safetensors`, `best.safetensors`, `metrics.jsonl`.

    A state is there from the run's first moment on, so files beside none are not this run's.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block the folder is there, and this process's alone.

        Raises:
            PSAError: where it cannot be written, another process trains in it, or it holds files of something else.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PSAError(
                f"The run folder {self.path} cannot be made: {error.strerror}. Choose another one."
            ) from error
        with locked_folder(self.path, "training in"):
            self._check_own()
            sweep_parts(self.path)
            yield

    def check(self) -> None:
        """Find out before hours of encoding what `held` would say after them."""
        with self.held():
            pass

    def load(self) -> dict[str, Any] | None:
        """The state of the run that began here, whose identity holds settings at the least; none where none did.

        Raises:
            PSAError: for a state that is damaged, or does not say of which run it is.
        """
        if self.state_path.is_file():
            state = load_state(self.state_path, _KIND)
        elif (self.path / _OLD_STATE).is_file():
            old = load_old_state(self.path / _OLD_STATE)
            state = {**_OLD_RUN, **old, "identity": {"config": old.get("config", {})}}
        else:
            return None
        return {**state, "identity": self._checked(state.get("identity"))}

    def damaged(self, fault: object) -> PSAError:
        """What to say of a state that is whole, and holds what no run writes."""
        return PSAError(
            f"The training state in {self.path} is damaged: {fault}. Put a copy of it back, or choose another folder "
            "to start anew."
        )

    def save(self, state: dict[str, Any]) -> None:
        save_state(self.state_path, _KIND, state)
        (self.path / _OLD_STATE).unlink(missing_ok=True)

    def write_adapter(self, name: str, adapter: PSAAdapter) -> None:
        save_adapter(adapter, self.path / name)

    def best_digest(self) -> str:
        """What stands for the content of the best adapter's file."""
        with open_file(self.path / _BEST) as file:
            return (file.metadata() or {}).get("digest", "")

    def check_best(self, digest: str, step: int) -> None:
        """Raise PSAError where the run's best adapter is gone, damaged or another one: no state can bring it back.

        Args:
            digest: its `best_digest`; empty where an earlier version did not note it.
            step: up to which the state knows it. A run that was killed has a later one, and finds that again.
        """
        later = load_adapter(self.path / _BEST).training_summary.get("step")
        is_later = type(later) is int and later > step
        if digest and self.best_digest() != digest and not is_later:
            raise PSAError(
                f"{self.path / _BEST} is not the best adapter of this run, which its state knows. Put a copy of that "
                "one back, or choose another folder to start anew."
            )

    @property
    def state_path(self) -> Path:
        return self.path / _STATE

    def _checked(self, identity: Any) -> dict[str, Any]:
        """As JSON has it: no tensor is compared with a setting."""
        try:
            plain = json.loads(json.dumps(identity))
        except (TypeError, ValueError, RecursionError):
            plain = None
        if not isinstance(plain, dict) or not isinstance(plain.get("config"), dict):
            raise self.damaged("it does not say of which run it is")
        return plain

    def _check_own(self) -> None:
        if self.state_path.exists() or (self.path / _OLD_STATE).exists():
            return
        strange = [name for name in _WRITTEN if (self.path / name).exists()]
        if strange:
            raise PSAError(
                f"{self.path} holds {' and '.join(strange)}, but no state of a run: training would overwrite what "
                "another made. Choose another folder, or move them away."
            )


def load_result(folder: Path | str) -> PSAAdapter:
    """The adapter of a run folder: its best by held-out loss, or the last where nothing was evaluated."""
    folder = Path(folder)
    best = folder / _BEST
    return load_adapter(best if best.is_file() else folder / "last.safetensors")
