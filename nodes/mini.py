"""PSA Mini in ComfyUI: the shipped model and its adapters."""

from comfy_api.latest import io

from ..psa_core.adapter.files import load_adapter
from ..psa_core.mini import BAN_ALL_ADAPTER, BASE_MODEL, PSA_ADAPTER
from . import sockets
from .comfy.mini_model import load_clip, load_model, load_vae
from .comfy.say import say


class LoadMini(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadMini",
            display_name="PSA Load Mini",
            category=sockets.DRAWING,
            description="A small SD1.5-like model and its adapters, which come with this pack: no file is needed. It "
            "draws simple scenes of 128 x 128 pixels, such as 'a meadow with a red circle and a heart'.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Draws 128 x 128 pixels."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE."),
                sockets.Adapter.Output(display_name="adapter", tooltip="Takes away what a viewer bans."),
                sockets.Adapter.Output(
                    display_name="rival_adapter", tooltip="Draws alike for all: give it the encoder everyone."
                ),
            ],
            **sockets.aliases("psa demo", "small model", "example model", "safety"),
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        say("Ask for a scene of its world, such as: a meadow with a red circle and a heart")
        adapters = (load_adapter(PSA_ADAPTER), load_adapter(BAN_ALL_ADAPTER))
        return io.NodeOutput(load_model(BASE_MODEL), load_clip(BASE_MODEL), load_vae(BASE_MODEL), *adapters)
