"""Several pictures as one, labelled."""

from comfy_api.latest import io, ui

from ..psa_core.plots.grid import labelled_grid
from . import sockets
from .comfy.graph_labels import labels_for
from .comfy.images import from_comfy, to_comfy


class LabelGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALabelGrid",
            display_name="PSA Label Grid",
            category=sockets.MEASURING,
            description="Puts a batch of pictures into one, side by side, each under its label: who it was drawn for, "
            "and from which prompt.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as one batch."),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    tooltip="One label a line, one for each picture. Empty: the viewers' levels or stored names, and "
                    "the prompts where there are several, as the graph has them.",
                ),
                io.Int.Input("columns", default=3, min=1, max=64, tooltip="Pictures a row."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One picture with all of them.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            **sockets.aliases("image grid", "compare images", "contact sheet", "labels", "viewer comparison"),
        )

    @classmethod
    def execute(cls, images, labels, columns) -> io.NodeOutput:
        pictures = from_comfy(images)
        lines = [line.strip() for line in labels.strip().splitlines()]
        missing: list[str] = []
        if not lines:
            lines, missing = labels_for(cls.hidden.prompt or {}, str(cls.hidden.unique_id), len(pictures))
        image = to_comfy([labelled_grid(pictures, lines, columns)])
        shown = ui.PreviewImage(image).as_dict()
        if missing:
            words = (
                f"{len(pictures)} pictures for {len(pictures) + len(missing)} viewers: none for {', '.join(missing)}."
            )
            shown["text"] = (f"{words} Give the latent as many pictures as there are viewers.",)
        return io.NodeOutput(image, ui=shown)
