"""PSA Evaluate: what an adapter draws for held-out users beside the base model's pictures, judged."""

from comfy_api.latest import io, ui

from ..psa_core.evaluate import BASE, build_report
from ..psa_core.evaluate.cases import Cases
from . import sockets
from .comfy.images import to_comfy
from .comfy.judges import BY_MODEL, JUDGES, LOCATION, judge_fingerprint
from .comfy.studio import (
    SAMPLERS,
    SCHEDULERS,
    Method,
    Sampling,
    Studio,
    evaluating_judge,
    forget_answers,
    judged_drawings,
    native_side,
)


class Evaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAEvaluate",
            display_name="PSA Evaluate",
            category=sockets.MEASURING,
            description="Draws held-out captions for their users, with the adapter and without it from the same noise, "
            "has the pictures judged, and shows the figures with their 95 % intervals.",
            inputs=[
                io.Model.Input("model", tooltip="The model without an adapter."),
                io.Clip.Input("clip", tooltip="The model's text encoders."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                sockets.Adapter.Input("adapter", tooltip="The adapter to measure."),
                sockets.Dataset.Input("dataset", tooltip="Captions and users that the adapter has not learned from."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="What the adapters read profiles with. Unconnected: structured."
                ),
                sockets.Adapter.Input("rival_adapter", optional=True, tooltip="An adapter to compare with."),
                io.Combo.Input(
                    "judge",
                    options=[BY_MODEL, *JUDGES],
                    default=BY_MODEL,
                    tooltip="the model's own: PSA Mini's detector for PSA Mini; for another model, choose one. mini "
                    "detector: for PSA Mini's pictures. Q16 classifier: says what is inappropriate, whoever looks. "
                    "vision-language model: hears who looks. NudeNet: finds nudity, whoever looks.",
                ),
                io.String.Input("judge_location", default="", tooltip=LOCATION),
                io.String.Input("judge_model", default="", tooltip="With an address: the model's name there."),
                io.Int.Input(
                    "count", default=50, min=1, max=10_000, tooltip="Records to draw, spread evenly over the dataset."
                ),
                io.Int.Input("width", default=0, min=0, max=2048, step=8, tooltip=f"Of a picture. {sockets.BY_SIZE}"),
                io.Int.Input("height", default=0, min=0, max=2048, step=8, tooltip=f"Of a picture. {sockets.BY_SIZE}"),
                sockets.seed("Of the noise; each record has its own, the same for every adapter."),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="dpmpp_2m", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="karras", tooltip="As in KSampler."),
            ],
            outputs=[
                io.Image.Output(display_name="figure", tooltip="The figures as a picture."),
                io.String.Output(display_name="table", tooltip="The figures in words."),
            ],
            is_output_node=True,
            **sockets.aliases(
                "safety benchmark", "safety", "nsfw", "nsfw detector", "judge", "q16", "nudenet", "win rate"
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, judge_location="", **_) -> str:
        return judge_fingerprint(judge_location)

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        adapter,
        dataset,
        judge,
        judge_location,
        judge_model,
        count,
        width,
        height,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        encoder=None,
        rival_adapter=None,
    ) -> io.NodeOutput:
        # What cannot work says so now, not after hours of drawing.
        cases = Cases(dataset, count)
        size = width or native_side(model), height or native_side(model)
        judged_by = evaluating_judge(model, judge, judge_location, judge_model)
        judged_by.check([prompt.caption for prompt in cases.prompts])
        adapters = {BASE: None, "rival": rival_adapter, "PSA": adapter}  # a method is compared with those before it
        methods = [
            Method(name, each, cases.profiles, encoder)
            for name, each in adapters.items()
            if each is not None or name == BASE
        ]
        for method in methods:
            method.apply_to(model, [0])
        sampling = Sampling(size, seed, steps, cfg, sampler_name, scheduler)
        studio = Studio(model, clip, vae, sampling)
        studio.conditioning([""])
        rows = judged_drawings(studio, methods, cases, judged_by)
        note = f"{len(cases)} records of {len(cases.profiles)} users; {sampling}."
        report = build_report(rows, dataset.name, judged_by.name, notes=(note,))
        forget_answers()
        table = report.to_markdown()
        figure = to_comfy([report.to_figure()])
        return io.NodeOutput(figure, table, ui={**ui.PreviewImage(figure).as_dict(), "text": (table,)})
