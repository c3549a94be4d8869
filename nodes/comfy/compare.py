"""Drawing a comparison as ComfyUI draws, and keeping it in the output folder."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy import model_management
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from PIL import Image, PngImagePlugin

from ...psa_core.errors import PSAError
from ...psa_core.files import NameTakenError, atomic_path
from ...psa_core.pictures import write_picture
from ...psa_core.plots.comparison import Comparison
from .studio import Method, Sampling, Studio

_SETTINGS = "psa_compare"  # what the settings are called in a saved picture
_SHOWN_SIDE, _SMALL = 1024, 128  # of the preview, and of a picture in it

Drawn = list[list[Image.Image | None]]


def draw_comparison(
    studio: Studio, model: ModelPatcher, method: Method, comparison: Comparison, seed: int, negative: str
) -> list[list[Image.Image]]:
    """A row of pictures for each prompt, a picture for each column, all from the noise of `seed`.

    Cancel raises out of it at each step.

    Raises:
        PSAError: for a CLIP of another kind of model.
    """
    prompts = [studio.prompt(text) for text in comparison.prompts]
    opposite = studio.prompt(negative)
    bar = ProgressBar(comparison.count * studio.steps)
    drawn: Drawn = [[None] * len(comparison.columns) for _ in prompts]
    for row, positive in zip(drawn, prompts, strict=True):
        for run in _runs(comparison, studio.alike_at_once):
            applied = method.apply_to(model, run.users, run.strength) if run.users else model
            seeds = [seed] * len(run.columns)
            pictures = studio.pictures_of(positive, opposite, seeds, applied, partial(bar.update, len(seeds)))
            for column, picture in zip(run.columns, pictures, strict=True):
                row[column] = picture
            bar.update_absolute(bar.current, preview=("JPEG", _preview(comparison, drawn), _SHOWN_SIDE))
            model_management.throw_exception_if_processing_interrupted()
    return [[picture for picture in row if picture is not None] for row in drawn]


class _Run(NamedTuple):
    """What one run of the sampler draws of a row: some columns, at one strength."""

    strength: float
    columns: list[int]
    users: list[int]


def _runs(comparison: Comparison, at_once: int) -> Iterator[_Run]:
    for strength in (0.0, *comparison.strengths):
        all_columns = [number for number, (_, each) in enumerate(comparison.columns) if each == strength]
        for start in range(0, len(all_columns), at_once):
            columns = all_columns[start : start + at_once]
            users = [user for user, _ in (comparison.columns[column] for column in columns) if user is not None]
            yield _Run(strength, columns, users)


def _preview(comparison: Comparison, drawn: Drawn) -> Image.Image:
    def small(picture: Image.Image | None) -> Image.Image | None:
        if picture is not None:
            picture = picture.copy()
            picture.thumbnail((_SMALL, _SMALL))
        return picture

    return comparison.grid([[small(picture) for picture in row] for row in drawn])


def settings_of(comparison: Comparison, sampling: Sampling, negative: str) -> dict[str, Any]:
    """All that a comparison's pictures follow from, but model and adapter; of a viewer what they are called, alone."""
    return {**asdict(comparison), "negative": negative, **asdict(sampling)}


def check_prefix(prefix: str) -> None:
    """Raise PSAError for a prefix that leads out of the output folder, before anything is drawn."""
    _place(prefix)


def _place(prefix: str) -> tuple[str, str, int, str, str]:
    try:
        return folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    except Exception:
        raise PSAError(
            "The comparison cannot be saved under that filename_prefix. Give a name in ComfyUI's output folder, such "
            "as psa_compare."
        ) from None


def save_comparison(
    pictures: Mapping[str, Image.Image], prefix: str, settings: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Save pictures as PNGs in ComfyUI's output folder, under the next number that all of them have free.

    In place of the graph, which may hold a typed profile, each holds the settings as JSON in its text `psa_compare`.

    Args:
        pictures: by what follows the prefix in a file's name.

    Returns:
        Where each lies, as a node's `ui` has it.

    Raises:
        PSAError: for a prefix that leads out of the output folder, or a file that cannot be written.
    """
    folder, name, first, subfolder, _ = _place(prefix)
    information = None
    if not args.disable_metadata:
        information = PngImagePlugin.PngInfo()
        information.add_text(_SETTINGS, json.dumps(settings))
    number = first  # Save Image's counts the files of one prefix, and these are files of two
    while True:
        files = [f"{name}{ending}_{number:05}_.png" for ending in pictures]
        if _written([Path(folder, file) for file in files], list(pictures.values()), information):
            return [{"filename": file, "subfolder": subfolder, "type": "output"} for file in files]
        number += 1


def _written(paths: list[Path], pictures: list[Image.Image], information: PngImagePlugin.PngInfo | None) -> bool:
    """Write all pictures and return true; none, where there is a file of one of their names."""
    if any(os.path.lexists(path) for path in paths):
        return False
    for number, (path, picture) in enumerate(zip(paths, pictures, strict=True)):
        try:
            with atomic_path(path, replace=False) as temporary:
                write_picture(picture, temporary, pnginfo=information)
        except NameTakenError:  # another process was faster
            for own in paths[:number]:
                own.unlink()
            return False
    return True
