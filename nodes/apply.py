"""PSA Apply: a MODEL that draws for the viewers of an embedding."""

from functools import partial

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..psa_core.adapter.model import PSAAdapter, check_strength
from ..psa_core.encoders.embedding import UserEmbedding
from ..psa_core.errors import PSAError
from . import sockets
from .comfy.attn2 import BatchRows, SigmaRange, UserAttention, cross_attention_sites, install


class Apply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAApply",
            display_name="PSA Apply to Model",
            category=sockets.CATEGORY,
            description="Makes the model draw for the viewers of an embedding. With several viewers, picture i of a "
            "batch is drawn for viewer i.",
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5 or SDXL model; it is left as it is, and a copy is returned."),
                sockets.Adapter.Input("adapter", tooltip="An adapter trained for this kind of model."),
                sockets.Embedding.Input("embedding", tooltip="The viewers, encoded with the adapter's encoder."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="1 as trained, 0 off; more pushes further than the training did.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Where in sampling it starts."
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Where in sampling it ends."
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model, adapter, embedding, strength, start_percent, end_percent) -> io.NodeOutput:
        return io.NodeOutput(apply_adapter(model, adapter, embedding, strength, start_percent, end_percent))


def apply_adapter(
    model: ModelPatcher,
    adapter: PSAAdapter,
    embedding: UserEmbedding,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
) -> ModelPatcher:
    """A clone of `model` with the adapter's contribution for `embedding` at every cross-attention.

    The adapter runs here, once; the clone carries one small tensor per layer.

    Raises:
        PSAError: if the model is no SD-family UNet, the adapter was made for another one, the
            embedding for another adapter, or the range is empty.
    """
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise PSAError("PSA Apply needs 0 <= start_percent <= end_percent <= 1. Swap or correct the two.")
    sites = cross_attention_sites(model.get_model_object("diffusion_model"))
    adapter.check_fits([site.width for site in sites], sites[0].context_dim if sites else 0)
    # Normal tensors, not inference tensors: a trainer may run the patched model with gradients on.
    with torch.inference_mode(False), torch.no_grad():
        tokens = torch.cat([adapter.user_tokens(embedding), adapter.uncond_tokens(1)])
        contributions = [user.scaled(check_strength(strength)) for user in adapter.key_values(tokens)]
    patched = model.clone()
    if strength == 0:
        return patched
    rows = BatchRows(profiles=len(embedding))
    active = SigmaRange.of(model.get_model_object("model_sampling"), start_percent, end_percent)
    for site, user in zip(sites, contributions, strict=True):
        install(patched, site, partial(UserAttention, user, rows, active))
    return patched
