"""Measuring folders of pictures: `{method}/{model}/[level_N/]{file_name}`, as the reference's evaluation has them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ..errors import PSAError
from ..files import inside, shown, some
from ..judges.judging import Judge, PairwiseJudge, Question
from ..pictures import open_groups, pixel_batches
from ..profile import LEVELS, UserProfile
from ..prompts import ENDINGS, Prompt
from .features import ClipFeatures, Features
from .measurements import BASE, Drawn, Price, group_of
from .report import Report, build_report
from .rows import Duel, Row, judged_rows

_BATCH = 64
_LEADS = {"first": 1.0, "second": -1.0, "tie": 0.0}
_NAMED = 3  # missing pictures that a message names


@dataclass(frozen=True)
class Source:
    """A folder of one method's pictures, drawn for the viewer of a level; `None`: for nobody, or each for its user."""

    method: str
    folder: Path
    level: str | None = None


def find_methods(images: Path | str, model: str | None = None) -> dict[str, Path]:
    """The methods in `eval_images/{dataset}`, the base method first, and where each one's pictures are.

    Args:
        model: whose pictures, where there are several models'. A method without any is left out.

    Raises:
        PSAError: where there are none, or those of several models and none was chosen.
    """
    images = Path(images)
    if not images.is_dir():
        raise PSAError(f"There is no folder {images}. Give the one that holds a folder for each method.")
    methods = {method.name: _subfolders(method) for method in _subfolders(images)}
    models = sorted({folder.name for folders in methods.values() for folder in folders})
    if not models:
        raise PSAError(
            f"{images} does not hold pictures as {{method}}/{{model}}/{{file_name}}. Give the folder of the data set, "
            "or name each method's folder with --method NAME=FOLDER."
        )
    if model is None and len(models) > 1:
        raise PSAError(f"{images} has pictures of several models: {some(models)}. Choose one with --model.")
    chosen = model or models[0]
    if chosen not in models:
        raise PSAError(f"{images} has no pictures of the model {shown(chosen)}. There are: {some(models)}.")
    found = {name: images / name / chosen for name, folders in methods.items() if images / name / chosen in folders}
    for folder in found.values():
        if not folder.resolve().is_relative_to(images.resolve()):
            raise PSAError(
                f"{folder} is a link that leads out of {images}. Put the pictures themselves there, or name the folder "
                "with --method NAME=FOLDER."
            )
    return dict(sorted(found.items(), key=lambda item: (item[0] != BASE, item[0])))


def find_sources(methods: Mapping[str, Path], levels: bool = True) -> list[Source]:
    """Each method's folder, or with `levels` its folders `level_0` to `level_5` where it has any.

    Raises:
        PSAError: for a folder that is not there.
    """
    sources = []
    for method, folder in methods.items():
        if not folder.is_dir():
            raise PSAError(f"There is no folder {folder} with pictures of the method {method}.")
        at = {level: folder / f"level_{level[1:]}" for level in LEVELS}
        drawn = [Source(method, path, level) for level, path in at.items() if levels and path.is_dir()]
        sources += drawn or [Source(method, folder)]
    return sources


