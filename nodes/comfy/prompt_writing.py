"""Writing prompts in ComfyUI: its language models, its progress bar, its Cancel."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from comfy.utils import ProgressBar

from ...psa_core.chat_server import RemoteAddressError
from ...psa_core.concepts.answers import AnswerLog
from ...psa_core.concepts.lists import Concept
from ...psa_core.concepts.making import Counts, Prompts, make_prompts, write_set_aside
from ...psa_core.concepts.scenes import SceneSource
from ...psa_core.concepts.writers import ModelWriter, PromptWriter, ServerWriter, TemplateWriter
from ...psa_core.errors import PSAError
from . import folders
from .fingerprints import always_new, fingerprint
from .language_model_memory import ManagedPlacement
from .progress import NodeWords
from .users import own_folder

TEMPLATES, SERVER = "templates", "server"


def writer_names() -> list[str]:
    """Who can write, for a node's menu: templates, the language models that are there, a server."""
    models = folders.folder_names(folders.LANGUAGE_MODELS, holding="config.json")
    return [TEMPLATES, *(name for name in models if name not in (TEMPLATES, SERVER)), SERVER]


def writer_fingerprint(writer: str | None) -> str:
    """Another value once the writer's files have changed, or a file of its answers is there or gone."""
    if writer is None:  # linked: who it is shows when it runs
        return always_new()
    if writer == TEMPLATES:
        return fingerprint(writer)
    try:
        kept = _answers_folder()
        model = [] if writer == SERVER else folders.files_in(folders.find_folder(folders.LANGUAGE_MODELS, writer))
    except PSAError:
        return always_new()  # let it run, and say what is wrong
    return fingerprint(str(kept), [name for name, _ in folders.files_in(kept)], model)


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

    All that a writer answered a user lies in one file, whatever it was asked: an answer stands under its question, and
    a longer list of concepts asks for what is new in it.

    Args:
        writer: one of `writer_names`.
        server: the address and the model's name, for a server.

    Raises:
        PSAError: as the writers and `make_prompts` do.
    """
    words = NodeWords()
    made_by = _writer(writer, server, words)
    path = None if writer == TEMPLATES else _answers_folder() / f"{_digest(made_by.identity())}.answers.jsonl"
    bar = ProgressBar(1)

    def tell(done: int, total: int) -> None:
        words(f"{done} of {total} pairs of prompts")
        bar.update_absolute(done, total)

    try:
        made = make_prompts(concepts, made_by, scenes, counts, seed, AnswerLog(path), tell)
        if path is None and not made.set_aside:
            return made, None, None  # nothing to keep, so that nobody needs a place for it
        name = f"{_digest(made_by.identity(), concepts)}.set-aside.jsonl"
        return made, path, write_set_aside(_answers_folder() / name, made)
    finally:
        if isinstance(made_by, ModelWriter):
            made_by.release()


def _digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def _answers_folder() -> Path:
    return own_folder("psa_prompts", "place for a writer's answers")


def _writer(name: str, server: tuple[str, str] | None, waiting: NodeWords) -> PromptWriter:
    if name == TEMPLATES:
        return TemplateWriter()
    if server is None:
        return ModelWriter(folders.find_folder(folders.LANGUAGE_MODELS, name), ManagedPlacement())
    address, model = server
    if not address:
        raise PSAError("PSA Concepts needs to know where the server is. Write its address into server_address.")
    try:
        return ServerWriter(address, model, waiting=waiting)
    except RemoteAddressError as error:
        raise error.allowed("write with the command psa prompts, which can be told to allow it") from None
