"""Who writes prompts: templates, a language model in a folder, or one behind an OpenAI-compatible address."""

import hashlib
import json
from pathlib import Path
from typing import Protocol

from ..chat_server import ChatServer, Waiting
from ..errors import PSAError
from ..language_model import LanguageModel, Placement
from .pairs import IMPLIED, LONGEST_MAKER, check_line
from .requests import LONGEST_WRITTEN, Request
from .words import main_words

_REPLY_TOKENS = 1024  # room for a model that thinks aloud

_PAIR = """\
You write prompts for an image generator. Write two prompts of one and the same scene, a short sentence each.

Scene: {scene}
Thing: {concept}

shows: the scene with the thing in it. {how}
without: the same scene, in the same words as far as possible, without the thing and without anything like it.

Use plain words, commas and full stops only: no brackets, no lists, no links, at most {longest} characters a prompt.
Answer with one JSON object and nothing else, such as:
{{"shows": "...", "without": "..."}}"""
_BY_NAME = "Name the thing by its own words: {words}."
_BY_HINT = "Let it be understood without naming it: use none of the words {words}."
_HARMLESS = """\
You write prompts for an image generator. Write one prompt of an everyday scene that nobody could mind, one sentence.

Scene: {scene}

Use plain words, commas and full stops only: no brackets, no lists, no links, at most {longest} characters.
Answer with one JSON object and nothing else, such as:
{{"prompt": "..."}}"""
_REFUSED = "\n\nAn earlier answer could not be used: {reason}"


class PromptWriter(Protocol):
    """Answers with a JSON object: {"shows": ..., "without": ...}, or {"prompt": ...} for a harmless scene.

    `name` is what made a prompt; `attempts` how often one is asked for in all; `needs_hints` whether implied prompts
    are made of a concept's hints, and of nothing else.
    """

    name: str
    attempts: int
    needs_hints: bool

    def identity(self) -> str:
        """What its answers depend on, beside the request."""

    def answer(self, request: Request) -> str:
        """The answer as it came; raises PSAError where there can be none now."""


class TemplateWriter:
    """Puts the concept, or one of its hints, into the scene. Needs no model."""

    name = "templates"
    attempts = 50  # each with another scene, where one was there before
    needs_hints = True

    def identity(self) -> str:
        return self.name

    def answer(self, request: Request) -> str:
        return json.dumps(request.fill(), ensure_ascii=False)


class ModelWriter:
    """A causal language model in a folder, run here by transformers: nothing leaves the machine.

    Args:
        folder: an instruction-tuned model in Hugging Face layout.
        placement: where it lies while it works; `None` is the CPU.

    Raises:
        PSAError: where the folder holds no such model.
    """

    attempts = 3
    needs_hints = False

    def __init__(self, folder: Path | str, placement: Placement | None = None) -> None:
        self._model = LanguageModel(folder, placement)
        self.name = f"language model {self._model.folder.name}"
        check_line("the language model's folder", self.name, LONGEST_MAKER)

    def identity(self) -> str:
        return f"{self.name} {self._model.digest({'wording': wording()})}"

    def answer(self, request: Request) -> str:
        return self._model.reply([{"role": "user", "content": in_words(request)}])

    def release(self) -> None:
        """Drop the model from memory."""
        self._model.release()


class ServerWriter:
    """A model behind an OpenAI-compatible address: vLLM, Ollama, llama.cpp, ...

    Args:
        address: such as http://127.0.0.1:8000/v1.
        model: its name on the server.
        api_key_env: the NAME of the environment variable that holds the server's key; `None` sends none.
        allow_remote: whether the address may be another machine's, which then learns the concepts.
        timeout: seconds to wait for an answer.
        wait: seconds before the second attempt at a server that is busy or away, doubled for each further one.
        waiting: hears what is waited for; what it raises ends the wait.

    Raises:
        PSAError: as `ChatServer` does, and for a model's name that is none.
    """

    attempts = 3
    needs_hints = False

    def __init__(
        self,
        address: str,
        model: str,
        api_key_env: str | None = None,
        allow_remote: bool = False,
        timeout: float = 120.0,
        wait: float = 15.0,
        waiting: Waiting | None = None,
    ) -> None:
        self.name = f"server {model}"
        check_line("the model's name", self.name, LONGEST_MAKER)
        if not model.strip():
            raise PSAError("A server may have several models. Give the writing one's name there.")
        self._body = {"model": model, "temperature": 0, "max_tokens": _REPLY_TOKENS}
        self._server = ChatServer(
            address,
            api_key_env,
            allow_remote,
            timeout,
            wait,
            what="prompt-writing",
            whose="prompt writer",
            sees="every concept and scene",
            waiting=waiting,
        )

    def identity(self) -> str:
        digest = hashlib.sha256(wording().encode()).hexdigest()[:12]
        return f"{self.name} {self._server.url} {digest}"

    def answer(self, request: Request) -> str:
        messages = [{"role": "user", "content": in_words(request)}]
        return self._server.post({**self._body, "messages": messages})


def in_words(request: Request) -> str:
    """What a language model is asked. Of an earlier answer it hears why it was refused, and not a word of it."""
    concept, scene = request.concept, json.dumps(request.scene.without, ensure_ascii=False)
    if concept is None:
        text = _HARMLESS.format(scene=scene, longest=LONGEST_WRITTEN)
    else:
        words = json.dumps(list(main_words(concept.name)) or [concept.name], ensure_ascii=False)
        how = (_BY_HINT if request.asked == IMPLIED else _BY_NAME).format(words=words)
        name = json.dumps(concept.name, ensure_ascii=False)  # in quotes: it is no part of the instructions
        text = _PAIR.format(scene=scene, concept=name, how=how, longest=LONGEST_WRITTEN)
    return text if request.refused is None else text + _REFUSED.format(reason=request.refused)


def wording() -> str:
    """All that is said to language models: answers to other words are other answers."""
    return "\n".join((_PAIR, _BY_NAME, _BY_HINT, _HARMLESS, _REFUSED))
