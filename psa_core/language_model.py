"""Causal language models in folders: read from this machine alone, placed where there is room, asked in chats."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .errors import PSAError
from .pretrained import load_model, load_part, quiet, weight_files
from .replies import CutOffError

DEFAULT_MODEL = "Qwen2.5-7B-Instruct"
REPLY_TOKENS = 512  # at most, as in the paper's code

Message = Mapping[str, str]
"""`role` and `content`."""

_WHAT = "language model"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_TEXT_FILES = (  # what a prompt's tokens and the reply to it depend on, beside the weights
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "*.model",
)
_MIB = 1 << 20
_PAGES, _PAGE = 256, 1 << 12


class Placement(Protocol):
    """Who decides where the model lies: called with it before each use, returns the device it is then on."""

    def __call__(self, model: nn.Module) -> torch.device: ...

    def release(self) -> None:
        """Let go of the model: the encoder is about to drop it."""


class OnDevice:
    """Keeps the model on one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)

    def __call__(self, model: nn.Module) -> torch.device:
        model.to(self._device)
        return self._device

    def release(self) -> None:
        pass


class LanguageModel:
    """An instruction-tuned model in Hugging Face layout. It is read when it is first used, from safetensors: no code of
    the folder is run, and nothing is fetched.

    Args:
        folder: the model's, with its tokenizer and chat template.
        placement: where the model lies while it works; `None` is the CPU.
        reply_tokens: how long a reply may get, as far as the model's context has room.
        whole: whether a reply that was cut off there is an error.

    Raises:
        PSAError: for a folder that is absent or holds no such model.
    """

    def __init__(
        self,
        folder: Path | str,
        placement: Placement | None = None,
        reply_tokens: int = REPLY_TOKENS,
        whole: bool = False,
    ) -> None:
        self.folder = Path(folder)
        _weight_files(self.folder)  # to fail early
        self._placement = OnDevice() if placement is None else placement
        self._reply_tokens, self._whole = reply_tokens, whole
        self._loaded: tuple[Any, Any] | None = None  # model, tokenizer

    @cached_property
    def config(self) -> Any:
        return load_part(self.folder, "AutoConfig", _WHAT)

    def digest(self, texts: Mapping[str, str]) -> str:
        """12 hex digits of what a reply depends on, the same wherever the folder lies.

        They cover `texts`, the configuration and tokenizer files and, of each weights file, the size, the first and
        last MiB and 256 pages in between: a fine-tune has another one.
        """
        weights = _weight_files(self.folder)
        found = {path for pattern in _TEXT_FILES for path in self.folder.glob(pattern) if path.is_file()}
        digest = hashlib.sha256()
        for name, text in sorted(texts.items()):
            _add(digest, name, text.encode())
        for path in sorted(found - set(weights)):
            _add(digest, path.name, path.read_bytes())
        for path in weights:
            _add(digest, path.name, _sample(path))
        return digest.hexdigest()[:12]

    def release(self) -> None:
        """Drop the model; the next use reads what the folder holds by then."""
        if self._loaded is not None:
            self._placement.release()
            self._loaded = None
        self.__dict__.pop("config", None)

    @torch.no_grad()
    def reply(self, messages: Sequence[Message]) -> str:
        """What the model answers, greedily; without thinking aloud first, where its chat template can ask for that.

        Raises:
            CutOffError: with `whole`, for an answer that does not end.
            PSAError: as `prepare` does; its context must have room for 512 tokens.
        """
        with quiet():
            model, inputs = self.prepare(messages, min(self._reply_tokens, REPLY_TOKENS), enable_thinking=False)
            asked = inputs["input_ids"].shape[1]
            most = min(self._reply_tokens, (self._context or asked + self._reply_tokens) - asked)
            tokens = model.generate(**inputs, max_new_tokens=most)[0, asked:]
            text = self._model_and_tokenizer()[1].decode(tokens, skip_special_tokens=True)
        if self._whole and len(tokens) >= most and int(tokens[-1]) not in _ends(model):
            raise CutOffError(text)
        return text

    def prepare(
        self, messages: Sequence[Message], reply_tokens: int = 0, **for_template: Any
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """The model, placed, and the tokens of `messages` on its device: (1, T), whole and without padding.

        Args:
            messages: with `role` and `content`, for the model's chat template, whose generation prompt is added.
            reply_tokens: what must fit into the model's context beside them.
            for_template: what the chat template is told; one that does not know it does not mind.

        Raises:
            PSAError: where the model cannot be read or does not take such messages, or not so long ones.
        """
        model, tokenizer = self._model_and_tokenizer()
        try:
            options = {"tokenize": False, "add_generation_prompt": True, **for_template}
            text = tokenizer.apply_chat_template([*messages], **options)
        except Exception:  # a template is a program of its own
            roles = " and a ".join(message["role"] for message in messages)
            raise PSAError(
                f"The chat template of the language model in {self.folder} cannot take a {roles} message. Use another "
                "model."
            ) from None  # the cause may quote the prompt
        # The chat template has put the special tokens in.
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        context = self._context
        if ids.shape[1] == 0 or ids.max() >= self.config.get_text_config().vocab_size:
            raise PSAError(f"The tokenizer in {self.folder} does not fit the model there. Download the folder again.")
        if context is not None and ids.shape[1] + reply_tokens > context:
            reply = f" with a reply of {reply_tokens}" if reply_tokens else ""
            raise PSAError(
                f"The prompt{reply} is longer than the {context} tokens that the model in {self.folder} can read. "
                "Use a shorter template, or a model with a longer context."
            )
        ids = ids.to(self._placement(model))
        return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @property
    def _context(self) -> int | None:
        """How many tokens the model can read, its own included."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def _model_and_tokenizer(self) -> tuple[Any, Any]:
        if self._loaded is None:
            tokenizer = _load_tokenizer(self.folder)
            self._loaded = _load_model(self.folder), tokenizer
        return self._loaded


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`, sorted; raises PSAError where it cannot be one."""
    if "\0" in str(folder) or not folder.is_dir():
        raise PSAError(
            f"There is no language model at {folder}. Put one there as Hugging Face lays it out (in ComfyUI: a folder "
            f"in models/LLM); for the default one: "
            f"hf download Qwen/{DEFAULT_MODEL} --local-dir models/LLM/{DEFAULT_MODEL}"
        )
    weights = weight_files(folder, _WHAT)
    if (folder / "adapter_config.json").exists():
        raise PSAError(f"{folder} holds a LoRA beside or instead of a model. Merge the two, and give that folder.")
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise PSAError(
            f"The language model in {folder} lacks its tokenizer (tokenizer.json). Download the whole folder."
        )
    return weights


def _load_tokenizer(folder: Path) -> Any:
    tokenizer = load_part(folder, "AutoTokenizer", f"tokenizer of a {_WHAT}")
    if not tokenizer.chat_template:
        raise PSAError(
            f"The language model in {folder} has no chat template. Use an instruction-tuned model, or download the "
            "whole folder (chat_template.jinja or tokenizer_config.json holds it)."
        )
    return tokenizer


def _load_model(folder: Path) -> Any:
    model = load_model(folder, "AutoModelForCausalLM", _WHAT)
    found = model.generation_config
    model.generation_config = type(found)(
        do_sample=False,
        max_new_tokens=REPLY_TOKENS,
        repetition_penalty=found.repetition_penalty,
        bos_token_id=found.bos_token_id,
        eos_token_id=found.eos_token_id,
        pad_token_id=found.pad_token_id,
    )
    return model


def _ends(model: Any) -> Sequence[int]:
    """The tokens that end a reply."""
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _add(digest: Any, name: str, content: bytes) -> None:
    digest.update(f"{name} {len(content)} ".encode() + content)


def _sample(path: Path) -> bytes:
    """The size of a large file, its first and last MiB, and pages evenly in between."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        parts = [str(size).encode(), file.read(_MIB)]
        for number in range(_PAGES):
            file.seek(size * number // _PAGES)
            parts.append(file.read(_PAGE))
        file.seek(max(0, size - _MIB))
        parts.append(file.read(_MIB))
    return b"".join(parts)
