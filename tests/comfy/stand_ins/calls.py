"""How packs call the model: in parts, in another order, with other options. The picture is the one without them."""

import copy

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention
from comfy.patcher_extension import WrappersMP
from comfy.samplers import calc_cond_batch

from .attention import ModelNode, attend


class OwnCalls(ModelNode):
    """A `model_function_wrapper`."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "how": (list(HOW),)}}

    def patch(self, model, how):
        model = model.clone()
        model.set_model_unet_function_wrapper(lambda run, arguments: HOW[how](run, *_taken_apart(arguments)))
        return (model,)


def _taken_apart(arguments):
    conditioning = dict(arguments["c"])
    return arguments["input"], arguments["timestep"], conditioning, conditioning.pop("transformer_options")


def _part(rows, x, t, conditioning):
    part = {
        name: value[rows] if isinstance(value, torch.Tensor) and len(value) == len(x) else value
        for name, value in conditioning.items()
    }
    return x[rows], t[rows], part


def _in_parts(run, parts, x, t, conditioning, options):
    """`parts`: rows, and options that are then changed."""
    out = torch.empty_like(x)
    for rows, changed in parts:
        x_part, t_part, part = _part(rows, x, t, conditioning)
        out[rows] = run(x_part, t_part, **part, transformer_options={**options, **changed})
    return out


def _copies(x, options):
    kinds = options["cond_or_uncond"]
    return kinds, torch.arange(len(x)).chunk(len(kinds))


def by_condition(run, x, t, conditioning, options):
    return _in_parts(run, [(rows, {}) for rows in _copies(x, options)[1]], x, t, conditioning, options)


def by_condition_stated(run, x, t, conditioning, options):
    parts = [(rows, {"cond_or_uncond": [kind]}) for kind, rows in zip(*_copies(x, options), strict=True)]
    return _in_parts(run, parts, x, t, conditioning, options)


def reversed_stated(run, x, t, conditioning, options):
    kinds, copies = _copies(x, options)
    rows = torch.cat(copies[::-1])
    return _in_parts(run, [(rows, {"cond_or_uncond": kinds[::-1]})], x, t, conditioning, options)


def by_picture(run, x, t, conditioning, options):
    pictures = torch.stack(_copies(x, options)[1], 1)
    return _in_parts(run, [(rows, {}) for rows in pictures], x, t, conditioning, options)


def tiles(run, x, t, conditioning, options, copy_by_copy=False):
    """Both halves of the latents in one batch."""
    kinds, _ = _copies(x, options)
    halves = x.split(x.shape[-1] // 2, -1)
    order = torch.arange(2 * len(x)).reshape(2, len(kinds), -1)  # half, copy, picture
    order = (order.transpose(0, 1) if copy_by_copy else order).flatten()
    twice = {
        name: torch.cat([value, value])[order] if isinstance(value, torch.Tensor) and len(value) == len(x) else value
        for name, value in conditioning.items()
    }
    both = run(torch.cat(halves)[order], torch.cat([t, t])[order], **twice, transformer_options=options)
    out = torch.empty_like(both)
    out[order] = both
    return torch.cat(out.chunk(2), -1)


def tiles_copy_by_copy(*arguments):
    return tiles(*arguments, copy_by_copy=True)


def without_options(run, x, t, conditioning, _options):
    return run(x, t, **conditioning)


def deep_copied_options(run, x, t, conditioning, options):
    return run(x, t, **conditioning, transformer_options=copy.deepcopy(options))


def merged_options(run, x, t, conditioning, options):
    """All lists of wrappers are there twice."""
    wrappers = {
        kind: {key: [*each, *each] for key, each in keys.items()} for kind, keys in options.get("wrappers", {}).items()
    }
    return run(x, t, **conditioning, transformer_options={**options, "wrappers": wrappers})


HOW = {
    each.__name__: each
    for each in (
        by_condition,
        by_condition_stated,
        reversed_stated,
        by_picture,
        tiles,
        tiles_copy_by_copy,
        without_options,
        deep_copied_options,
        merged_options,
    )
}


class OwnForward(ModelNode):
    """Runs a code of its own in place of each cross-attention's, or of each whole block's."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "of": (["attention", "block"],)}}

    def patch(self, model, of):
        model = model.clone()

        def attention_forward(module, x, context=None, value=None, mask=None, transformer_options=None):
            q, k, v = module.to_q(x), module.to_k(context), module.to_v(context if value is None else value)
            return module.to_out(attend(q, k, v, {"n_heads": module.heads}))

        def block_forward(module, x, context=None, transformer_options=None):
            x = x + module.attn1(module.norm1(x))
            x = x + module.attn2(module.norm2(x), context=context)
            return x + module.ff(module.norm3(x))

        for name, module in model.model.named_modules():
            if of == "attention" and isinstance(module, CrossAttention) and name.endswith("attn2"):
                model.add_object_patch(f"{name}.forward", attention_forward.__get__(module))
            if of == "block" and isinstance(module, BasicTransformerBlock):
                model.add_object_patch(f"{name}.forward", block_forward.__get__(module))
        return (model,)


class OneSigma(ModelNode):
    """Asks for a prediction with one noise level for the whole batch."""

    def patch(self, model):
        model = model.clone()

        def wrapper(executor, x, t, model_options=None, seed=None):
            options = {**(model_options or {}), "disable_cfg1_optimization": True}
            guider = executor.class_obj
            calls = [
                calc_cond_batch(guider.inner_model, [conditions], x, t[:1], options)[0]
                for conditions in (guider.conds["positive"], guider.conds["negative"])
            ]
            return calls[1] + (calls[0] - calls[1]) * guider.cfg

        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", wrapper)
        return (model,)


NODES = {"TestOwnCalls": OwnCalls, "TestOwnForward": OwnForward, "TestOneSigma": OneSigma}
