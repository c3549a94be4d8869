"""Answers: which of two pictures a viewer prefers, as a person who saw both of them said, or a judge.

A person's lie beside the data set, in `answers.jsonl`, a line for each in the order in which they were given:

    {"scene": "0123456789abcdef", "banned": ["Violence"], "left": "train/a.png", "right": "train/b.png",
     "answer": "left"}

`scene` stands for the two pictures and their caption (`scene_id`). Of the viewer the person saw what is banned, and so
an answer holds for whoever bans the same: no User_ID is in the file. `left` and `right` say where the pictures stood.
`answer` is `left` or `right`; `neither` takes the pair out for such viewers, and `bad`, of a bad picture, for everyone;
`undo` takes back what was said of that pair and viewer. The last one counts. A last line without an end was being
written when its process died, and does not. A judge's answers are in `judged.jsonl`, in the same form; where a person
said something else, that counts.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import PSAError
from ..files import inside
from ..json_text import parse_json
from ..schema import CATEGORIES
from .split import Scene

ANSWERS, JUDGED = "answers.jsonl", "judged.jsonl"
LEFT, RIGHT, NEITHER, BAD, UNDO = "left", "right", "neither", "bad", "undo"
_WORDS = (LEFT, RIGHT, NEITHER, BAD, UNDO)
_LONGEST_LINE = 1 << 16  # bytes
_BLOCK = 1 << 20  # bytes that are in memory while a digest is taken


@dataclass(frozen=True)
class Answer:
    """One line of the file. `left` and `right` are pictures' paths in the data set's folder, with slashes."""

    scene: str
    banned: tuple[str, ...]
    left: str
    right: str
    answer: str

    def to_line(self) -> bytes:
        fields = {**vars(self), "banned": list(self.banned)}
        return json.dumps(fields, ensure_ascii=False).encode("utf-8") + b"\n"

    @classmethod
    def of(cls, data: Any) -> "Answer":
        """The inverse of `to_line`; raises PSAError for anything else."""
        names = cls.__dataclass_fields__
        if not isinstance(data, dict) or set(data) != set(names):
            raise PSAError(f"an answer has the fields {', '.join(names)}.")
        banned = data["banned"]
        if not isinstance(banned, list) or banned != [word for word in CATEGORIES if word in banned]:
            raise PSAError("'banned' must be a list of categories, in alphabetical order.")
        if not isinstance(data["scene"], str) or not re.fullmatch("[0-9a-f]{16}", data["scene"]):
            raise PSAError("'scene' must be 16 hex digits.")
        if not all(isinstance(data[name], str) for name in ("left", "right")):
            raise PSAError("'left' and 'right' must be texts.")
        if data["answer"] not in _WORDS:
            raise PSAError(f"'answer' must be one of: {', '.join(_WORDS)}.")
        return cls(data["scene"], tuple(banned), data["left"], data["right"], data["answer"])

    @property
    def chosen(self) -> str | None:
        """The path of the picture that is preferred; `None` where none is."""
        return {LEFT: self.left, RIGHT: self.right}.get(self.answer)


def scene_id(scene: Scene, root: Path) -> str:
    """16 hex digits for a scene's two pictures, whichever comes first, and its caption; `root` is the data set's."""
    text = json.dumps([*sorted(picture_name(path, root) for path in scene.pictures), scene.caption])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def picture_name(path: Path, root: Path) -> str:
    """A picture's path in the data set's folder, the same on every system."""
    return path.relative_to(root).as_posix()


@dataclass(frozen=True)
class ReadAnswers:
    """The answers in a file up to the byte `end`, and a digest of the bytes before it."""

    answers: list[Answer]
    end: int
    digest: bytes


NONE_READ = ReadAnswers([], 0, hashlib.blake2b().digest())


def read_answers(root: Path, name: str = ANSWERS) -> list[Answer]:
    """All answers in a data set's file of this name, as they were given one after the other; none without a file.

    Raises:
        PSAError: naming the first line that is none, or a file that cannot be read.
    """
    return read_on(root, NONE_READ, name).answers


def read_on(root: Path, known: ReadAnswers, name: str = ANSWERS) -> ReadAnswers:
    """As `read_answers`; what is `known` is not parsed again where the file still begins with the same bytes.

    Where it does not, somebody edited the file or put another one there, and it is read from its beginning.
    """
    path = root / name
    if os.path.lexists(path):
        try:
            inside(root, name)
        except PSAError as error:
            raise PSAError(f"The answers in {name} cannot be read: {error}") from None
    try:
        with open(path, "rb") as file:
            digest = _digest(file, known.end)
            if digest.digest() != known.digest:
                known, digest = NONE_READ, hashlib.blake2b()
                file.seek(0)
            new, end = list[Answer](), known.end
            while (text := file.readline(_LONGEST_LINE)) and (text.endswith(b"\n") or len(text) == _LONGEST_LINE):
                try:
                    new.append(Answer.of(_parsed(text)))
                except PSAError as error:
                    number = len(known.answers) + len(new) + 1
                    raise PSAError(f"{path}, line {number}: {error} Take the line out.") from None
                digest.update(text)
                end += len(text)
    except FileNotFoundError:
        return NONE_READ
    except OSError as error:
        raise PSAError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    return ReadAnswers(known.answers + new, end, digest.digest()) if new else known


def _digest(file: BinaryIO, size: int) -> "hashlib.blake2b":
    """Of the next `size` bytes, or of those that there are."""
    digest = hashlib.blake2b()
    while size and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest


def standing(answers: Iterable[Answer]) -> dict[tuple[str, tuple[str, ...]], Answer]:
    """What counts, by scene and viewer, the latest answer last."""
    counts: dict[tuple[str, tuple[str, ...]], Answer] = {}
    for answer in answers:
        counts.pop((answer.scene, answer.banned), None)
        if answer.answer != UNDO:
            counts[answer.scene, answer.banned] = answer
    return counts


def _parsed(text: bytes) -> Any:
    try:
        return parse_json(text.decode("utf-8"))
    except ValueError:
        raise PSAError("this is not valid JSON.") from None
