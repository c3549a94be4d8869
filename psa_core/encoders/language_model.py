"""The language-model encoder: the paper's recipe, a profile as the mean of a language model's hidden states."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from ..errors import PSAError
from ..language_model import LanguageModel, Placement
from ..pretrained import quiet
from ..profile import UserProfile, check_profiles
from ..replies import without_thoughts
from ..schema import CATEGORIES
from .cache import EmbeddingCache
from .embedding import UserEmbedding
from .prompt_templates import Templates

BY_PROFILE, BY_MODEL = "profile", "language model"
BANNED_BY = (BY_PROFILE, BY_MODEL)

_BAN_SYSTEM_MESSAGE = "You are a helpful assistant."


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
        folder: a causal language model in Hugging Face layout; published adapters need Qwen2.5-7B-Instruct.
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
        self._model = LanguageModel(folder, placement)
        self._templates = Templates.read(templates)
        self._banned_by = banned_by
        self._cache = cache
        self._keep_loaded = keep_loaded

    def __repr__(self) -> str:
        return f"LanguageModelEncoder({self._model.folder.name!r}, banned by the {self._banned_by})"

    @cached_property
    def id(self) -> str:
        """`language-model:{model type}-{dim}:{digest}`, the same wherever the folder lies.

        The digest covers both templates and what `LanguageModel.digest` does.
        """
        return f"language-model:{self._model.config.model_type}-{self.dim}:{self._model.digest(self._templates.texts)}"

    @property
    def dim(self) -> int:
        return self._model.config.get_text_config().hidden_size

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
        self._model.release()
        self.__dict__.pop("id", None)

    def _row(self, profile: UserProfile) -> UserEmbedding:
        if self._cache is None:
            return self._embed(profile)
        row = self._cache.load(self.id, self._banned_by, profile)
        if row is None:
            row = self._embed(profile)
            self._cache.save(row, self._banned_by, profile)
        return row

    def banned_categories(self, profile: UserProfile) -> tuple[str, ...]:
        """What the model says a person bans, alphabetically; the profile's own bans it does not hear.

        Raises:
            PSAError: for a model that cannot be read or comes to no answer, or a prompt longer than its context.
        """
        prompt = self._templates.question_of_bans(profile)
        messages = [{"role": "system", "content": _BAN_SYSTEM_MESSAGE}, {"role": "user", "content": prompt}]
        said = without_thoughts(self._model.reply(messages))  # in its thoughts it may go through all of them
        if said is None:
            raise PSAError(
                f"The language model in {self._model.folder} thought aloud and came to no answer. Use one that "
                "answers at once, such as Qwen2.5-7B-Instruct."
            )
        return tuple(category for category in CATEGORIES if category.lower() in said.lower())

    @torch.no_grad()  # not inference_mode: training takes the result with gradients on
    def _embed(self, profile: UserProfile) -> UserEmbedding:
        if self._banned_by == BY_MODEL:
            profile = replace(profile, banned_categories=self.banned_categories(profile))
        with quiet():
            model, inputs = self._model.prepare([{"role": "user", "content": self._templates.statement(profile)}])
            # The base model: with the head on top there would be a logit for every word at every token.
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
            return UserEmbedding(hidden.float().mean(dim=1), self.id)