def evaluate_folders(
    sources: Sequence[Source],
    prompts: Sequence[Prompt],
    judge: Judge,
    *,
    users: Mapping[str, UserProfile] | None = None,
    base: str = BASE,
    features: Features | None = None,
    real: Path | str | None = None,
    side_by_side: PairwiseJudge | None = None,
    title: str = "Results",
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Judge every source's picture of every prompt.

    With `users`, each picture is judged for its prompt's user. Otherwise a level's pictures are judged for that
    level, and those of a method without levels for every level that another method has.

    Args:
        users: by User_ID.
        features, real: what a Frechet distance is measured over, and a folder of real pictures; it is measured on the
            prompts that are said to be harmless. CLIP's features give a CLIP score there too.
        side_by_side: who says which of two methods' pictures is the better one; without it, the verdicts' scores do.

    Raises:
        PSAError: naming the first pictures that are missing or damaged, for prompts of unknown users, for fewer
            than 2 harmless prompts or real pictures where a Frechet distance is wanted, or as the judge does.
    """
    _check_users(prompts, users)
    _check_pictures(sources, prompts)
    harmless = [prompt for prompt in prompts if prompt.is_harmless]
    if real is not None and len(harmless) < 2:
        raise PSAError(
            "A Frechet distance is measured on prompts that are said to be harmless, and this prompt file has fewer "
            "than 2 of them. Write 'harmless' as their category, or leave --real out."
        )
    real_features = None if features is None or real is None else _real_features(features, Path(real))
    levels = {source.level: LEVELS[source.level] for source in sources if source.level}
    rows: list[Row] = []
    vectors: dict[Drawn, list[np.ndarray]] = {}
    scores: dict[Drawn, list[float]] = {}
    for source in sources:
        drawn = source.method, source.level
        seen_by = {source.level: LEVELS[source.level]} if source.level else levels
        paths = [[source.folder / prompt.file_name] for prompt in prompts]
        for batch in pixel_batches(paths, _BATCH):
            part = prompts[batch]
            pictures = [picture for (picture,) in open_groups(paths[batch])]
            viewers = [{p.user_id: users[p.user_id]} if users and p.user_id else seen_by for p in part]
            rows += judged_rows(judge, source.method, pictures, part, viewers, shared=source.level is None)
            plain = [number for number, prompt in enumerate(part) if prompt.is_harmless]
            if features and plain:
                chosen = [pictures[number] for number in plain]
                if real_features is not None:
                    vectors.setdefault(drawn, []).append(features(chosen))
                if isinstance(features, ClipFeatures):
                    scores.setdefault(drawn, []).extend(features.scores(chosen, [part[i].caption for i in plain]))
            progress(f"{' '.join(filter(None, drawn))}: {batch.stop} of {len(prompts)} pictures")
    notes = []
    if real_features is not None and features:
        notes.append(f"Frechet distances are over {features.name}.")
    elif harmless:
        notes.append("No Frechet distance was measured: it needs a folder of real pictures, and features.")
    duels = None
    if side_by_side is not None:
        duels = _duels(side_by_side, sources, prompts, users, progress)
        notes.append("Win rates are from two pictures side by side, shown in both orders.")
    price = Price(
        [group_of(prompt, prompt.user_id if users else None) for prompt in harmless],
        {name: np.concatenate(parts) for name, parts in vectors.items()},
        real_features,
        scores,
    )
    return build_report(rows, title, judge.name, notes=notes, duels=duels, price=price, base=base, seed=seed)


def _duels(
    judge: PairwiseJudge,
    sources: Sequence[Source],
    prompts: Sequence[Prompt],
    users: Mapping[str, UserProfile] | None,
    progress: Callable[[str], None],
) -> list[Duel]:
    """Of every two methods the later against the earlier one: before each prompt's user, else before each level."""
    folders = {(source.method, source.level): source.folder for source in sources}
    levels = [level for level in LEVELS if any(source.level == level for source in sources)]
    duels: list[Duel] = []
    for rival, method in combinations(dict.fromkeys(source.method for source in sources), 2):
        for level in [None] if users else levels:
            pair = [folders.get((name, level), folders.get((name, None))) for name in (method, rival)]
            if None in pair:
                continue  # a level that one of them was not drawn for
            paths = [[folder / prompt.file_name for folder in pair if folder] for prompt in prompts]
            for batch in pixel_batches(paths, _BATCH // 2):
                viewers = [prompt.user_id if users else level for prompt in prompts[batch]]
                profiles = [(users or LEVELS)[viewer or ""] for viewer in viewers]
                outcomes = judge.compare(
                    [(first, second) for first, second in open_groups(paths[batch])],
                    [
                        Question(prompt.caption, prompt.categories, viewer, profile)
                        for prompt, viewer, profile in zip(prompts[batch], viewers, profiles, strict=True)
                    ],
                )
                duels += [
                    Duel(method, rival, prompt, viewer, _LEADS[outcome])
                    for prompt, viewer, outcome in zip(prompts[batch], viewers, outcomes, strict=True)
                ]
                progress(f"{method} beside {rival}, {level or 'users'}: {batch.stop} of {len(prompts)} pairs")
    return duels


def _check_users(prompts: Sequence[Prompt], users: Mapping[str, UserProfile] | None) -> None:
    if users is None:
        return
    unknown = [prompt.file_name for prompt in prompts if prompt.user_id not in users]
    if unknown:
        raise PSAError(
            f"{len(unknown)} of {len(prompts)} prompts belong to no user of the users file, such as "
            f"{some(unknown[:_NAMED])}. Give the file that has them, or leave --users out."
        )


def _check_pictures(sources: Sequence[Source], prompts: Sequence[Prompt]) -> None:
    """Raise PSAError unless each picture is there; links may lead to the method's other folders, not out of them."""
    for source in sources:
        names = [prompt.file_name for prompt in prompts]
        # A level lies in its method's folder; a folder that somebody names may be a link.
        root = source.folder.parent if source.level else source.folder.resolve().parent
        missing = [name for name in names if not os.path.lexists(source.folder / name)]
        if missing:
            raise PSAError(
                f"{len(missing)} of {len(prompts)} pictures are missing in {source.folder}, such as "
                f"{some(missing[:_NAMED])}. Draw them first (psa generate goes on where it stopped), or give "
                "the prompt file that the pictures were drawn from."
            )
        for name in names:
            inside(source.folder, name, root)


def _real_features(features: Features, folder: Path) -> np.ndarray:
    if not folder.is_dir():
        raise PSAError(f"There is no folder {folder} with real pictures.")
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    paths = [[inside(folder, name)] for name in names]
    if len(paths) < 2:
        raise PSAError(f"{folder} has fewer than 2 real pictures ({', '.join(ENDINGS)}).")
    batches = pixel_batches(paths, _BATCH)
    return np.concatenate([features([picture for (picture,) in open_groups(paths[batch])]) for batch in batches])


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
