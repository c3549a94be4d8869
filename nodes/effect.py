"""Effects: what an adapter does for one viewer, in a file that can be handed out."""

from functools import partial

from comfy_api.latest import io

from ..psa_core.adapter.effect import load_effect, save_effect, viewer_effect
from ..psa_core.adapter.model import family_of
from ..psa_core.encoders.structured import StructuredEncoder
from ..psa_core.files import safe_file_name
from . import sockets
from .comfy import folders
from .comfy.fingerprints import always_new
from .comfy.say import say


class SaveEffect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSASaveEffect",
            display_name="PSA Save Effect",
            category=sockets.DRAWING,
            description="Writes what an adapter does for a viewer into models/psa_effects: a small file that draws "
            "without the adapter and without the profile. It is made from an invented person who bans the same, so it "
            "tells which categories are banned, and nothing else.",
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="The adapter whose effect it is."),
                sockets.Profile.Input("profile", tooltip="Whose banned categories count; nothing else of it does."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="The adapter's encoder. Unconnected: the structured one."
                ),
                io.String.Input(
                    "name",
                    default="effect",
                    tooltip="The file's name, without a folder or an ending. Let it say nothing about a person.",
                ),
            ],
            outputs=[sockets.Effect.Output(display_name="effect", tooltip="The same, for PSA Apply to Model.")],
            is_output_node=True,
            **sockets.aliases("export effect", "share adapter", "privacy", "studio"),
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        return name is None or folders.check_name(name, "effect name")

    @classmethod
    def fingerprint_inputs(cls, **_inputs) -> str:
        return always_new()  # a file that was deleted is written again

    @classmethod
    def execute(cls, adapter, profile, name, encoder=None) -> io.NodeOutput:
        name = safe_file_name(name, "effect name").removesuffix(".safetensors")
        effect = viewer_effect(adapter, encoder or StructuredEncoder(), profile.banned_categories)
        path = folders.save_new(folders.EFFECTS, name, ".safetensors", partial(save_effect, effect))
        return io.NodeOutput(effect, ui={"text": (f"Saved {path.name} ({path.stat().st_size / 1e6:.2f} MB)",)})


class LoadEffect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadEffect",
            display_name="PSA Load Effect",
            category=sockets.DRAWING,
            description="An effect from models/psa_effects: what an adapter does for one viewer, in place of the "
            "adapter and the viewer's embedding.",
            inputs=[
                io.Combo.Input(
                    "effect_name",
                    options=folders.menu(folders.EFFECTS),
                    tooltip="A .safetensors file in models/psa_effects.",
                )
            ],
            outputs=[sockets.Effect.Output(display_name="effect", tooltip="For PSA Apply to Model.")],
            **sockets.aliases("import effect", "safety effect", "viewer"),
        )

    @classmethod
    def validate_inputs(cls, effect_name=None) -> bool | str:
        return effect_name is None or folders.check_file(folders.EFFECTS, effect_name)

    @classmethod
    def fingerprint_inputs(cls, effect_name=None) -> str:
        return folders.file_fingerprint(folders.EFFECTS, effect_name)

    @classmethod
    def execute(cls, effect_name) -> io.NodeOutput:
        effect = load_effect(folders.find_file(folders.EFFECTS, effect_name))
        tokens = "1 token" if effect.num_tokens == 1 else f"{effect.num_tokens} tokens"
        say(f"for {family_of(effect.cross_attention_dim)}: {len(effect.layers)} layers, {tokens}")
        return io.NodeOutput(effect)
