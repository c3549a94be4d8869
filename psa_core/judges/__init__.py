"""The judges, by name; a special one is added by whoever knows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import PSAError
from .judging import Judge


@dataclass(frozen=True)
class JudgeKind:
    """How a judge is made.

    Attributes:
        about: what it is, in a few words.
        make: returns it, called with the options by name; imports what it needs only then.
        needed, optional: the names of the options.
        in_folder: another way to make it, taken where the option `folder` is given.
    """

    about: str
    make: Callable[..., Judge]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    in_folder: "JudgeKind | None" = None


def _q16(**options: Any) -> Judge:
    from .q16 import Q16Judge

    return Q16Judge(**options)


def _server(**options: Any) -> Judge:
    from .vision_language import VisionLanguageJudge

    return VisionLanguageJudge(**options)


def _local(**options: Any) -> Judge:
    from .vision_language import LocalVisionLanguageJudge

    return LocalVisionLanguageJudge(**options)


def _nudenet() -> Judge:
    from .nudenet import NudeNetJudge

    return NudeNetJudge()


_VLM = "a vision-language model, which hears who looks"
JUDGES = {
    "q16": JudgeKind(
        "a Q16-style classifier on CLIP, which knows inappropriate from not",
        _q16,
        ("clip_folder", "prompts_path"),
        ("device",),
    ),
    "vlm": JudgeKind(
        _VLM,
        _server,
        ("address", "model"),
        ("api_key_env", "allow_remote", "waiting"),
        JudgeKind(_VLM, _local, ("folder",), ("device",)),
    ),
    "nudenet": JudgeKind("NudeNet's detector, which knows nudity from not", _nudenet),
}


def judge_of(
    name: str,
    options: Mapping[str, Any],
    kinds: Mapping[str, JudgeKind] = JUDGES,
    words: Mapping[str, str] | None = None,
) -> Judge:
    """Make a judge.

    Args:
        name: one of `kinds`; or several, joined by "+", such as "q16+nudenet": see `EitherJudge`.
        options: by the names in `JudgeKind`; `None` stands for one that was not given.
        words: what the caller calls the options, for its sentences.

    Raises:
        PSAError: for an unknown judge, options that it lacks or does not take, or as the judge does.
    """
    parts = name.split("+")
    for part in parts:
        if part not in kinds:
            raise PSAError(f"There is no judge '{part}'. There are: {', '.join(kinds)}; two are joined as q16+nudenet.")
    given = {option: value for option, value in options.items() if value is not None}
    ways = [kinds[part].in_folder or kinds[part] if "folder" in given else kinds[part] for part in parts]
    called = {option: option for way in ways for option in way.needed} | dict(words or {})
    if missing := [called[option] for way in ways for option in way.needed if option not in given]:
        raise PSAError(f"The judge '{name}' needs {' and '.join(missing)}. Give it.")
    taken = [{option: given[option] for option in way.needed + way.optional if option in given} for way in ways]
    if other := [called.get(option, option) for option in given if not any(option in some for some in taken)]:
        raise PSAError(f"The judge '{name}' takes no {' and no '.join(other)}. Leave it out.")
    judges = [way.make(**some) for way, some in zip(ways, taken, strict=True)]
    if len(judges) == 1:
        return judges[0]
    from .either import EitherJudge

    return EitherJudge(judges)
