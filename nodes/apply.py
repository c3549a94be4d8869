"""PSA Apply: a MODEL that draws for the viewers of an embedding."""

from comfy_api.latest import io

from ..psa_core.adapter.model import MAX_STRENGTH
from ..psa_core.errors import PSAError
from . import sockets
from .comfy.apply import apply_adapter, apply_effect
from .comfy.sampling_range import CONSTANT, SCHEDULES
from .comfy.say import say


class Apply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAApply",
            display_name="PSA Apply to Model",
            category=sockets.DRAWING,
            description="Personalized safety: makes the model draw for the viewers of an embedding. With several "
            "viewers, picture i of a batch is drawn for viewer i. Takes an adapter and an embedding, or an effect in "
            "their place.",
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5 or SDXL model; it is left as it is, and a copy is returned."),
                sockets.Adapter.Input("adapter", optional=True, tooltip="An adapter trained for this kind of model."),
                sockets.Embedding.Input(
                    "embedding", optional=True, tooltip="The viewers, encoded with the adapter's encoder."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    tooltip="1 as trained, 0 off; more pushes further than the training did.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Where in sampling it starts."
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Where in sampling it ends."
                ),
                sockets.Effect.Input(
                    "effect",
                    optional=True,
                    tooltip="What an adapter does for one viewer, in place of adapter and embedding.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=CONSTANT,
                    optional=True,
                    tooltip="How strength goes from start_percent to end_percent. constant: as it is. fade in: from 0 "
                    "up to strength, more on details. fade out: from strength down to 0, more on the layout.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture it acts: white, and nowhere else. Of several, picture i takes mask "
                    "i. Unconnected: everywhere.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For a sampler: it draws picture i for viewer i.")],
            **sockets.aliases(
                "personalized safety",
                "safety",
                "nsfw",
                "filter",
                "child",
                "viewer",
                "apply psa adapter",
                "regional",
                "mask",
                "strength schedule",
            ),
        )

    @classmethod
    def execute(
        cls,
        model,
        strength,
        start_percent,
        end_percent,
        adapter=None,
        embedding=None,
        effect=None,
        schedule=CONSTANT,
        mask=None,
    ) -> io.NodeOutput:
        settings = (strength, start_percent, end_percent, schedule, mask)
        if effect is None and adapter is not None and embedding is not None:
            applied, viewers = apply_adapter(model, adapter, embedding, *settings), len(embedding)
        elif effect is not None and adapter is None and embedding is None:
            applied, viewers = apply_effect(model, effect, *settings), 1
        else:
            raise PSAError(
                "PSA Apply to Model takes an adapter and an embedding, or an effect and neither of the two. Connect "
                "one or the other."
            )
        say(
            f"For {viewers} viewers: give the latent a batch_size of {viewers}, a picture each."
            if viewers > 1
            else "For 1 viewer: each picture of a batch."
        )
        return io.NodeOutput(applied)
