"""UCE (arXiv 2308.14761): the cross-attentions' text projections, edited in closed form."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from ...diffusers_unet import cross_attention_layers
from ...schema import CATEGORIES
from ..base_model import tokenize
from ..generate import MiniModel
from ..world import SYMBOLS
from .erasing import Erased, check_erased, in_scenes, scene_prompts
from .weights import PerBanSet


@dataclass(frozen=True)
class UCESettings:
    """Weights of the closed form's three parts.

    Attributes:
        erase, preserve: of the mean over prompts to erase, and to preserve.
        ridge: of the projection as it was.
    """

    erase: float = 1.0
    preserve: float = 1.0
    ridge: float = 0.1


SCENES = 40  # of each symbol, to erase or to preserve


def for_bans(model: MiniModel, banned: Collection[str]) -> dict[str, torch.Tensor]:
    """The weights that erase these categories' symbols from scenes, and preserve scenes without and with all others.

    Without a category there is nothing to change, and no weights.
    """
    if not banned:
        return {}
    preserved = scene_prompts(len(CATEGORIES) * SCENES, seed=0)
    for category in CATEGORIES:
        if category not in banned:
            preserved += scene_prompts(SCENES, 0, SYMBOLS[category])
    return edit(model, in_scenes(SCENES, 0, [each for each in CATEGORIES if each in banned]), preserved)


def for_each_viewer(model: MiniModel, name: str) -> PerBanSet:
    """UCE for the ban set of whoever looks: it is made in seconds, once a set."""
    return PerBanSet(model, name, cache(partial(for_bans, model)))


@torch.no_grad()
def edit(
    model: MiniModel, erased: Sequence[Erased], preserved: Sequence[str], settings: UCESettings | None = None
) -> dict[str, torch.Tensor]:
    """The edited weights of every `to_k` and `to_v` that reads the text.

    For a projection W, tokens c of prompts to erase with c* the tokens in their place, and tokens p of prompts to
    preserve (eq. 7 of the paper, with its code's ridge to W itself):

        W' = (e sum W c* c^T + r sum W p p^T + l W) (e sum c c^T + r sum p p^T + l I)^-1

    Of a prompt to erase the tokens are those from its last word on, the padding too, which here carries what the
    prompt says, and c* are as many from its neutral prompt's last word on.

    Raises:
        PSAError: where there is nothing to erase.
    """
    settings = settings or UCESettings()
    before, after = _aligned(model, check_erased(erased))
    kept = model.text(list(preserved)).double().flatten(0, 1) if preserved else before[:0]
    width = before.shape[1]
    erase, preserve = settings.erase / len(erased), settings.preserve / max(1, len(preserved))
    old = erase * before.T @ before + preserve * kept.T @ kept + settings.ridge * torch.eye(width, dtype=torch.float64)
    new = erase * after.T @ before + preserve * kept.T @ kept + settings.ridge * torch.eye(width, dtype=torch.float64)
    change = torch.linalg.solve(old, new, left=False)  # W' = W new old^-1
    names = {id(parameter): name for name, parameter in model.unet.named_parameters()}
    projections = [each for layer in cross_attention_layers(model.unet) for each in (layer.to_k, layer.to_v)]
    return {names[id(each.weight)]: (each.weight.double() @ change).float() for each in projections}


def _aligned(model: MiniModel, erased: Sequence[Erased]) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, C) tokens of the prompts to erase, and (T, C) of their neutral ones, in float64."""
    before, after = [], []
    lasts = [_last_words(model, [each[part] for each in erased]) for part in (0, 1)]
    texts = [model.text([each[part] for each in erased]).double() for part in (0, 1)]
    for old, new, last, neutral in zip(*texts, *lasts, strict=True):
        count = len(old) - max(last, neutral)
        before.append(old[last : last + count])
        after.append(new[neutral : neutral + count])
    return torch.cat(before), torch.cat(after)


def _last_words(model: MiniModel, prompts: list[str]) -> list[int]:
    """The place of each prompt's last token before the end token; of the empty prompt that of its start token."""
    tokens = tokenize(model.tokenizer, prompts)
    return [int((row != model.tokenizer.eos_token_id).nonzero()[-1]) for row in tokens]
