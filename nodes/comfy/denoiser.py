"""ComfyUI's MODEL as the trainer's Denoiser: its own UNet, borrowed for the time of a training run."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from comfy import model_base, model_management
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...psa_core.adapter.hooks import user_attention_added
from ...psa_core.errors import PSAError
from ...psa_core.training import User
from ...psa_core.training.cache import cache_key
from ...psa_core.training.denoiser import normal_tensors
from .attn2 import cross_attention_sites
from .weights import refuse_bypassed, weights_id

_SAMPLING_PATCHES = ("patches", "patches_replace", "wrappers", "callbacks")
_ABSENT = object()


class ComfyDenoiser:
    """A MODEL's UNet, called at discrete timesteps. Made by `borrowed`; see psa_core's `Denoiser` for the protocol.

    `model_sampling` is the MODEL's own, whose schedule and kind of prediction it follows.
    """

    def __init__(self, model: ModelPatcher, dtype: torch.dtype, whole: bool) -> None:
        sites = cross_attention_sites(model.model.diffusion_model)
        self.model_sampling = model.get_model_object("model_sampling")
        self.layer_widths: Sequence[int] = [site.width for site in sites]
        self.cross_attention_dim = sites[0].context_dim
        self.alphas_cumprod = 1 / (self.model_sampling.sigmas.double().cpu() ** 2 + 1)
        self.prediction_type = prediction_type(self.model_sampling)
        self.id = weights_id(model, model.model.diffusion_model, whole)
        if whole:
            schedule = cache_key(self.alphas_cumprod.tolist(), self.prediction_type)
            self.id = f"{self.id}-{schedule}"
        self._device = model.load_device
        self._base = model.model
        self._dtype = dtype
        self._layers = [site.attention for site in sites]
        self._applied = ExitStack()

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def weight_bytes(self) -> int:
        """Of the UNet, as it is stored."""
        return sum(parameter.nbytes for parameter in self._base.diffusion_model.parameters())

    def __call__(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        user: User | None = None,
    ) -> torch.Tensor:
        model_management.throw_exception_if_processing_interrupted()  # a step may take minutes; Cancel waits for none
        self.release()
        if user is not None:
            self._applied.enter_context(user_attention_added(self._layers, user.adapter, user.tokens))
        output = self._base.diffusion_model(
            noisy.to(self._dtype),
            timesteps.float(),
            context=conditioning["text"].to(self._dtype),
            transformer_options={"optimized_attention_override": _with_gradients},
            **self._size_vector(conditioning),
        )
        return output.float()

    def release(self) -> None:
        self._applied.close()

    @torch.no_grad()
    def _size_vector(self, conditioning: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """SDXL's `y`, from pooled text and picture sizes, as the MODEL itself makes it."""
        if not has_size_vector(self._base):
            return {}
        rows = []
        for pooled, sizes in zip(conditioning["pooled"], conditioning["sizes"].tolist(), strict=True):
            names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
            rows.append(self._base.encode_adm(pooled_output=pooled[None], **dict(zip(names, sizes, strict=True))))
        return {"y": torch.cat(rows).to(self._device, self._dtype)}


@contextmanager
def borrowed(model: ModelPatcher, precision: str, whole: bool = True) -> Iterator[ComfyDenoiser]:
    """Within the block the MODEL's UNet is loaded, patched with its LoRAs, frozen, and fit for backward passes.

    It computes in bfloat16, or in float32 where `precision` is `fp32`, where the device has no
    bfloat16, and on a CPU for float32 weights. Each block's activations are computed again in the
    backward pass. Weights made under inference mode become ordinary tensors of the same values; all
    else is on exit as it was, and a UNet that was not loaded before is unloaded. Where ComfyUI moves
    weights while a model runs (dynamic VRAM), it is a full copy of the MODEL that is borrowed.

    Args:
        whole: the denoiser's id tells any two models apart, by all weights, the noise schedule and what is predicted. A
            run that an earlier version began goes on with that version's id, by samples of the weights alone.

    Raises:
        PSAError: for a MODEL that cannot be trained on (see `check_trainable`), or that does not fit in memory whole.
    """
    check_trainable(model)
    model = _whole(model)
    unet = model.model.diffusion_model
    was_loaded = bool(_entries(model))
    try:
        with torch.inference_mode(False):
            everything = model_management.get_total_memory(model.load_device)  # others make room for a long time
            model_management.load_models_gpu([model], memory_required=everything, force_full_load=True)
        if model.model.model_lowvram:
            raise PSAError(
                "Training needs the whole model in the graphics card's memory, and ComfyUI has loaded it in part. "
                "Start ComfyUI without --novram."
            )
        frozen = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
        normal_tensors(unet)
        dtype = _compute_dtype(unet.dtype, model.load_device, precision)
        with ExitStack() as changes:
            changes.enter_context(replaced([model_management], "in_training", lambda _: True))
            changes.callback(_set_gradients, unet, frozen)
            _set_gradients(unet, dict.fromkeys(frozen, False))
            layers = [module for module in unet.modules() if hasattr(module, "comfy_cast_weights")]
            if dtype != unet.dtype:
                changes.enter_context(replaced(layers, "comfy_cast_weights", lambda _: True))
            changes.enter_context(replaced(layers, "training", lambda _: True))  # fp8 layers: no kernel without one
            blocks = [module for module in unet.modules() if isinstance(module, ResBlock | BasicTransformerBlock)]
            changes.enter_context(replaced(blocks, "forward", lambda block: partial(_recomputed, block.forward)))
            denoiser = ComfyDenoiser(model, dtype, whole)
            changes.callback(denoiser.release)
            yield denoiser
    finally:
        if not was_loaded:
            _unload(model)
        gc.collect()
        model_management.soft_empty_cache()


