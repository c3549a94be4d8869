"""Virtual users as a picture: who bans what, and where the levels lie among them."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..psa_core.errors import PSAError
from ..psa_core.files import existing_file
from ..psa_core.plots.user_space import user_space
from ..psa_core.population import sample_users
from ..psa_core.rules import RULES, SAGE
from ..psa_core.users import read_users
from . import sockets
from .comfy.fingerprints import always_new, fingerprint
from .comfy.folders import given_path, stamp
from .comfy.images import to_comfy

_MOST = 100_000


class UserSpace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAUserSpace",
            display_name="PSA User Space",
            category=sockets.VIEWERS,
            description="Draws virtual users as the Sage dataset does, and shows them as dots: who bans what, and "
            "where the levels L0 to L5 lie among them.",
            inputs=[
                io.Int.Input("count", default=1000, min=1, max=_MOST, tooltip="How many users."),
                sockets.seed("The same, for the same users."),
                io.Combo.Input("rules", options=list(RULES), default=SAGE, tooltip="Who bans what."),
                sockets.departures(),
                io.String.Input(
                    "users",
                    default="",
                    optional=True,
                    tooltip="A users file, .csv or .jsonl, in ComfyUI's input folder or by an absolute path, in place "
                    "of virtual users. Empty: none.",
                ),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="Whose embeddings the dots are. Unconnected: the structured one."
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
            is_output_node=True,
            **sockets.aliases("virtual users", "population", "pca", "sage users"),
        )

    @classmethod
    def validate_inputs(cls, users=None) -> bool | str:
        try:
            _file(users)
        except PSAError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, users="", **_) -> str:
        if users is None:  # linked: which file it names shows when it runs
            return always_new()
        return fingerprint(users and stamp(given_path(users)))

    @classmethod
    def execute(cls, count, seed, rules, departures, users="", encoder=None) -> io.NodeOutput:
        path = _file(users)
        profiles = sample_users(count, seed, rules, departures) if path is None else read_users(path)
        image = to_comfy([user_space(profiles, encoder)])
        return io.NodeOutput(image, ui=ui.PreviewImage(image))


def _file(users: str | None) -> Path | None:
    return existing_file(given_path(users), "users file") if users else None
