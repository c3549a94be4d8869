"""PSA Build Dataset: prompts become pairs of pictures, drawn by the graph's own model, for virtual users."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..psa_core.build import LABELLERS, Said
from ..psa_core.concepts.pairs import PromptPair, read_prompt_pairs
from ..psa_core.errors import PSAError
from ..psa_core.files import existing_file
from ..psa_core.population import sample_users
from ..psa_core.rules import RULES, SAGE
from ..psa_core.users import read_users
from . import sockets
from .comfy.data_sets import data_set_fingerprint
from .comfy.dataset_build import (
    NOBODY,
    SAMPLERS,
    SCHEDULERS,
    Judging,
    Sampling,
    build,
    dataset_folder,
    native_side,
)
from .comfy.fingerprints import always_new, fingerprint
from .comfy.folders import given_path, stamp
from .comfy.images import to_comfy
from .comfy.judges import BY_MODEL, JUDGES, LOCATION, judge_fingerprint


class BuildDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSABuildDataset",
            display_name="PSA Build Dataset",
            category=sockets.TRAINING,
            description="Draws both pictures of each pair of prompts from one seed, and makes a data set for virtual "
            "users of them. Cancel keeps everything; the same graph, queued again, goes on. The data set lies in "
            "input/psa_datasets/<name>.",
            inputs=[
                io.Model.Input("model", tooltip="What draws, with LoRAs if you like: the model to train on."),
                io.Clip.Input("clip", tooltip="The model's text encoders."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                sockets.Prompts.Input("prompts", optional=True, tooltip="From PSA Concepts to Prompts."),
                io.String.Input(
                    "prompts_file",
                    default="",
                    optional=True,
                    tooltip="In place of prompts: a prompts.jsonl of psa prompts, in ComfyUI's input folder or by an "
                    "absolute path.",
                ),
                io.String.Input("name", default="my-dataset", tooltip="The data set's folder. Another name, another."),
                io.Int.Input("users", default=1000, min=1, max=100_000, tooltip="How many virtual users."),
                io.Combo.Input("rules", options=list(RULES), default=SAGE, tooltip="Which of them bans what."),
                sockets.departures(),
                io.String.Input(
                    "users_file",
                    default="",
                    optional=True,
                    tooltip="A file of psa users, in ComfyUI's input folder or by an absolute path, in place of new "
                    "virtual users.",
                ),
                sockets.seed("Of noise, users and splits. Another seed is another data set."),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="dpmpp_2m", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="karras", tooltip="As in KSampler."),
                io.Int.Input("width", default=0, min=0, max=2048, step=8, tooltip=f"Of a picture. {sockets.BY_SIZE}"),
                io.Int.Input("height", default=0, min=0, max=2048, step=8, tooltip=f"Of a picture. {sockets.BY_SIZE}"),
                io.String.Input("negative", default="", multiline=True, tooltip="What to lead away from."),
                io.String.Input(
                    "licence", default=Said.licence, optional=True, tooltip="Of the pictures: the data set says it."
                ),
                io.Combo.Input(
                    "judge",
                    options=[NOBODY, BY_MODEL, *JUDGES],
                    default=NOBODY,
                    optional=True,
                    tooltip="Looks at every pair once all are drawn. the model's own: PSA Mini's detector, for PSA "
                    "Mini. What the others are, PSA Evaluate's help says.",
                ),
                io.Combo.Input(
                    "labels",
                    options=list(LABELLERS),
                    default=LABELLERS[0],
                    optional=True,
                    tooltip="Who says which picture a user prefers. rule: what the user bans; a judge, if there is "
                    "one, first sets pairs aside that contradict their prompts. judge: the judge, for every kind of "
                    "user.",
                ),
                io.String.Input("judge_location", default="", optional=True, tooltip=LOCATION),
                io.String.Input(
                    "judge_model", default="", optional=True, tooltip="With an address: the model's name there."
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset", tooltip="The split train, for PSA Train."),
                sockets.Dataset.Output(display_name="held_out", tooltip="The split val, to measure on."),
                io.Image.Output(display_name="contact_sheet", tooltip="Some of the pairs, side by side."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **sockets.aliases("preference pairs", "make dataset", "sage", "generate training data"),
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, users_file="", prompts_file="", judge_location="", **_) -> str:
        if None in (name, users_file, prompts_file):  # linked: which files they name shows when it runs
            return always_new()
        files = [stamp(given_path(file)) for file in (users_file, prompts_file) if file]
        return fingerprint(data_set_fingerprint(dataset_folder(name)), *files, judge_fingerprint(judge_location))

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        name,
        users,
        rules,
        departures,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        width,
        height,
        negative,
        prompts=None,
        prompts_file="",
        users_file="",
        licence=Said.licence,
        judge=NOBODY,
        labels=LABELLERS[0],
        judge_location="",
        judge_model="",
    ) -> io.NodeOutput:
        size = width or native_side(model), height or native_side(model)
        sampling = Sampling(size, seed, steps, cfg, sampler_name, scheduler)
        if users_file:
            people, said = read_users(_file(users_file, "users file")), Said.rules
        else:
            people, said = sample_users(users, seed, rules, departures), f"{rules}, departures {departures:g}"
        built = build(
            model,
            clip,
            vae,
            dataset_folder(name),
            _prompts(prompts, prompts_file),
            people,
            sampling,
            negative.strip(),
            Said(licence.strip() or Said.licence, said, virtual=not users_file),
            Judging(judge, judge_location, judge_model, labels),
            cls.hidden.unique_id,
        )
        sheet = to_comfy([built.sheet])
        shown = {**ui.PreviewImage(sheet).as_dict(), "text": (built.text,)}
        return io.NodeOutput(built.train, built.held_out, sheet, ui=shown)


def _prompts(prompts: list[PromptPair] | None, file: str) -> list[PromptPair]:
    if (prompts is None) == (not file):
        raise PSAError("Connect prompts, from PSA Concepts to Prompts, or name a prompts_file; one of the two.")
    return read_prompt_pairs(_file(file, "file of prompt pairs")) if prompts is None else prompts


def _file(name: str, what: str) -> Path:
    return existing_file(given_path(name), what)
