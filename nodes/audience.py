"""Several viewers before one picture."""

from comfy_api.latest import io

from ..psa_core.adapter.effect import joined_effect, mixed_effect, strictest, viewer_effect
from ..psa_core.encoders.structured import StructuredEncoder
from ..psa_core.errors import PSAError
from . import sockets
from .comfy.graph_labels import names_behind, viewer_names
from .comfy.say import say

STRICTEST, JOINED = "strictest bans", "joined tokens"


class Audience(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAAudience",
            display_name="PSA Audience",
            category=sockets.VIEWERS,
            description="Several viewers before one picture, which none of them is to mind. PSA Encode instead draws a "
            "picture for each.",
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="The adapter to draw with."),
                sockets.Profile.Input("profile", tooltip="A viewer."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="The adapter's encoder. Unconnected: the structured one."
                ),
                io.Combo.Input(
                    "how",
                    options=[STRICTEST, JOINED],
                    default=STRICTEST,
                    tooltip="strictest bans: for an invented person who bans all that any of them does. joined tokens: "
                    "the model attends to all of them at once, which draws between them.",
                ),
                *sockets.more_profiles("One more viewer."),
            ],
            outputs=[
                sockets.Effect.Output(display_name="effect", tooltip="For PSA Apply to Model."),
                sockets.Profile.Output(
                    display_name="strictest", tooltip="The invented person who bans all that any of them does."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            **sockets.aliases("audience", "group", "family", "classroom", "several viewers"),
        )

    @classmethod
    def execute(cls, adapter, profile, how, encoder=None, **more) -> io.NodeOutput:
        viewers = sockets.viewers(profile, more)
        encoder, person = encoder or StructuredEncoder(), strictest(viewers)
        names = viewer_names(cls.hidden.prompt or {}, str(cls.hidden.unique_id), len(viewers))
        say(f"One picture for {', '.join(names)}: {how}.")
        if how == JOINED:
            return io.NodeOutput(joined_effect(adapter, encoder.encode(viewers)), person)
        if how == STRICTEST:
            return io.NodeOutput(viewer_effect(adapter, encoder, person.banned_categories), person)
        raise PSAError(f"An audience's 'how' must be one of: {STRICTEST}, {JOINED}.")


class MixViewers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAMixViewers",
            display_name="PSA Mix Viewers",
            category=sockets.VIEWERS,
            description="Draws between two viewers: a slider from the first to the second.",
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="The adapter to draw with."),
                sockets.Embedding.Input("first", tooltip="One viewer, encoded with the adapter's encoder."),
                sockets.Embedding.Input("second", tooltip="Another viewer, encoded alike."),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="The second viewer's share: 0 draws for the first alone, 1 for the second alone.",
                ),
            ],
            outputs=[sockets.Effect.Output(display_name="effect", tooltip="For PSA Apply to Model.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            **sockets.aliases("blend viewers", "interpolate", "slider"),
        )

    @classmethod
    def execute(cls, adapter, first, second, share) -> io.NodeOutput:
        effect = mixed_effect(adapter, first, second, share)
        prompt, node = cls.hidden.prompt or {}, str(cls.hidden.unique_id)
        one, other = (names_behind(prompt, node, name) or f"the {name}" for name in ("first", "second"))
        say(f"{1 - share:.0%} for {one}, {share:.0%} for {other}.")
        return io.NodeOutput(effect)
