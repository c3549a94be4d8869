"""Guiders of packs' own, and names that come through a link."""

import comfy.samplers
from comfy.model_patcher import ModelPatcher


class NamedGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance from a prompt and a negative prompt of any names, batched in the order given."""

    def set_names(self, names, positive, negative):
        self.names = names
        self.inner_set_conds({name: positive if index == 0 else negative for index, name in enumerate(names)})

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conditions = [self.conds[name] for name in reversed(self.names)]
        *_, negative, positive = comfy.samplers.calc_cond_batch(
            self.inner_model, conditions, x, timestep, model_options or {}
        )
        return negative + (positive - negative) * self.cfg


class Guider:
    """`names`: of the positive and the negative prompt, with a comma."""

    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "guider"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "cfg": ("FLOAT", {"default": 7.0}),
                "names": ("STRING", {"default": "positive,negative"}),
            }
        }

    def guider(self, model: ModelPatcher, positive, negative, cfg, names):
        guider = NamedGuider(model)
        guider.set_names(names.split(","), positive, negative)
        guider.set_cfg(cfg)
        return (guider,)


class Anything(str):
    """The type of a socket that fits all."""

    def __ne__(self, _other):
        return False


class Text:
    """A text for any socket."""

    RETURN_TYPES = (Anything("*"),)
    FUNCTION = "text"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"text": ("STRING", {"default": ""})}}

    def text(self, text):
        return (text,)


NODES = {"TestGuider": Guider, "TestText": Text}
