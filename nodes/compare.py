"""PSA Compare: viewers, prompts and strengths side by side, and where PSA changed the pictures."""

from comfy_api.latest import io

from ..psa_core.plots.comparison import Comparison, read_prompts, read_strengths
from . import sockets
from .comfy.compare import check_prefix, draw_comparison, save_comparison, settings_of
from .comfy.graph_labels import viewer_names
from .comfy.images import to_comfy
from .comfy.say import say
from .comfy.studio import SAMPLERS, SCHEDULERS, Method, Sampling, Studio, native_side


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSACompare",
            display_name="PSA Compare",
            category=sockets.MEASURING,
            description="Draws each prompt without PSA, and for each viewer at each strength, all from one seed, and "
            "shows them in one table; in a second one, where PSA changed the picture. Both are saved with their "
            "settings and with nothing of a profile but its name.",
            inputs=[
                io.Model.Input("model", tooltip="The model without an adapter, with LoRAs if you like."),
                io.Clip.Input("clip", tooltip="The model's text encoders."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                sockets.Adapter.Input("adapter", tooltip="The adapter to draw with."),
                sockets.Profile.Input("profile", tooltip="The first viewer."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="The adapter's encoder. Unconnected: the structured one."
                ),
                *sockets.more_profiles("One more viewer: more columns."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One a line, a row each. Weights in parentheses count, as in CLIP Text Encode.",
                ),
                io.String.Input(
                    "strengths",
                    default="0, 0.5, 1",
                    tooltip="A list with commas between. 0, the model without PSA, is drawn once a prompt in any case.",
                ),
                io.String.Input("negative", default="", multiline=True, tooltip="What to lead away from."),
                io.Int.Input("width", default=0, min=0, max=2048, step=8, tooltip=f"Of a picture. {sockets.BY_SIZE}"),
                io.Int.Input("height", default=0, min=0, max=2048, step=8, tooltip=f"Of a picture. {sockets.BY_SIZE}"),
                sockets.seed("Of the noise, which is the same for all pictures."),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="dpmpp_2m", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="karras", tooltip="As in KSampler."),
                io.String.Input(
                    "filename_prefix", default="psa_compare", tooltip="Of the two files in ComfyUI's output folder."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All pictures, under who, and beside which prompt."),
                io.Image.Output(
                    display_name="differences", tooltip="The same table: in colour where PSA changed the picture."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,
            **sockets.aliases(
                "compare", "xy plot", "xyz plot", "grid", "side by side", "difference", "strength", "before and after"
            ),
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        adapter,
        profile,
        prompts,
        strengths,
        negative,
        width,
        height,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        filename_prefix,
        encoder=None,
        **more_profiles,
    ) -> io.NodeOutput:
        viewers = sockets.viewers(profile, more_profiles)
        names = viewer_names(cls.hidden.prompt or {}, str(cls.hidden.unique_id), len(viewers))
        comparison = Comparison(read_prompts(prompts), tuple(names), read_strengths(strengths))
        size = width or native_side(model), height or native_side(model)
        comparison.check_count(size)
        check_prefix(filename_prefix)
        sampling = Sampling(size, seed, steps, cfg, sampler_name, scheduler)
        method = Method("PSA", adapter, viewers, encoder)
        method.apply_to(model, [0])  # what does not fit says so before anything is drawn
        studio = Studio(model, clip, vae, sampling)
        say(f"{comparison} to draw.")
        drawn = draw_comparison(studio, model, method, comparison, seed, negative)
        tables = {
            "": comparison.grid(drawn, f"{sampling}."),
            "_differences": comparison.differences(drawn, f"In colour: what PSA changed. {sampling}."),
        }
        saved = save_comparison(tables, filename_prefix, settings_of(comparison, sampling, negative))
        files = ", ".join(file["filename"] for file in saved)
        words = f"{comparison}.\n{sampling}.\nSaved in the output folder: {files}."
        return io.NodeOutput(*(to_comfy([table]) for table in tables.values()), ui={"images": saved, "text": (words,)})
