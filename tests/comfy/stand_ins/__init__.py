"""A node pack for the test server: what other packs and small GPUs do to a MODEL, in its barest form."""

import comfy.model_management
import torch
from comfy.ldm.modules.attention import optimized_attention

from . import attention, calls, guiders


class OtherAttention:
    """Replaces attn2 by IPAdapter_plus's protocol: an object with `add`, added to where one is already there."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "weight": ("FLOAT", {"default": 0.5})}}

    def patch(self, model, weight):
        model = model.clone()
        options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
        replaced = options["patches_replace"] = options.get("patches_replace", {}).copy()
        attn2 = replaced["attn2"] = replaced.get("attn2", {}).copy()
        settings = {"weight": weight, "sigma_start": 1e9, "sigma_end": 0.0}
        for site in [("middle", 0), *((block, number) for block in ("input", "output") for number in range(12))]:
            if site in attn2:
                attn2[site].add(sideways, **settings)
            else:
                attn2[site] = Replacement(sideways, settings)
        return (model,)


class Replacement:
    def __init__(self, callback, settings):
        self.calls = [(callback, settings)]

    def add(self, callback, **settings):
        self.calls.append((callback, settings))

    def __call__(self, q, k, v, extra_options):
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        sigma = extra_options["sigmas"].max().item()
        for callback, settings in self.calls:
            if settings["sigma_end"] <= sigma <= settings["sigma_start"]:
                out = out + callback(out, q, k, v, extra_options, **settings)
        return out.to(q.dtype)


def sideways(out, q, k, v, extra_options, weight, **_settings):
    """Some attention of its own: conditional rows look at their queries in the place of text."""
    kinds = extra_options["cond_or_uncond"]
    copies = q.shape[0] // len(kinds)
    conditional = torch.tensor([kind == 0 for kind in kinds for _ in range(copies)], device=q.device)
    return optimized_attention(q, q, q, extra_options["n_heads"]) * conditional[:, None, None] * weight


class Tiles:
    """Runs the model on square tiles of the latents, several to a batch, as packs for tiled diffusion do.

    They leave `cond_or_uncond` as it is, and batch tile by tile: with tiles a and b, the rows are
    a conditional, a unconditional, b conditional, b unconditional.
    """

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "tile": ("INT", {"min": 1}), "tiles_a_batch": ("INT", {"min": 1})}}

    def patch(self, model, tile, tiles_a_batch):
        model = model.clone()
        model.set_model_unet_function_wrapper(lambda run, arguments: in_tiles(run, arguments, tile, tiles_a_batch))
        return (model,)


def in_tiles(run, arguments, size, tiles_a_batch):
    latents, sigma, conditioning = arguments["input"], arguments["timestep"], arguments["c"]
    height, width = latents.shape[-2:]
    tiles = [
        (..., slice(top, top + size), slice(left, left + size))
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]
    result = torch.empty_like(latents)
    for first in range(0, len(tiles), tiles_a_batch):
        batch = tiles[first : first + tiles_a_batch]
        repeated = {
            key: value.repeat(len(batch), *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) else value
            for key, value in conditioning.items()
        }
        predicted = run(torch.cat([latents[tile] for tile in batch]), sigma.repeat(len(batch)), **repeated)
        for tile, part in zip(batch, predicted.split(len(latents)), strict=True):
            result[tile] = part
    return result


class LittleMemory:
    """Loads the MODEL in part, as ComfyUI does with --lowvram on a GPU too small for it (--cpu excludes that flag)."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "megabytes": ("INT", {"min": 1})}}

    def patch(self, model, megabytes):
        comfy.model_management.unload_all_models()
        model = model.clone()
        load = model.partially_load
        model.partially_load = lambda device, extra_memory=0, **options: load(device, megabytes << 20, **options)
        return (model,)


NODE_CLASS_MAPPINGS = {
    "TestOtherAttention": OtherAttention,
    "TestTiles": Tiles,
    "TestLittleMemory": LittleMemory,
    **attention.NODES,
    **calls.NODES,
    **guiders.NODES,
}
