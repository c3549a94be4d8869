"""PSA_DATASET: a split of preference pairs in a folder, checked record by record."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..psa_core.dataset import read_split, split_file
from ..psa_core.dataset.check import check_dataset, split_names
from ..psa_core.dataset.overview import sample_pairs, summary
from ..psa_core.errors import PSAError
from ..psa_core.files import existing_file
from . import sockets
from .comfy.data_sets import SPLITS, data_set_fingerprint, data_sets, users_file
from .comfy.fingerprints import always_new, fingerprint
from .comfy.folders import given_path, stamp
from .comfy.images import to_comfy
from .comfy.progress import node_progress

NO_DATA_SET = "(no data set in ComfyUI's input folder yet)"


def _folder_input() -> io.Combo.Input:
    return io.Combo.Input(
        "folder",
        options=[*data_sets()] or [NO_DATA_SET],
        tooltip="The data set: a folder in ComfyUI's input folder that holds the splits' folders. R on the keyboard "
        "looks for new ones.",
    )


def _elsewhere_input() -> io.String.Input:
    return io.String.Input(
        "elsewhere",
        default="",
        optional=True,
        tooltip="A data set that is not in the input folder: the absolute path of its folder, in place of the chosen "
        "one.",
    )


def _users_input() -> io.String.Input:
    return io.String.Input(
        "users",
        default="",
        optional=True,
        tooltip="A file such as Sage's users.csv, which says by User_ID what each record's user bans; in the folder, "
        "or by an absolute path. Empty: the records say it, or the rules they follow.",
    )


class LoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadDataset",
            display_name="Load PSA Dataset (DPO pairs)",
            category=sockets.TRAINING,
            description="Reads and checks preference pairs in the format of the Sage dataset, and shows some of them.",
            inputs=[
                _folder_input(),
                io.Combo.Input(
                    "split", options=list(SPLITS), tooltip="The split's folder, with metadata.jsonl or pairs.jsonl."
                ),
                io.Boolean.Input(
                    "skip_bad",
                    default=False,
                    tooltip="Leave bad records out and list them. Off: the first bad one stops the run.",
                ),
                _users_input(),
                _elsewhere_input(),
            ],
            outputs=[sockets.Dataset.Output(display_name="dataset", tooltip="For PSA Train and PSA Evaluate.")],
            is_output_node=True,
            **sockets.aliases("sage dataset", "preference pairs", "dpo", "metadata.jsonl"),
        )

    @classmethod
    def validate_inputs(cls, folder=None, input_types=None) -> bool | str:
        """Any folder may be given, by any text. ComfyUI repeats a refusal once an input: execute says what is wrong."""
        return True

    @classmethod
    def fingerprint_inputs(cls, folder=None, split=None, skip_bad=None, users="", elsewhere="") -> str:
        folder = (elsewhere and elsewhere.strip()) or folder
        if None in (folder, users, elsewhere):  # linked: which files they name shows when it runs
            return always_new()
        try:
            people = users_file(given_path(folder), users)
        except PSAError:
            return always_new()  # let it run, and say what is wrong
        return fingerprint(data_set_fingerprint(given_path(folder)), people and stamp(people))

    @classmethod
    def execute(cls, folder, split, skip_bad, users="", elsewhere="") -> io.NodeOutput:
        folder = elsewhere.strip() or folder
        _metadata(folder, split)
        dataset = read_split(given_path(folder), split, skip_bad, users=users_file(given_path(folder), users))
        shown = ui.PreviewImage(to_comfy([sample_pairs(dataset)])).as_dict()
        return io.NodeOutput(dataset, ui={**shown, "text": (summary(dataset),)})


class CheckDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSACheckDataset",
            display_name="PSA Check Dataset",
            category=sockets.TRAINING,
            description="Counts what is in a data set of preference pairs, and looks for leakage between its splits, "
            "pictures that look alike, and files that are damaged, tiny or blank.",
            inputs=[
                _folder_input(),
                _users_input(),
                sockets.Dataset.Input(
                    "dataset",
                    optional=True,
                    tooltip="In place of folder: the data set that these pairs are a part of, as PSA Build Dataset "
                    "makes it.",
                ),
                _elsewhere_input(),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All that was found, in words."),
                io.Image.Output(display_name="picture", tooltip="Shares by category, choice and user."),
            ],
            is_output_node=True,
            **sockets.aliases("dataset statistics", "leakage", "duplicates", "dataset report"),
        )

    @classmethod
    def validate_inputs(cls, folder=None, input_types=None) -> bool:
        """As Load PSA Dataset: execute says, once, what is wrong; also of pairs, whose type ComfyUI does not see to."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **_inputs) -> str:
        return always_new()  # pictures may change under their names

    @classmethod
    def execute(cls, folder, users="", dataset=None, elsewhere="") -> io.NodeOutput:
        root = _root(elsewhere.strip() or folder) if dataset is None else _folder_of(dataset).parent
        found = check_dataset(root, users_file(root, users), node_progress())
        picture = to_comfy([found.to_figure()])
        shown = ui.PreviewImage(picture).as_dict()
        return io.NodeOutput(found.to_text(), picture, ui={**shown, "text": (found.to_text(),)})


def _folder_of(pairs: Any) -> Path:
    folder = getattr(pairs, "folder", None)
    if not isinstance(folder, Path):
        raise PSAError(f"The input dataset takes {sockets.Dataset.io_type}, as PSA Build Dataset gives it.")
    return folder


def _root(folder: str) -> Path:
    """The folder of a whole data set, with at least one split."""
    _check_chosen(folder)
    root = given_path(folder)
    _check_whole(folder, root)
    if not split_names(root):
        raise PSAError(
            "There is no data set in that folder: no folder such as train with metadata.jsonl or pairs.jsonl. Choose "
            "one of ComfyUI's input folder, or write the path of another into elsewhere."
        )
    return root


def _check_chosen(folder: str) -> None:
    if folder == NO_DATA_SET:
        raise PSAError(
            "There is no data set in ComfyUI's input folder. Upload one with the button on this node, put one there "
            "and press R, or write its path into elsewhere."
        )


def _check_whole(folder: str, root: Path) -> None:
    if root.name in SPLITS and not split_names(root) and root.name in split_names(root.parent):
        raise PSAError(f"{folder} is the folder of one split. Give the folder around it, and {root.name} as split.")


def _metadata(folder: str, split: str) -> Path:
    if split not in SPLITS:
        raise PSAError(f"A split is one of: {', '.join(SPLITS)}.")
    _check_chosen(folder)
    root = given_path(folder)
    _check_whole(folder, root)
    there = [name for name in split_names(root) if name in SPLITS]
    if there and split not in there:
        raise PSAError(
            f"There is no metadata of the split '{split}' in {folder}. Choose a split that is there: "
            f"{', '.join(there)}."
        )
    return existing_file(split_file(root, split), f"metadata of the split '{split}'")
