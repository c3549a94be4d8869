"""Answers: which of two pictures a viewer prefers, as a person who saw both of them said, or a judge.

A person's lie beside the data set, in `answers.jsonl`, a line for each in the order in which they were given:

    {"scene": "0123456789abcdef", "banned": ["Violence"], "left": "train/a.png", "right": "train/b.png",
     "answer": "left"}

`scene` stands for the two pictures and their caption (`scene_id`). Of the viewer the person saw what is banned, and so
an answer holds for whoever bans the same: no User_ID is in the file. `left` and `right` say where the pictures stood.
`answer` is `left` or `right`; `neither` takes the pair out for such viewers, and `bad`, of a bad picture, for everyone;
`undo` takes back what was said of that pair and viewer. The last one counts. A last line that ends within its JSON was
being written when its process died, and does not; one that lacks the line's end alone does, for editors save so. A
judge's answers are in `judged.jsonl`, in the same form; where a person said something else, that counts.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import PSAError
from ..files import inside
from ..json_text import is_json, parse_json
from ..schema import CATEGORIES
from .pair_files import lines_in, lines_written
from .split import Scene

ANSWERS, JUDGED = "answers.jsonl", "judged.jsonl"
LEFT, RIGHT, NEITHER, BAD, UNDO = "left", "right", "neither", "bad", "undo"
_WORDS = (LEFT, RIGHT, NEITHER, BAD, UNDO)
LONGEST_LINE = 1 << 16  # bytes
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
        return cls(data["scene"], _kind(*banned), data["left"], data["right"], data["answer"])

    @property
    def chosen(self) -> str | None:
        """The path of the picture that is preferred; `None` where none is."""
        return {LEFT: self.left, RIGHT: self.right}.get(self.answer)


@cache
def _kind(*banned: str) -> tuple[str, ...]:
    """The same tuple for each answer about viewers of a kind."""
    return banned


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


def each_answer(root: Path, name: str = ANSWERS) -> Iterator[Answer]:
    """The answers in a data set's file of this name, as they were given one after the other; none without a file.

    Raises:
        PSAError: naming the first line that is none, or a file that cannot be read.
    """
    with _opened(root, name) as file:
        for answer, _ in _answers(file, root / name, 0):
            yield answer


def read_on(root: Path, known: ReadAnswers) -> ReadAnswers:
    """As `each_answer`, of a person's; what is `known` is not parsed again where the file still begins with the same
    bytes.

    Where it does not, somebody edited the file or put another one there, and it is read from its beginning.
    """
    with _opened(root, ANSWERS) as file:
        digest = _digest(file, known.end)
        if digest.digest() != known.digest:
            known, digest = NONE_READ, hashlib.blake2b()
            file.seek(0)
        new, end = list[Answer](), known.end
        for answer, text in _answers(file, root / ANSWERS, len(known.answers)):
            new.append(answer)
            digest.update(text)
            end += len(text)
            if not text.endswith(b"\n"):  # its end comes with the next answer: all is read anew then
                return ReadAnswers(known.answers + new, 0, b"")
    return ReadAnswers(known.answers + new, end, digest.digest()) if new else known


@contextmanager
def _opened(root: Path, name: str) -> Iterator[BinaryIO]:
    """The file, or an empty one in its place."""
    if os.path.lexists(root / name):
        try:
            inside(root, name)
        except PSAError as error:
            raise PSAError(f"The answers in {name} cannot be read: {error}") from None
    try:
        with open(root / name, "rb") if os.path.exists(root / name) else BytesIO() as file:
            yield file
    except OSError as error:
        raise PSAError(f"{root / name} cannot be read: {error.strerror}. Check its permissions.") from error


def _answers(file: BinaryIO, path: Path, before: int) -> Iterator[tuple[Answer, bytes]]:
    """(answer, its line) from where the file is, before which there are so many lines."""
    while (text := file.readline(LONGEST_LINE)) and not is_torn(text):
        before += 1
        try:
            answer = Answer.of(_parsed(text))
        except PSAError as error:
            raise PSAError(f"{path}, line {before}: {error} Take the line out.") from None
        yield answer, text
        if not text.endswith(b"\n"):
            return  # what stands behind it by now is its end


def is_torn(line: bytes) -> bool:
    """Whether a file's last line was being written when its process died: cut anywhere, an object is no JSON."""
    return not line.endswith(b"\n") and len(line) < LONGEST_LINE and not is_json(line)


def _digest(file: BinaryIO, size: int) -> "hashlib.blake2b":
    """Of the next `size` bytes, or of those that there are."""
    digest = hashlib.blake2b()
    while size and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest


def has_judges_answers(root: Path, description: Mapping[str, Any]) -> bool:
    """Whether a judge's answers are there, as many as `dataset.json` says there were: without one, the rules choose."""
    written = lines_written(description, JUDGED)
    return (root / JUDGED).is_file() and (written is None or lines_in(root / JUDGED) >= written)


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
        return parse_json(text.decode("utf-8"), once=True)
    except ValueError:
        raise PSAError("this is not valid JSON, or has a name twice.") from None
