"""Where the pack's files live in ComfyUI: model folders, and the profile store under the user directory."""

import filecmp
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import folder_paths

from ...psa_core.errors import PSAError
from ...psa_core.files import safe_file_name
from .fingerprints import fingerprint

ADAPTERS = "psa_adapters"
EMBEDDINGS = "psa_embeddings"
EFFECTS = "psa_effects"
TEMPLATES = "psa_templates"
LANGUAGE_MODELS = "LLM"

_ORIGINS = {
    ADAPTERS: "Adapters are published (see docs/published-weights.md), or trained with PSA Train.",
    EFFECTS: "Effects are made by PSA Save Effect, or by `psa effect`.",
    EMBEDDINGS: "Embeddings are published beside an adapter, or written by `psa encode`.",
}
_SHOWN = 100  # characters of a name in a sentence

_FILE_ENDINGS = {ADAPTERS: {".safetensors", ".bin"}, EMBEDDINGS: {".safetensors", ".npy"}, EFFECTS: {".safetensors"}}


def register() -> None:
    """Register the model folders with ComfyUI, beside any that extra_model_paths.yaml names."""
    for name in (ADAPTERS, EMBEDDINGS, EFFECTS, TEMPLATES, LANGUAGE_MODELS):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir, name)))
    for name, endings in _FILE_ENDINGS.items():
        paths, known = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (paths, set(known) | endings)


def file_names(folder: str) -> list[str]:
    """The files in a model folder."""
    return folder_paths.get_filename_list(folder)


def menu(folder: str) -> list[str]:
    """The same for a node's menu, which says so where there is none."""
    return file_names(folder) or [f"(no file in models/{folder} yet)"]


def find_file(folder: str, name: str) -> Path:
    """The path of a file that a node's menu named, here or on a system that writes folders with another slash.

    Raises:
        PSAError: for a name that is not in that folder's list, paths that leave it included.
    """
    names = file_names(folder)
    by_plain_name = {_with_slashes(known): known for known in names}
    known = name if name in names else by_plain_name.get(_with_slashes(name))
    path = folder_paths.get_full_path(folder, known) if known is not None else None
    if path is None:
        raise PSAError(
            f"There is no such file in models/{folder}: {str(name)[:_SHOWN]!r}. {_ORIGINS[folder]} Put it there, "
            "refresh the node list and pick it."
        )
    return Path(path)


def _with_slashes(name: object) -> str:
    return str(name).replace("\\", "/")


def check_file(folder: str, name: str) -> bool | str:
    """`validate_inputs` for a file menu: True, or the sentence that says what to do."""
    return _passes(find_file, folder, name)


def check_name(name: str, what: str) -> bool | str:
    """`validate_inputs` for the name of what is to be saved: True, or a sentence, before hours of work are done."""
    return _passes(safe_file_name, name, what)


def _passes(check: Callable[[str, str], object], *arguments: str) -> bool | str:
    try:
        check(*arguments)
    except PSAError as error:
        return str(error)
    return True


def file_fingerprint(folder: str, name: str | None) -> str:
    """`fingerprint_inputs` for a file menu: another value once the file has changed.

    A name that comes from another node is `None` here, and any file there may be meant.
    """
    if name is None:
        found = (folder_paths.get_full_path(folder, each) for each in file_names(folder))
        paths = [Path(path) for path in found if path is not None]
    else:
        paths = [find_file(folder, name)]
    return fingerprint(*((str(path), stamp(path)) for path in paths))


Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """Another value once the file has changed or is another one, or what lies in the folder; `None` for neither."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a NUL in the name, too
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def files_in(folder: Path) -> list[tuple[str, Stamp]]:
    """The names in a folder, and the `stamp` of each; none where there is no folder."""
    try:
        return [(path.name, stamp(path)) for path in sorted(folder.iterdir())]
    except (OSError, ValueError):
        return []


def save_new(folder: str, name: str, ending: str, write: Callable[[Path], None]) -> Path:
    """A model folder's new file, by `write`: `name`, or `name-2`, `name-3`, ... where other content has that name.

    Of the same content there is one file: a graph that runs again writes no copy.
    """
    parent = Path(folder_paths.get_folder_paths(folder)[0])
    taken = []
    for number in count(1):
        path = parent / f"{name}{f'-{number}' if number > 1 else ''}{ending}"
        if not path.exists():
            break
        taken.append(path)
    write(path)
    same = next((other for other in taken if filecmp.cmp(other, path, shallow=False)), None)
    if same is None:
        return path
    path.unlink()
    return same


def folder_names(folder: str, holding: str) -> list[str]:
    """The subfolders of a model folder that hold the file `holding`, for a node's menu."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(folder)]
    return sorted({path.parent.name for root in roots for path in root.glob(f"*/{holding}")})


def find_folder(folder: str, name: str) -> Path:
    """The subfolder of a model folder that a node's menu named, whether it is there or not.

    Raises:
        PSAError: for a name that is not a plain folder name.
    """
    roots = [Path(root) for root in folder_paths.get_folder_paths(folder)]
    paths = [root / safe_file_name(name, "folder name") for root in roots]
    return next((path for path in paths if path.is_dir()), paths[0])


def input_folder() -> Path:
    """ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory())


def given_path(text: str) -> Path:
    """The path that somebody typed: in ComfyUI's input folder, or absolute; `~` is the home folder, if there is one."""
    return input_folder() / at_home(text)


def at_home(text: str) -> str:
    """The same path, with the home folder for `~`, if there is one."""
    try:
        return os.path.expanduser(text)
    except ValueError:  # a NUL in the name: whoever opens it says so
        return text


def system_folder(name: str) -> Path:
    """A folder under ComfyUI's user directory that its HTTP interface does not serve (`__` names are system users)."""
    return Path(folder_paths.get_user_directory(), f"__{name}")