def _whole(model: ModelPatcher) -> ModelPatcher:
    """`model`, or under dynamic VRAM a full copy that stays where it is loaded, as ComfyUI's own trainer takes one.

    There weights come and go from layer to layer, while a backward pass still needs them.
    """
    if not getattr(model, "is_dynamic", bool)():
        return model
    if model.cached_patcher_init is None:
        raise PSAError(
            "Under dynamic VRAM training takes a copy of the MODEL, which this loader cannot load again. Load it by a "
            "loader of ComfyUI's own, or start ComfyUI with --disable-dynamic-vram."
        )
    with torch.inference_mode(False):
        return model.clone(disable_dynamic=True, force_deepcopy=True)


def check_trainable(model: ModelPatcher) -> None:
    """Raise PSAError unless training can go through `model`'s UNet as it is."""
    sites = cross_attention_sites(model.get_model_object("diffusion_model"))
    base, unet = model.model, model.model.diffusion_model
    config = base.model_config.unet_config
    if not sites or config.get("in_channels") != config.get("out_channels") or base.concat_keys:
        raise PSAError("Training knows plain SD1.5 and SDXL models, not inpainting, edit or video models.")
    if unet.num_classes is not None and not has_size_vector(base):
        raise PSAError("Training knows SD1.5 and SDXL base models; this one takes another kind of extra input.")
    prediction_type(model.get_model_object("model_sampling"))
    refuse_bypassed(model)
    if any(type(parameter.data) is not torch.Tensor for parameter in unet.parameters()):
        raise PSAError(
            "This model's weights are quantised in a way that lets no gradient through. Load it in fp16, bf16 or fp8."
        )
    options = model.model_options["transformer_options"]
    patched = [name for name in _SAMPLING_PATCHES if options.get(name)]
    if patched or "model_function_wrapper" in model.model_options:
        raise PSAError(
            "This MODEL was changed for sampling by another node (such as PSA Apply to Model, IPAdapter or FreeU), and "
            "training would not see that. Connect the MODEL from before that node; LoRAs may stay."
        )


def has_size_vector(base: model_base.BaseModel) -> bool:
    """Whether it is SDXL, which takes pooled text and picture sizes beside the text."""
    return isinstance(base, model_base.SDXL)


def prediction_type(sampling: Any) -> str:
    """`epsilon` or `v_prediction`, found by what `sampling` makes of a prediction.

    Raises:
        PSAError: for a model that predicts something else, or that has no discrete timesteps.
    """
    formulas: dict[str, Callable] = {
        "epsilon": lambda sigma, output, x: x - sigma * output,
        "v_prediction": lambda sigma, output, x: x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5,
    }
    if isinstance(sampling, ModelSamplingDiscrete):
        probes = torch.tensor([0, len(sampling.sigmas) // 2, len(sampling.sigmas) - 1])
        sigmas = sampling.sigmas[probes.to(sampling.sigmas.device)]
        if sampling.timestep(sigmas).cpu().equal(probes):
            sigma, output, x = sigmas[1:2].cpu(), torch.tensor([0.3]), torch.tensor([0.7])
            denoised = sampling.calculate_denoised(sigma, output, x)
            for name, formula in formulas.items():
                if torch.allclose(denoised, formula(sigma, output, x), rtol=1e-4):
                    return name
    raise PSAError(
        "Training knows models that predict noise (epsilon) or velocity (v) at discrete timesteps. Connect the model "
        "loader's MODEL, without a node that changes its sampling to another kind (LCM, EDM, flow)."
    )


def _with_gradients(_chosen: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    """PyTorch's attention, whichever was chosen for sampling: some of those have no backward pass."""
    return attention_pytorch(*args, **kwargs)


def _recomputed(forward: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`forward` under gradient checkpointing. Options are copied: later blocks write into the same dict."""
    args = tuple(dict(value) if isinstance(value, dict) else value for value in args)
    kwargs = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _compute_dtype(stored: torch.dtype, device: torch.device, precision: str) -> torch.dtype:
    if precision == "fp32":
        return torch.float32
    if device.type == "cpu":
        return torch.float32 if stored == torch.float32 else torch.bfloat16
    return torch.bfloat16 if model_management.should_use_bf16(device) else torch.float32


def _set_gradients(unet: nn.Module, flags: Mapping[str, bool]) -> None:
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(flags[name])


@contextmanager
def replaced(objects: Sequence[Any], name: str, value: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block each object's own attribute `name` is `value(object)`."""
    before = [(each, vars(each).get(name, _ABSENT)) for each in objects]
    try:
        for each in objects:
            setattr(each, name, value(each))
        yield
    finally:
        for each, old in before:
            if old is not _ABSENT:
                setattr(each, name, old)
            elif name in vars(each):
                delattr(each, name)


def _entries(model: ModelPatcher) -> list[Any]:
    """ComfyUI's entries for this MODEL's weights among those it has loaded."""
    return [
        entry
        for entry in model_management.current_loaded_models
        if entry.model is not None and model.is_clone(entry.model)
    ]


def _unload(model: ModelPatcher) -> None:
    with torch.inference_mode(False):
        for entry in _entries(model):
            entry.model_unload()
            model_management.current_loaded_models.remove(entry)
