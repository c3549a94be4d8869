"""Several pictures as one, labelled."""

from comfy_api.latest import io, ui

from ..psa_core.plots.grid import labelled_grid, labels_in_turn
from . import sockets
from .comfy.graph_labels import labels_for
from .comfy.images import from_comfy, to_comfy

_MORE_IMAGES = tuple(f"images_{number}" for number in range(2, 5))


class LabelGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALabelGrid",
            display_name="PSA Label Grid",
            category=sockets.MEASURING,
            description="Puts batches of pictures into one, side by side, each under its label: who it was drawn for, "
            "and from which prompt.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as one batch."),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    tooltip="One label a line, one for each picture; fewer start over, as viewers do in a batch. "
                    "Empty: the viewers' levels or stored names, and the prompts where there are several, as the "
                    "graph has them.",
                ),
                io.Int.Input("columns", default=3, min=1, max=64, tooltip="Pictures a row."),
                *(
                    io.Image.Input(name, optional=True, tooltip="More pictures of the same size, behind those before.")
                    for name in _MORE_IMAGES
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One picture with all of them.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            **sockets.aliases("image grid", "compare images", "contact sheet", "labels", "viewer comparison"),
        )

    @classmethod
    def execute(cls, images, labels, columns, **more) -> io.NodeOutput:
        batches = [images, *(more[name] for name in _MORE_IMAGES if more.get(name) is not None)]
        pictures = [picture for batch in batches for picture in from_comfy(batch)]
        written = [line.strip() for line in labels.strip().splitlines()]
        missing: list[str] = []
        if written:
            lines = labels_in_turn(written, len(pictures))
        else:
            lines, missing = labels_for(cls.hidden.prompt or {}, str(cls.hidden.unique_id), len(pictures))
        image = to_comfy([labelled_grid(pictures, lines, columns)])
        words = _told(len(pictures), missing)
        return io.NodeOutput(image, ui={**ui.PreviewImage(image).as_dict(), "text": (words,)})


def _told(pictures: int, missing: list[str]) -> str:
    """What the grid has: said each time, in place of what was said the last time."""
    if not missing:
        return "1 picture, with its label." if pictures == 1 else f"{pictures} pictures, each with its label."
    viewers = pictures + len(missing)
    return (
        f"{pictures} pictures for {viewers} viewers: none for {', '.join(missing)}. Set batch_size of the latent to "
        f"{viewers}."
    )
