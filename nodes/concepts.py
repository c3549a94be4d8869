"""PSA_PROMPTS: pairs of prompts of one scene, with a concept and without it."""

from comfy_api.latest import io

from ..psa_core.concepts.lists import PLACEHOLDERS, parse_concepts
from ..psa_core.concepts.making import Counts, summary
from ..psa_core.concepts.scenes import TemplateScenes
from ..psa_core.mini.scenes import MiniScenes, mini_concepts
from . import sockets
from .comfy.prompt_writing import SERVER, TEMPLATES, write_prompts, writer_fingerprint, writer_names

EVERYDAY, MINI = "everyday", "mini"
_SHOWN = 12  # prompts


class Concepts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAConcepts",
            display_name="PSA Concepts to Prompts",
            category=sockets.TRAINING,
            description="Turns a list of things that some viewers should not see into pairs of prompts of one scene: "
            "one that shows the thing, one that does not.",
            inputs=[
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default=PLACEHOLDERS.read_text(encoding="utf-8"),
                    tooltip="A line '# Category', and below it one concept a line; phrases that hint at it without its "
                    "words after '=', with ';' between them. Empty, with the scenes of PSA Mini: its seven symbols.",
                ),
                io.Int.Input("pairs", default=20, min=1, max=10_000, tooltip="Pairs of prompts for each concept."),
                io.Float.Input(
                    "implied",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The share of them that only imply the concept, without its words. Templates need "
                    "hints for it.",
                ),
                io.Int.Input(
                    "harmless",
                    default=100,
                    min=0,
                    max=100_000,
                    tooltip="Scenes without any concept, by which training keeps what nobody minds as it is.",
                ),
                sockets.seed("The same seed gives the same scenes."),
                io.Combo.Input(
                    "scenes", options=[EVERYDAY, MINI], tooltip="What the prompts are about; mini: PSA Mini's scenes."
                ),
                io.Combo.Input(
                    "writer",
                    options=writer_names(),
                    default=TEMPLATES,
                    tooltip="templates: no model is needed. A language model of models/LLM. Or a server that speaks as "
                    "OpenAI's does, on this machine.",
                ),
                io.String.Input(
                    "templates",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Scenes of your own, in place of the everyday ones: 'a room with {a concept} | a room', "
                    "one a line.",
                ),
                io.String.Input(
                    "server_address", default="", optional=True, tooltip="Such as http://127.0.0.1:8000/v1."
                ),
                io.String.Input("server_model", default="", optional=True, tooltip="The model's name there."),
            ],
            outputs=[sockets.Prompts.Output(display_name="prompts"), io.String.Output(display_name="text")],
            is_output_node=True,
            **sockets.aliases("prompt pairs", "concept list", "dataset prompts"),
        )

    @classmethod
    def fingerprint_inputs(cls, writer=None, **_) -> str:
        return writer_fingerprint(writer)

    @classmethod
    def execute(
        cls,
        concepts,
        pairs,
        implied,
        harmless,
        seed,
        scenes,
        writer,
        templates="",
        server_address="",
        server_model="",
    ) -> io.NodeOutput:
        is_mini = scenes == MINI
        listed = mini_concepts() if is_mini and not concepts.strip() else parse_concepts(concepts, "The concepts")
        source = MiniScenes() if is_mini else TemplateScenes(templates) if templates.strip() else TemplateScenes.read()
        server = (server_address.strip(), server_model.strip()) if writer == SERVER else None
        made, kept = write_prompts(listed, writer, server, source, Counts(pairs, implied, harmless), seed)
        step = max(1, len(made.pairs) // _SHOWN)
        samples = [f"{pair.shows}  |  {pair.without}" for pair in made.pairs[::step][:_SHOWN]]
        text = "\n".join([summary(made), *([f"All answers: {kept}"] if kept else []), "", *samples])
        return io.NodeOutput(made.pairs, text, ui={"text": (text,)})
