"""PSA Train: a MODEL, a CLIP, a VAE and preference pairs become an adapter."""

from comfy_api.latest import io, ui

from ..psa_core.encoders.structured import StructuredEncoder
from ..psa_core.training.assembly import Splits
from . import sockets
from .comfy.folders import check_name
from .comfy.images import to_comfy
from .comfy.kept_runs import run_fingerprint
from .comfy.training_run import CUSTOM, Wanted, train


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        custom = "Counts only where the preset is custom."
        return io.Schema(
            node_id="PSATrain",
            display_name="PSA Train",
            category=sockets.TRAINING,
            description="Trains a safety adapter on preference pairs (DPO). Cancel keeps everything; the same graph, "
            "queued again, goes on where it stopped. The run's folder is user/__psa_training/<run_name>.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.5 or SDXL, with LoRAs if you like. It is left as it is."),
                io.Clip.Input("clip", tooltip="The model's text encoders. Each caption is encoded once."),
                io.Vae.Input("vae", tooltip="The model's VAE. Each picture is encoded once."),
                sockets.Dataset.Input("dataset", tooltip="The pairs to learn from."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="What the adapter reads profiles with. Unconnected: structured."
                ),
                sockets.Dataset.Input(
                    "held_out",
                    optional=True,
                    tooltip="Pairs to measure on and not to learn from, such as the split val. The adapter that did "
                    "best on them comes out.",
                ),
                sockets.Dataset.Input(
                    "harmless",
                    optional=True,
                    tooltip="Scenes that stay as they are for everyone. Unconnected: those that belong to the data "
                    "set, where PSA Build Dataset made it.",
                ),
                io.Combo.Input(
                    "preset",
                    options=["recommended", "published", CUSTOM],
                    default="recommended",
                    tooltip="recommended: made for an evening on one card with 12 GB (not measured for SD1.5 and SDXL: "
                    "neither the time nor what its adapter reaches), at the timesteps where this model decides what "
                    "pictures show. published: the paper's settings, which take days on one card. custom: the "
                    "recommended terms with your values below, under AdamW, and batch_size pairs a step.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="0: as the preset says (recommended 1600, of SDXL 800; published 5000). A run ends where "
                    "it stands when this is set to the number it has reached; published and custom also go on with "
                    "more.",
                ),
                io.Float.Input("learning_rate", default=5e-6, min=1e-9, max=1.0, step=1e-7, round=1e-9, tooltip=custom),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Pairs at a time: the memory it takes. 0: as the preset says (recommended 4, of SDXL 1). "
                    "With a preset a step is as many pairs as the preset says (recommended 16; published 192, of SDXL "
                    "128), whatever this is; it must divide that.",
                ),
                io.Int.Input("resolution", default=512, min=64, max=2048, step=64, tooltip=custom),
                io.Int.Input("num_tokens", default=1, min=1, max=64, tooltip=f"Tokens a profile becomes. {custom}"),
                sockets.seed("Of all that is drawn at random in training."),
                io.Int.Input("save_every", default=100, min=1, max=100_000, tooltip="Steps; Cancel saves as well."),
                io.Int.Input("preview_every", default=100, min=0, max=100_000, tooltip="Steps between two previews."),
                io.String.Input("run_name", default="my-adapter", tooltip="Another name starts another run."),
                io.Boolean.Input(
                    "flip",
                    default=True,
                    optional=True,
                    tooltip="Mirror pairs at random. Off where left and right matter, as in pictures with writing.",
                ),
            ],
            outputs=[
                sockets.Adapter.Output(display_name="adapter", tooltip="The best by held-out pairs, else the last."),
                io.Image.Output(display_name="plot", tooltip="The run's curves."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **sockets.aliases("dpo", "lppd", "preference optimization", "safety", "train safety adapter", "fine-tune"),
        )

    @classmethod
    def validate_inputs(cls, run_name=None) -> bool | str:
        return run_name is None or check_name(run_name, "run name")

    @classmethod
    def fingerprint_inputs(cls, run_name=None, **_inputs) -> str:
        return run_fingerprint(run_name)

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        dataset,
        preset,
        steps,
        learning_rate,
        batch_size,
        resolution,
        num_tokens,
        seed,
        save_every,
        preview_every,
        run_name,
        encoder=None,
        held_out=None,
        harmless=None,
        flip=True,
    ) -> io.NodeOutput:
        splits = Splits(dataset, {held_out.name: held_out} if held_out else {}, harmless)
        settings = {"steps": steps, "batch_size": batch_size, "seed": seed, "save_every": save_every, "flip": flip}
        own = {"learning_rate": learning_rate, "resolution": resolution, "num_tokens": num_tokens}
        wanted = Wanted(run_name, preset, settings, own, preview_every)
        encoder = encoder or StructuredEncoder()
        adapter, plot, reason = train(model, clip, vae, splits, encoder, wanted, cls.hidden.unique_id)
        image = to_comfy([plot])
        # Saved, no preview: ComfyUI shows a job by what it saved, or by its first preview, here a sample of the data.
        shown = ui.ImageSaveHelper.get_save_images_ui(image, f"{run_name}_curves", None)
        return io.NodeOutput(adapter, image, ui={**shown.as_dict(), "text": (reason,)})
