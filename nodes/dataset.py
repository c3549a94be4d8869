"""PSA_DATASET: a split of preference pairs in a folder, checked record by record."""

from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import io, ui
from PIL import Image, ImageOps

from ..psa_core.errors import PSAError
from ..psa_core.files import existing_file
from ..psa_core.pictures import open_picture
from ..psa_core.plots.grid import labelled_grid
from ..psa_core.training import SageRecord, SageSplit, read_split
from . import sockets
from .comfy.fingerprints import fingerprint
from .comfy.folders import path_fingerprint
from .comfy.images import to_comfy

SPLITS = ("train", "val", "test_seen", "test_unseen")
_SAMPLES = 3
_SAMPLE_SIDE = 256
_LISTED = 20  # records left out; the count names the rest


class LoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadDataset",
            display_name="Load PSA Dataset",
            category=sockets.CATEGORY,
            description="Reads and checks preference pairs in the format of the Sage dataset, and shows some of them.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="sage",
                    tooltip="The folder that holds the splits' folders: an absolute path, or one inside ComfyUI's "
                    "input folder.",
                ),
                io.Combo.Input("split", options=list(SPLITS), tooltip="The folder with metadata.jsonl and pictures."),
                io.Boolean.Input(
                    "skip_bad",
                    default=False,
                    tooltip="Leave bad records out and list them. Off: the first bad one stops the run.",
                ),
                io.String.Input(
                    "users",
                    default="",
                    optional=True,
                    tooltip="A file such as Sage's users.csv, which says by User_ID what each record's user bans; in "
                    "the folder, or by an absolute path. Empty: the records say it, or the rules they follow.",
                ),
            ],
            outputs=[sockets.Dataset.Output(display_name="dataset")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, folder=None, split=None, users=None) -> bool | str:
        if folder is None or split is None:  # linked: known when it runs
            return True
        try:
            _metadata(folder, split)
            _users(folder, users)
        except PSAError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder=None, split=None, skip_bad=None, users=None) -> str:
        if folder is None or split is None:  # linked: ComfyUI goes by the nodes that they come from
            return fingerprint("dataset")
        paths = [path for path in (_metadata(folder, split), _users(folder, users)) if path]
        return fingerprint(*map(path_fingerprint, paths))

    @classmethod
    def execute(cls, folder, split, skip_bad, users="") -> io.NodeOutput:
        _metadata(folder, split)
        dataset = read_split(_root(folder), split, skip_bad, users=_users(folder, users))
        shown = ui.PreviewImage(to_comfy([_sample_pairs(dataset)])).as_dict()
        return io.NodeOutput(dataset, ui={**shown, "text": (summary(dataset),)})


def summary(dataset: SageSplit) -> str:
    """Counts, in words; nothing of a profile."""
    categories = ", ".join(f"{name} {count}" for name, count in dataset.categories.most_common())
    lines = [f"{dataset.name}: {len(dataset)} pairs, {dataset.users} users", categories, *dataset.notes]
    if dataset.skipped:
        lines += [f"{len(dataset.skipped)} records left out:", *dataset.skipped[:_LISTED]]
    return "\n".join(line for line in lines if line)


def _root(folder: str) -> Path:
    return Path(folder_paths.get_input_directory()) / Path(folder).expanduser()


def _users(folder: str, users: str | None) -> Path | None:
    return existing_file(_root(folder) / Path(users).expanduser(), "users file") if users else None


def _metadata(folder: str, split: str) -> Path:
    if split not in SPLITS:
        raise PSAError(f"A split is one of: {', '.join(SPLITS)}.")
    return existing_file(_root(folder) / split / "metadata.jsonl", f"metadata of the split '{split}'")


def _sample_pairs(dataset: SageSplit) -> Image.Image:
    """Some pairs spread over the split, chosen beside rejected."""
    indices = np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).round().astype(int)
    pictures, labels = [], []
    for record in (dataset[int(index)] for index in indices):
        pictures += [_thumbnail(record.chosen), _thumbnail(record.rejected)]
        labels += [_label(record, "chosen"), _label(record, "rejected")]
    return labelled_grid(pictures, labels, columns=2)


def _label(record: SageRecord, which: str) -> str:
    return f"{which} ({record.category})" if record.category else which


def _thumbnail(path: Path) -> Image.Image:
    image = open_picture(path, least=(2 * _SAMPLE_SIDE, 2 * _SAMPLE_SIDE))
    return ImageOps.pad(image, (_SAMPLE_SIDE, _SAMPLE_SIDE), color="white")
