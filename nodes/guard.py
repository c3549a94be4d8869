"""PSA Guard: a judge looks at each viewer's picture before anybody does."""

from comfy_api.latest import io

from ..psa_core.guard import HIDINGS
from . import sockets
from .comfy.guard import HEARS_PROMPT, JUDGES, Guard, check_drawing, make_judge, next_round
from .comfy.judges import judge_fingerprint

_MOST_TRIES = 5


class PictureGuard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAGuard",
            display_name="PSA Guard",
            category=sockets.DRAWING,
            description="A judge looks at each viewer's picture. One that shows what its viewer must not see is drawn "
            "again with more strength, if you want that, and else hidden. No judge is always right: see the help.",
            inputs=[
                io.Image.Input("images", tooltip="A batch: picture i is for viewer i, as PSA Apply to Model draws it."),
                sockets.Profile.Input("profile", tooltip="The first viewer."),
                *sockets.more_profiles("A further viewer."),
                io.Combo.Input(
                    "judge",
                    options=list(JUDGES),
                    tooltip="zero-shot CLIP: all seven categories, with a CLIP that you have. Q16 classifier: what is "
                    "inappropriate for anybody. vision-language model: all seven, and hears what each viewer bans. "
                    "NudeNet: nudity alone. mini classifier: for PSA Mini's pictures.",
                ),
                io.String.Input(
                    "judge_location",
                    default="",
                    tooltip="Q16 classifier: a folder with a CLIP model and the classifier's prompts.p. "
                    "vision-language model: a model's folder, or the address of a server on this machine. Others: "
                    "empty.",
                ),
                io.String.Input("judge_model", default="", tooltip="With an address: the model's name there."),
                io.Float.Input(
                    "sensitivity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="zero-shot CLIP only. More hides more pictures, and more fine ones with them.",
                ),
                io.Combo.Input(
                    "hide_by",
                    options=list(HIDINGS),
                    tooltip="blur: nothing but coarse patches of colour is left. replace: by 'replacement', or grey.",
                ),
                io.Int.Input(
                    "tries",
                    default=0,
                    min=0,
                    max=_MOST_TRIES,
                    tooltip="How often a picture that fails is drawn again, by the nodes that drew it, before it is "
                    "hidden. Each time the whole batch is drawn.",
                ),
                io.Float.Input(
                    "more_strength",
                    default=0.5,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    tooltip="Added to the strength of PSA Apply to Model at each try.",
                ),
                io.Image.Input("replacement", optional=True, tooltip="What a replaced picture becomes."),
                io.ClipVision.Input(
                    "judge_clip_vision", optional=True, tooltip="zero-shot CLIP's picture tower, with its projection."
                ),
                io.Clip.Input(
                    "judge_clip",
                    optional=True,
                    tooltip="zero-shot CLIP's text tower, of the same CLIP; SDXL's has one.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    force_input=True,
                    tooltip="What the pictures were asked for. Only a vision-language model reads it.",
                ),
                sockets.GuardRound.Input(
                    "earlier", optional=True, tooltip="Leave this open: the node fills it in when it draws again."
                ),
            ],
            outputs=[io.Image.Output(display_name="images"), io.String.Output(display_name="report")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
            **sockets.aliases(
                "safety checker", "nsfw filter", "nsfw detector", "censor", "content filter", "moderation", "blur"
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, judge_location="", **_) -> str:
        return judge_fingerprint(judge_location)

    @classmethod
    def execute(
        cls,
        images,
        profile,
        judge,
        judge_location,
        judge_model,
        sensitivity,
        hide_by,
        tries,
        more_strength,
        replacement=None,
        judge_clip_vision=None,
        judge_clip=None,
        prompt=None,
        earlier=None,
        **more_profiles,
    ) -> io.NodeOutput:
        nodes, name = cls.hidden.dynprompt.get_node, cls.hidden.unique_id
        if tries:
            check_drawing(nodes, name)
        looking = make_judge(
            judge, judge_location.strip(), judge_model.strip(), judge_clip_vision, judge_clip, sensitivity
        )
        viewers = sockets.viewers(profile, more_profiles)
        guard = Guard(looking, viewers, (prompt or "") if judge == HEARS_PROMPT else "", hide_by, replacement)
        seen = guard.look(images, earlier)
        if seen.rounds[-1] and tries:
            pictures, words, graph = next_round(nodes, name, seen, more_strength, tries - 1)
            return io.NodeOutput(pictures, words, expand=graph)
        pictures, words = guard.hide(seen)
        return io.NodeOutput(pictures, words, ui={"text": (words,)})
