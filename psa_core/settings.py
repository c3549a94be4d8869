"""Settings that people write: TOML files, and models that say in a sentence what a setting takes."""

import difflib
import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from .errors import PSAError
from .extras import require
from .files import existing_file, shown

_MAX_TOML_BYTES = 1 << 18  # a config has a few hundred
_MAX_DOTS = 200  # in a line: a key of so many parts takes their square, in time and memory
_MAX_SHOWN = 60  # characters of a name that nobody knows
_BOUNDS = {
    "multiple_of": "a multiple of {}",
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "up to, but not including, {}",
}
_Settings = TypeVar("_Settings", bound="BaseSettings")


class BaseSettings(BaseModel):
    """Settings that cannot be changed and are checked when they are made; types and bounds stand beside the fields.

    A whole number will do for a float, and a list for a tuple marked `Listed`; nothing else is converted. Conditions
    between fields are a `model_validator` that raises `self.refusal(name, what it must be)`.

    Raises:
        PSAError: naming the first setting that is unknown, missing or unusable, and what it takes; never its value.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )
    what: ClassVar[str] = "setting"  # what one of them is called, and where they stand
    where: ClassVar[str] = "The file"

    def __init__(self, **values: Any) -> None:
        refuse_unknown(values, type(self).model_fields, self.what)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _as_sentence(type(self), error) from None

    @classmethod
    def refusal(cls, name: str, takes: str) -> PSAError:
        """The error that says what a setting must be."""
        return PSAError(f"The {cls.what} '{name}' must be {takes}.")

    def changed(self: _Settings, **values: Any) -> _Settings:
        """A copy with other values, checked like any."""
        return type(self)(**{**dict(self), **values})


def _without_controls(path: Path) -> Path:
    if any(ord(character) < 32 for character in str(path)):
        raise PSAError(
            'A path holds a control character, such as the tab that "C:\\temp" stands for in TOML. '
            "Write paths with / or in 'single quotes'."
        )
    return path


FilePath = Annotated[Path, Field(strict=False), AfterValidator(_without_controls)]
"""A path, given as text."""
Listed = Field(strict=False)
"""Marks a tuple that may be given as a list."""


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file, with or without a byte order mark, or say in a PSAError where it is not one."""
    path = existing_file(path, "config file")
    try:
        import tomllib as toml
    except ImportError:  # Python 3.10
        require("train", "Reading a TOML config on Python 3.10", "tomli")
        import tomli as toml  # type: ignore[no-redef]
    if path.stat().st_size > _MAX_TOML_BYTES:
        raise PSAError(f"{path.name} is larger than {_MAX_TOML_BYTES >> 10} KiB, which no config is. Check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PSAError(f"{path.name} is not a valid TOML file: it is not text in UTF-8. Save it as UTF-8.") from None
    if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
        raise PSAError(f"{path.name} has a line with more than {_MAX_DOTS} dots, which no config has. Check the path.")
    try:
        return toml.loads(text)
    except RecursionError:
        raise PSAError(f"{path.name} is not a valid TOML file: it is nested too deeply.") from None
    except ValueError as error:  # TOMLDecodeError, and Python's own for a number of thousands of digits
        hint = " Write Windows paths with / or in 'single quotes'." if "\\" in text else ""
        raise PSAError(f"{path.name} is not a valid TOML file: {shown(str(error))}.{hint}") from None


def refuse_unknown(given: Iterable[Any], known: Iterable[str], what: str) -> None:
    """Raise PSAError for the first name of `given` that is not in `known`, with the nearest that is."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}."
            raise PSAError(f"{str(name)[:_MAX_SHOWN]!r} is not a {what}. {hint}")


def _as_sentence(settings: type[BaseSettings], error: ValidationError) -> PSAError:
    problems = error.errors(include_url=False, include_input=False)
    missing = [
        str(problem["loc"][0]) for problem in problems if problem["type"] == "missing" and len(problem["loc"]) == 1
    ]
    if missing:
        return PSAError(f"{settings.where} lacks {', '.join(missing)}. Add what is missing.")
    problem = problems[0]
    own = problem.get("ctx", {}).get("error")
    if isinstance(own, PSAError):
        return own
    name = str(problem["loc"][0])
    return settings.refusal(name, _takes(settings.model_fields[name], problem["type"]))


def _takes(field: FieldInfo, problem: str) -> str:
    """What a setting must be: `description`, where its field has one, or what its type and bounds say."""
    if field.description:
        return field.description
    kind, marks = _kind(field.annotation)
    if get_origin(kind) is Literal:
        return f"one of: {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"a list such as {json.dumps(list(field.default))}"
    if problem.endswith("_type") or problem in ("finite_number", "string_unicode"):
        if kind in (str, Path):
            return "text in quotes"
        example = f", such as {json.dumps(field.default)}" if isinstance(field.default, int | float) else ""
        return f"of the kind {kind.__name__}{example}"
    return _range([*field.metadata, *marks])


def _range(marks: list[Any]) -> str:
    """A number's bounds in words."""
    bounds = {name: getattr(part, name) for part in marks for name in _BOUNDS if hasattr(part, name)}
    if (bounds.get("ge"), bounds.get("le")) == (0, 1):
        return "a share from 0 to 1"
    if bounds == {"ge": 0}:
        return "not negative"
    return " and ".join(text.format(bounds[name]) for name, text in _BOUNDS.items() if name in bounds)


def _kind(annotation: Any) -> tuple[Any, list[Any]]:
    """An annotation's type, the `None` of an optional one left out, and the bounds that stand with it."""
    if get_origin(annotation) in (Union, types.UnionType):
        return _kind(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Annotated:
        kind, *marks = get_args(annotation)
        return kind, [part for mark in marks for part in getattr(mark, "metadata", [mark])]
    return annotation, []
