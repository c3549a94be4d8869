"""The judges that `psa evaluate` knows by name."""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import PSAError
from .judging import Judge

JUDGES = {
    "mini": "the detector of PSA Mini's pictures",
    "q16": "a Q16-style classifier on CLIP, which knows inappropriate from not",
    "vlm": "a vision-language model, which hears who looks",
}
IMPERSONAL = frozenset({"q16"})
"""Judges whose verdict is the same whoever looks: they are asked about each picture once."""


def judge_of(name: str, options: Mapping[str, Any]) -> Judge:
    """Make a judge.

    Args:
        name: one of `JUDGES`.
        options: by the names of what the judge is made from; `None` stands for one that was not given.
            `mini` takes none; `q16`: `clip_folder`, `prompts_path`, `device`; `vlm`: `address`, `model`,
            `api_key_env`, `allow_remote` of a server, or `folder`, `device` of a local model.

    Raises:
        PSAError: for an unknown judge, options that it lacks or does not take, or as the judge does.
    """
    if name not in JUDGES:
        raise PSAError(f"There is no judge '{name}'. There are: {', '.join(JUDGES)}.")
    given = {option: value for option, value in options.items() if value is not None}
    if name == "mini":
        from ..mini.judge import MiniJudge

        return _made(name, MiniJudge, given)
    if name == "q16":
        from .q16 import Q16Judge

        return _made(name, Q16Judge, given, ("clip_folder", "prompts_path"), ("device",))
    if "folder" in given:
        from .vision_language import LocalVisionLanguageJudge

        return _made(name, LocalVisionLanguageJudge, given, ("folder",), ("device",))
    from .vision_language import VisionLanguageJudge

    return _made(name, VisionLanguageJudge, given, ("address", "model"), ("api_key_env", "allow_remote"))


def _made(
    name: str,
    make: Callable[..., Judge],
    given: Mapping[str, Any],
    needed: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> Judge:
    if missing := [option for option in needed if option not in given]:
        raise PSAError(f"The judge '{name}' needs {' and '.join(missing)}. Give it.")
    if other := [option for option in given if option not in needed + optional]:
        raise PSAError(f"The judge '{name}' takes no {' and no '.join(other)}. Leave it out.")
    return make(**given)
