"""Several pictures as one, labelled."""

from comfy_api.latest import io

from ..psa_core.plots.grid import labelled_grid
from . import sockets
from .comfy.images import from_comfy, to_comfy


class LabelGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALabelGrid",
            display_name="PSA Label Grid",
            category=sockets.CATEGORY,
            description="Puts a batch of pictures into one, side by side, each under its label.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as one batch."),
                io.String.Input(
                    "labels", multiline=True, default="", tooltip="One label a line, one for each picture."
                ),
                io.Int.Input("columns", default=3, min=1, max=64, tooltip="Pictures a row."),
            ],
            outputs=[io.Image.Output(display_name="image")],
            **sockets.aliases("image grid", "compare images", "contact sheet", "labels"),
        )

    @classmethod
    def execute(cls, images, labels, columns) -> io.NodeOutput:
        grid = labelled_grid(from_comfy(images), [line.strip() for line in labels.strip().splitlines()], columns)
        return io.NodeOutput(to_comfy([grid]))
