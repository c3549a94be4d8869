"""What packs do at the cross-attention, in the barest form: one node for each protocol."""

import comfy.ldm.modules.attention
import torch
from comfy.ldm.modules.attention import CrossAttention, optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

SITES = [("middle", 0), *((block, number) for block in ("input", "output") for number in range(12))]


class ModelNode:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",)}}


def attend(q, k, v, extra_options):
    return optimized_attention(q, k, v, extra_options["n_heads"])


class ReplacedAttention(ModelNode):
    """Puts its own attention everywhere, whatever is there (PLADIS, and others that look for nothing)."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "names": (["short", "long"],)}}

    def patch(self, model, names):
        model = model.clone()
        for block, number in SITES:
            model.set_model_attn2_replace(attend, block, number, 0 if names == "long" else None)
        return (model,)


class WrappedAttention(ModelNode):
    """Puts its own attention around what is there under the name it knows, and changes nothing (NAG and others)."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "names": (["short", "long"],)}}

    def patch(self, model, names):
        model = model.clone()
        present = dict(model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {}))
        for block, number in SITES:
            key = (block, number, 0) if names == "long" else (block, number)
            inner = present.get(key, attend)
            wrapped = lambda q, k, v, options, inner=inner: inner(q, k, v, options)  # noqa: E731
            model.set_model_attn2_replace(wrapped, *key)
        return (model,)


class AskingPack(ModelNode):
    """Asks whatever is there for a method of its own patch (old packs of the IPAdapter family)."""

    def patch(self, model):
        model = model.clone()
        for patch in model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {}).values():
            patch.set_new_condition(weight=1.0, number=0)
        return (model,)


class Couple(ModelNode):
    """Attention couple with one prompt for all its regions: rows are multiplied in, and averaged after, the attention.

    The picture is the one without it. `states` says how it tells of its rows: not at all (cgem156's), in a list of
    its own (ComfyUI-ppm's and its kin), or in `cond_or_uncond` itself (Krita's).
    """

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": ("MODEL",),
                "regions": ("INT", {"default": 2}),
                "states": (["nothing", "a list", "in place"],),
            }
        }

    def patch(self, model, regions, states):
        model = model.clone()

        def multiply(q, k, v, extra_options):
            kinds = extra_options["cond_or_uncond"]
            counts = [1 if kind == 1 else regions for kind in kinds]
            extra_options["test_counts"] = counts
            many = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
            if states == "a list":
                extra_options["cond_or_uncond_couple"] = many
            elif states == "in place":
                extra_options["test_kinds"] = list(kinds)
                kinds[:] = many
            chunked = (tensor.chunk(len(counts)) for tensor in (q, k, v))
            return tuple(
                torch.cat([part.repeat(count, 1, 1) for part, count in zip(parts, counts, strict=True)])
                for parts in chunked
            )

        def average(out, extra_options):
            counts = extra_options["test_counts"]
            if states == "in place":
                extra_options["cond_or_uncond"][:] = extra_options["test_kinds"]
            size = len(out) // sum(counts)
            parts = out.split([count * size for count in counts])
            return torch.cat(
                [part.unflatten(0, (count, size)).mean(0) for part, count in zip(parts, counts, strict=True)]
            )

        model.set_model_attn2_patch(multiply)
        model.set_model_attn2_output_patch(average)
        return (model,)


class MoreKeys(ModelNode):
    """Puts other text's rows behind the prompts' while the UNet runs, and reads them in its attention (NAG)."""

    def patch(self, model):
        model = model.clone()

        def forward(module, x, context=None, value=None, mask=None, transformer_options=None):
            out = attend(
                module.to_q(x),
                module.to_k(context[: len(x)]),
                module.to_v(context[: len(x)]),
                {"n_heads": module.heads},
            )
            return module.to_out(out)

        def wrapper(executor, x, timesteps, context, *arguments, **options):
            attentions = [
                module
                for name, module in executor.class_obj.named_modules()
                if isinstance(module, CrossAttention) and name.endswith("attn2")
            ]
            for module in attentions:
                module.forward = forward.__get__(module)
            try:
                return executor(
                    x, timesteps, torch.cat([context, torch.zeros_like(context[:1])]), *arguments, **options
                )
            finally:
                for module in attentions:
                    del module.forward

        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)
        return (model,)


class CountedAttention(ModelNode):
    """Replaces `optimized_attention` in its module while sampling, and prints how often it ran (SageAttention)."""

    def patch(self, model):
        model = model.clone()

        def wrapper(executor, *arguments, **options):
            module, calls = comfy.ldm.modules.attention, []
            original = module.optimized_attention

            def counted(*args, **kwargs):
                calls.append(1)
                return original(*args, **kwargs)

            module.optimized_attention = counted
            try:
                return executor(*arguments, **options)
            finally:
                module.optimized_attention = original
                print(f"{len(calls)} calls of the replaced attention", flush=True)

        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", wrapper)
        return (model,)


class OwnPatcher(ModelPatcher):
    """A ModelPatcher of a pack's own, as loaders of quantised models have."""

    def clone(self, *args, **kwargs):
        clone = super().clone(*args, **kwargs)
        clone.__class__ = OwnPatcher
        return clone


class OwnLoader(ModelNode):
    def patch(self, model):
        model = model.clone()
        model.__class__ = OwnPatcher
        return (model,)


NODES = {
    "TestReplacedAttention": ReplacedAttention,
    "TestWrappedAttention": WrappedAttention,
    "TestAskingPack": AskingPack,
    "TestCouple": Couple,
    "TestMoreKeys": MoreKeys,
    "TestCountedAttention": CountedAttention,
    "TestOwnLoader": OwnLoader,
}
