"""One LoRA (arXiv 2106.09685) for each ban set: what it would cost to train a model for every kind of viewer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ...encoders.everyone import EveryoneEncoder
from ...errors import PSAError
from ...processes import OneProcess
from ...profile import CATEGORIES
from ...schema import SAGE_FILE_NAME, known_category
from ...seeds import draw_seed
from ...training import TensorCache, TrainConfig
from ...training.assembly import encoded_pairs, read_splits
from ...training.batches import PairBatches
from ...training.cache import cache_key
from ...training.diffusers_models import DiffusersFolder
from ...training.objective import NoiseSchedule, Objective
from ...training.optimizers import apply_gradients, learning_rate
from ...training.rows import RowMaker, batch_loss
from ...training.state import load_state, save_state
from ..adapters import CONFIG
from ..dataset import HARMLESS
from .weights import BanSet, Weights

_SAVE_EVERY = 50


@dataclass(frozen=True)
class LoRASettings:
    """Sized for the mini world; the loss and its weights are those of the mini adapters.

    Attributes:
        rank: of each projection's update; its scale is 1.
        rate: AdamW's.
        batch: pairs a step.
    """

    rank: int = 8
    steps: int = 600
    rate: float = 2e-3
    batch: int = 8
    seed: int = 0

    def config(self) -> TrainConfig:
        changes = {"steps": self.steps, "batch_size": self.batch, "effective_batch_size": self.batch, "seed": self.seed}
        return TrainConfig.from_dict({**CONFIG, **changes, "optimizer": "adamw", "learning_rate": self.rate})


class LoRA:
    """Low-rank updates of all attention projections of a UNet: queries, keys, values and outputs."""

    def __init__(self, unet: nn.Module, rank: int, seed: int = 0) -> None:
        self._layers: dict[str, nn.Linear] = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, nn.Linear) and ".attn" in name and name.split(".")[-1] != "proj"
        }
        generator = torch.Generator().manual_seed(draw_seed(seed, "lora"))
        self.down, self.up = [], []
        for layer in self._layers.values():
            down = torch.randn(rank, layer.in_features, generator=generator) * layer.in_features**-0.5
            self.down.append(down.requires_grad_(True))
            self.up.append(torch.zeros(layer.out_features, rank, requires_grad=True))

    @property
    def parameters(self) -> list[Any]:
        return [*self.down, *self.up]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the UNet's projections have their updates, with gradients to them."""
        hooks = [
            layer.register_forward_hook(lambda _layer, inputs, output, a=a, b=b: output + inputs[0] @ a.T @ b.T)
            for layer, a, b in zip(self._layers.values(), self.down, self.up, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def factors(self) -> dict[str, torch.Tensor]:
        """What a file holds: for each projection `{name}.down` (rank, in) and `{name}.up` (out, rank)."""
        parts = {"down": self.down, "up": self.up}
        return {
            f"{name}.{part}": value.clone()
            for part, values in parts.items()
            for name, value in zip(self._layers, values, strict=True)
        }


def merged(unet: nn.Module, factors: Weights) -> dict[str, torch.Tensor]:
    """The UNet's own weights with a LoRA's updates added, of the projections that it has.

    Raises:
        PSAError: for a LoRA of another UNet.
    """
    own, names = dict(unet.named_parameters()), [key.removesuffix(".up") for key in factors if key.endswith(".up")]
    try:
        return {
            f"{name}.weight": own[f"{name}.weight"].detach() + factors[f"{name}.up"] @ factors[f"{name}.down"]
            for name in names
        }
    except (KeyError, RuntimeError):
        raise PSAError("This LoRA is of another UNet than this model's. Train it anew on this model.") from None


def train_lora(
    data: Path | str,
    base: Path | str,
    banned: Sequence[str],
    folder: Path | str,
    settings: LoRASettings | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] = lambda *_: None,
) -> dict[str, torch.Tensor]:
    """Train on a mini dataset as if each pair's user banned `banned`; a stopped run goes on where it was saved.

    The loss is `training.objective`'s without a user: Diffusion-DPO, the winner's error, and the anchor on harmless
    pictures; learning rate and timesteps are the mini adapters' too.

    Args:
        folder: of the run's state, `state.safetensors`.
        progress: called with (steps made, of how many, figures by name).

    Returns:
        The factors, as `save_weights` writes them.

    Raises:
        PSAError: for a category that is none of the seven, a damaged folder, or one of another run.
    """
    settings, bans = settings or LoRASettings(), check_bans(banned)
    config, processes = settings.config(), OneProcess()
    splits = read_splits(data, EveryoneEncoder(), harmless=HARMLESS)
    models = DiffusersFolder(base, torch.device("cpu"), config)
    cache, images, texts = TensorCache(Path(data) / "cache"), models.image_encoder(), models.text_encoder()
    pairs = encoded_pairs(splits, config, cache, images, texts, EveryoneEncoder(), processes).train
    models.release()
    denoiser = models.denoiser()
    names = [splits.train.scene(number).pictures[0].name for number in pairs.scene_ids.tolist()]
    pairs.swapped = np.array([_second_is_better(name, bans) for name in names])

    lora = LoRA(denoiser.unet, settings.rank, settings.seed)
    optimizer = torch.optim.AdamW(lora.parameters, lr=settings.rate, betas=config.betas, weight_decay=0.0)
    kind = f"psa mini lora, 1, {cache_key(asdict(settings), sorted(bans), pairs.id, denoiser.id)}"
    state, start = Path(folder) / "state.safetensors", 0
    if state.is_file():
        start = _restore(load_state(state, kind), lora, optimizer)
    rows = RowMaker(NoiseSchedule(denoiser.alphas_cumprod, denoiser.prediction_type), config, denoiser.device)
    objective = Objective(config.beta, config.winner_weight, config.anchor_weight)
    batches = PairBatches(pairs.bucket_ids, settings.batch, settings.seed, given=start)
    loader = DataLoader(pairs, batch_sampler=batches, generator=torch.Generator())

    def policy(noisy, timesteps, conditioning, _users):
        with lora.applied():
            return denoiser(noisy, timesteps, conditioning)

    for step, batch in zip(range(start, settings.steps), loader, strict=False):
        optimizer.zero_grad(set_to_none=True)
        loss, figures = batch_loss(batch, policy, rows, denoiser, objective)
        loss.backward()
        apply_gradients(optimizer, lora.parameters, learning_rate(config, step), config.max_grad_norm)
        progress(step + 1, settings.steps, {name: float(value) for name, value in figures.items()})
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == settings.steps:
            saved = {"lora": lora.factors(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(state, kind, saved)
    return lora.factors()


def check_bans(banned: Sequence[str]) -> BanSet:
    """The ban set; raises PSAError for a category that is none of the seven."""
    if set(banned) - set(CATEGORIES):
        raise PSAError(f"A ban set holds categories of the seven: {', '.join(CATEGORIES)}.")
    return frozenset(banned)


def _second_is_better(first: str, bans: BanSet) -> bool:
    """Whether who bans `bans` prefers a pair's second picture; the first one's name says whether it is the safe one."""
    match = SAGE_FILE_NAME.match(first)
    category = match and known_category(match["category"])
    if not match or not match["kind"] or not category:
        raise PSAError(f"{first} does not say whether it is the safe picture of its pair. Write the dataset anew.")
    return (match["kind"] == "s") != (category in bans)


def _restore(state: Mapping[str, Any], lora: LoRA, optimizer: torch.optim.Optimizer) -> int:
    with torch.no_grad():
        for parameter, value in zip(lora.parameters, state["lora"].values(), strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
