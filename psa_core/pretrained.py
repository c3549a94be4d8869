"""Reading a folder in transformers' layout: from this machine alone, without its code, and never from pickles."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import PSAError
from .extras import require
from .files import printable, shown, some
from .json_text import parse_json
from .tensor_files import no_larger_than, open_file

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_MAX_INDEX_BYTES = 16 << 20
_AGAIN = "Copy or download the whole folder again."


def load_model(folder: Path, kind: str, what: str, dtype: str = "auto") -> Any:
    """The model in `folder`, on the CPU and ready to evaluate.

    Args:
        kind: its class in transformers, such as "CLIPModel".
        what: how sentences call it, such as "CLIP model".
        dtype: "auto" takes the file's, "float32" and others take that.

    Raises:
        PSAError: where the folder is absent or holds no such model, whole and as .safetensors, or transformers is
            not installed.
    """
    require("llm", f"Reading a {what}", "transformers")  # before a word on the folder, which may take long to get
    weights = weight_files(folder, what)
    for path in weights:
        try:
            with open_file(path):
                pass
        except (SafetensorError, OSError) as error:
            raise PSAError(f"{folder} holds no {what} that is whole: {path.name} is damaged. {_AGAIN}") from error
    with _reading(folder, what) as transformers, no_larger_than(weights):
        name = "dtype" if _version(transformers) >= (4, 56) else "torch_dtype"
        model, report = getattr(transformers, kind).from_pretrained(
            folder, **_LOCAL, **{name: dtype}, use_safetensors=True, output_loading_info=True
        )
    if report["missing_keys"]:  # they would be random
        raise PSAError(
            f"The weights in {folder} are not all of a {what}'s: they lack {len(report['missing_keys'])} tensors, such "
            f"as {min(report['missing_keys'])}. {_AGAIN}"
        )
    return model.eval()


def load_part(folder: Path, kind: str, what: str) -> Any:
    """What lies beside the weights: the configuration ("AutoConfig"), the tokenizer, the processor.

    Raises:
        PSAError: as `load_model` does; for a tokenizer or processor, nothing is said of the weights.
    """
    check_folder(folder, what)
    with _reading(folder, what) as transformers:
        return getattr(transformers, kind).from_pretrained(folder, **_LOCAL)


def check_folder(folder: Path, what: str) -> None:
    """Raise PSAError unless there is a folder, with a configuration."""
    if "\0" in str(folder) or not folder.is_dir():
        place = printable(folder)
        raise PSAError(f"There is no {what} at {place}. Give a folder in transformers' layout (config.json, ...).")
    if not (folder / "config.json").is_file():
        raise PSAError(f"{folder} holds no {what} in transformers' layout: it has no config.json. {_AGAIN}")


def weight_files(folder: Path, what: str) -> list[Path]:
    """The safetensors files of the model in `folder`, sorted.

    Raises:
        PSAError: where one is missing, or the weights are of another kind.
    """
    check_folder(folder, what)
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise PSAError(
            f"{folder} holds no {what} with weights as .safetensors. Other kinds, such as .bin, are not read, since "
            "they can carry code: download or convert it as .safetensors."
        )
    try:
        with open(index, "rb") as file:
            names = set(parse_json(file.read(_MAX_INDEX_BYTES))["weight_map"].values())
        weights = sorted(folder / name for name in names)
        missing = [path.name for path in weights if path.parent != folder or not path.is_file()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise PSAError(f"{index.name} in {folder} is damaged. {_AGAIN}") from error
    if missing or not weights:
        raise PSAError(f"{folder} holds no whole {what}: {some(missing, 3) or 'its weights'} is missing. {_AGAIN}")
    return weights


@contextmanager
def quiet() -> Iterator[Any]:
    """Yields transformers, which within the block logs nothing but errors and draws no bars."""
    require("llm", "Reading this model", "transformers")
    import transformers

    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[Any]:
    """Yields transformers, kept quiet; whatever reading a folder of anyone's making raises becomes one sentence."""
    with quiet() as transformers:
        try:
            yield transformers
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PSAError(
                f"{folder} holds no {what} in transformers' layout that can be read: {shown(reason)} {_AGAIN}"
            ) from error


def _version(transformers: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in transformers.__version__.split(".")[:2])
