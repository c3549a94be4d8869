"""The language-model encoder: the paper's recipe, a profile as the mean of a language model's hidden states."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import PSAError
from ..pretrained import load_model, load_part, quiet, weight_files
from ..profile import UserProfile, check_profiles
from ..schema import CATEGORIES
from .cache import EmbeddingCache
from .embedding import UserEmbedding
from .prompt_templates import Templates

DEFAULT_MODEL = "Qwen2.5-7B-Instruct"
BY_PROFILE, BY_MODEL = "profile", "language model"
BANNED_BY = (BY_PROFILE, BY_MODEL)

_BAN_SYSTEM_MESSAGE = "You are a helpful assistant."
_REPLY_TOKENS = 512  # at most, as in the paper's code

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


class LanguageModelEncoder:
    """Encodes a profile as the mean, over a prompt's tokens, of a causal language model's last hidden states.

    The recipe of arXiv 2508.01151 and its code: the profile is written into a request for a personal
    safety statement, which goes through the model's chat template, generation prompt included; the
    hidden states after the final norm are averaged, in float32. No statement is generated. With
    `banned_by="language model"` the model is first asked, greedily, which categories to ban, and its
    word replaces the profile's own.

    Prompts go through the model one at a time and whole, so that a batch and single profiles give the
    same bits. Lists of categories are alphabetical. The model is read when a profile is not in the
    cache, from safetensors on this machine: no code of the folder is run, and nothing is fetched.

    Args:
        folder: a causal language model in Hugging Face layout; published adapters need `DEFAULT_MODEL`.
        templates: a folder with `get_embeds.txt` and `get_banned.txt`; `None` takes ours. Published
            adapters see exactly what they were trained on with the published two.
        banned_by: who says what is banned, the "profile" or the "language model".
        cache: keeps embeddings between runs.
        placement: where the model lies while it works; `None` is the CPU.
        keep_loaded: whether the model stays in memory after `encode`.

    Raises:
        PSAError: for a folder that is absent or holds no such model, templates that lack a placeholder
            or have an unknown one, or another `banned_by`.
    """

    def __init__(
        self,
        folder: Path | str,
        templates: Path | str | None = None,
        banned_by: str = BY_PROFILE,
        cache: EmbeddingCache | None = None,
        placement: Placement | None = None,
        keep_loaded: bool = True,
    ) -> None:
        if banned_by not in BANNED_BY:
            raise PSAError(f"'banned_by' must be '{BY_PROFILE}' or '{BY_MODEL}'.")
        self._folder = Path(folder)
        _weight_files(self._folder)  # to fail early
        self._templates = Templates.read(templates)
        self._banned_by = banned_by
        self._cache = cache
        self._placement = OnDevice() if placement is None else placement
        self._keep_loaded = keep_loaded
        self._loaded: tuple[Any, Any] | None = None  # model, tokenizer

    def __repr__(self) -> str:
        return f"LanguageModelEncoder({self._folder.name!r}, banned by the {self._banned_by})"

    @cached_property
    def id(self) -> str:
        """`language-model:{model type}-{dim}:{digest}`, the same wherever the folder lies.

        The digest covers both templates, the configuration and tokenizer files and, of each weights
        file, the size, the first and last MiB and 256 pages in between: a fine-tune has another one.
        """
        weights = _weight_files(self._folder)
        texts = {path for pattern in _TEXT_FILES for path in self._folder.glob(pattern) if path.is_file()}
        digest = hashlib.sha256()
        for name, text in sorted(self._templates.texts.items()):
            _add(digest, name, text.encode())
        for path in sorted(texts - set(weights)):
            _add(digest, path.name, path.read_bytes())
        for path in weights:
            _add(digest, path.name, _sample(path))
        return f"language-model:{self._config.model_type}-{self.dim}:{digest.hexdigest()[:12]}"

    @property
    def dim(self) -> int:
        return self._config.get_text_config().hidden_size

    @cached_property
    def _config(self) -> Any:
        return load_part(self._folder, "AutoConfig", _WHAT)

    def encode(self, profiles: Sequence[UserProfile]) -> UserEmbedding:
        """Return the (P, D) float32 embedding of P profiles.

        Raises:
            PSAError: where there is no profile or something else is given, a model that cannot be read,
                a prompt longer than the model's context, or a cache that cannot be used.
        """
        check_profiles(profiles)
        try:
            return UserEmbedding(torch.cat([self._row(profile).vectors for profile in profiles]), self.id)
        finally:
            if not self._keep_loaded:
                self.release()

    def release(self) -> None:
        """Drop the model; the next `encode` that needs one reads what the folder holds by then."""
        if self._loaded is not None:
            self._placement.release()
            self._loaded = None
        for name in ("id", "_config"):
            self.__dict__.pop(name, None)

    def _row(self, profile: UserProfile) -> UserEmbedding:
        if self._cache is None:
            return self._embed(profile)
        row = self._cache.load(self.id, self._banned_by, profile)
        if row is None:
            row = self._embed(profile)
            self._cache.save(row, self._banned_by, profile)
        return row

    @torch.no_grad()  # not inference_mode: training takes the result with gradients on
    def _embed(self, profile: UserProfile) -> UserEmbedding:
        with quiet():
            if self._banned_by == BY_MODEL:
                profile = replace(profile, banned_categories=self._ask_for_bans(profile))
            model, inputs = self._prepare([{"role": "user", "content": self._templates.statement(profile)}])
            # The base model: with the head on top there would be a logit for every word at every token.
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
            return UserEmbedding(hidden.float().mean(dim=1), self.id)

    def _ask_for_bans(self, profile: UserProfile) -> tuple[str, ...]:
        prompt = self._templates.question_of_bans(profile)
        messages = [{"role": "system", "content": _BAN_SYSTEM_MESSAGE}, {"role": "user", "content": prompt}]
        model, inputs = self._prepare(messages, _REPLY_TOKENS)
        tokens = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        reply = self._model_and_tokenizer()[1].decode(tokens, skip_special_tokens=True).lower()
        return tuple(category for category in CATEGORIES if category.lower() in reply)

    def _prepare(self, messages: list[dict[str, str]], reply_tokens: int = 0) -> tuple[Any, dict[str, torch.Tensor]]:
        """The model, placed, and the tokens of `messages` on its device: (1, T), whole and without padding."""
        model, tokenizer = self._model_and_tokenizer()
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template is a program of its own
            roles = " and a ".join(message["role"] for message in messages)
            raise PSAError(
                f"The chat template of the language model in {self._folder} cannot take a {roles} message. Use another "
                "model."
            ) from None  # the cause may quote the prompt
        # The chat template has put the special tokens in.
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        config = self._config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        if ids.shape[1] == 0 or ids.max() >= config.vocab_size:
            raise PSAError(f"The tokenizer in {self._folder} does not fit the model there. Download the folder again.")
        if context is not None and ids.shape[1] + reply_tokens > context:
            reply = f" with a reply of {reply_tokens}" if reply_tokens else ""
            raise PSAError(
                f"The prompt{reply} is longer than the {context} tokens that the model in {self._folder} can read. "
                "Use a shorter template, or a model with a longer context."
            )
        ids = ids.to(self._placement(model))
        return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _model_and_tokenizer(self) -> tuple[Any, Any]:
        if self._loaded is None:
            tokenizer = _load_tokenizer(self._folder)
            self._loaded = _load_model(self._folder), tokenizer
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
        max_new_tokens=_REPLY_TOKENS,
        repetition_penalty=found.repetition_penalty,
        bos_token_id=found.bos_token_id,
        eos_token_id=found.eos_token_id,
        pad_token_id=found.pad_token_id,
    )
    return model


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
