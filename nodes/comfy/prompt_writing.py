"""Writing prompts in ComfyUI: its language models, its progress bar, its Cancel."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from comfy import model_management
from comfy.utils import ProgressBar

from ...psa_core.chat_server import RemoteAddressError
from ...psa_core.concepts.answers import AnswerLog
from ...psa_core.concepts.lists import Concept
from ...psa_core.concepts.making import Counts, Prompts, make_prompts, write_set_aside
from ...psa_core.concepts.scenes import SceneSource
from ...psa_core.concepts.writers import ModelWriter, PromptWriter, ServerWriter, TemplateWriter
from ...psa_core.errors import PSAError
from . import folders
from .language_model_memory import ManagedPlacement

TEMPLATES, SERVER = "templates", "server"


def writer_names() -> list[str]:
    """Who can write, for a node's menu: templates, the language models that are there, a server."""
    models = folders.folder_names(folders.LANGUAGE_MODELS, holding="config.json")
    return [TEMPLATES, *(name for name in models if name not in (TEMPLATES, SERVER)), SERVER]


def write_prompts(
    concepts: Sequence[Concept],
    writer: str,
    server: tuple[str, str] | None,
    scenes: SceneSource,
    counts: Counts,
    seed: int,
) -> tuple[Prompts, Path | None, Path | None]:
    """The prompts, where a language model's answers are kept, and which file lists what was set aside.

    Cancel raises out of it; Run goes on with what was answered.

    Args:
        writer: one of `writer_names`.
        server: the address and the model's name, for a server.

    Raises:
        PSAError: as the writers and `make_prompts` do.
    """
    made_by = _writer(writer, server)
    digest = hashlib.sha256(repr((made_by.identity(), concepts)).encode()).hexdigest()[:12]
    folder = folders.system_folder("psa_prompts")
    path = None if writer == TEMPLATES else folder / f"{digest}.answers.jsonl"
    bar = ProgressBar(1)

    def tell(done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    try:
        made = make_prompts(concepts, made_by, scenes, counts, seed, AnswerLog(path), tell)
        return made, path, write_set_aside(folder / f"{digest}.set-aside.jsonl", made)
    finally:
        if isinstance(made_by, ModelWriter):
            made_by.release()


def _writer(name: str, server: tuple[str, str] | None) -> PromptWriter:
    if name == TEMPLATES:
        return TemplateWriter()
    if server is None:
        return ModelWriter(folders.find_folder(folders.LANGUAGE_MODELS, name), ManagedPlacement())
    address, model = server
    if not address:
        raise PSAError("PSA Concepts needs to know where the server is. Write its address into server_address.")
    try:
        return ServerWriter(address, model)
    except RemoteAddressError as error:
        raise error.allowed("write with the command psa prompts, which can be told to allow it") from None
