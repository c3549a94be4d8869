"""A judge's answers, kept as they come: a run whose judge failed at the last question goes on there.

What a viewer bans is in a question, and there are only 128 possible lists of it. So an answer is kept under
a keyed hash of its question, and the key lies in the person's own state folder, not beside the answers:
who is handed a folder of results cannot try the lists out.
"""

import errno
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from ..errors import PSAError
from ..files import appending
from ..json_text import parse_json
from ..own_key import KEY_BYTES, own_key
from .judging import Judge, Outcome, Pair, PairwiseJudge, Question, Tell, Verdict, tell_nobody

_LONGEST_LINE = 1 << 18  # characters
_HEAD = "answers of a judge, kept by psa until the run is whole"


class Answers:
    """Answers in a private file (mode 0600), a line each; without a file, in memory.

    A line is `{keyed hash of the question} {answer} {seal}`. One that was cut off, changed, or written under
    another key counts as absent, and its question is asked again.

    Raises:
        PSAError: where the file cannot be used, or is another's.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._key = secrets.token_bytes(KEY_BYTES) if path is None else own_key()
        self._lock = threading.Lock()
        self._found: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            with _using(self._path):
                if not self._path.is_file():  # a pipe would be waited for
                    raise OSError(errno.EINVAL, "it is no file")
            with _using(self._path), open(self._path, encoding="ascii", errors="replace") as file:
                head = file.readline()
                if head and not (head.strip() and _HEAD.startswith(head.strip())):  # it would be removed in the end
                    raise PSAError(f"{self._path} holds no answers of a judge. Move it, or give another output.")
                for name, text, seal in _lines(file):
                    if hmac.compare_digest(seal.encode(), self._hash(f"{name} {text}").encode()):
                        self._found[name] = parse_json(text)

    def __len__(self) -> int:
        return len(self._found)

    def name(self, parts: Sequence[Any]) -> str:
        """What the answer to a question of these parts (plain values) is kept under."""
        return self._hash(json.dumps(parts))

    def get(self, name: str) -> Any:
        """What `keep` was given, or `None`."""
        return self._found.get(name)

    def keep(self, name: str, answer: Any) -> None:
        """Keep a plain value.

        Raises:
            PSAError: where the file cannot be written.
        """
        text = json.dumps(answer, separators=(",", ":"))
        with self._lock:
            self._found[name] = answer
            if self._path is None:
                return
            with _using(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with appending(self._path, mode=0o600) as file:
                    head = "" if os.fstat(file.fileno()).st_size else _HEAD
                    # A line begins with its own end of line: the one before may have been cut off.
                    file.write(f"{head}\n{name} {text} {self._hash(f'{name} {text}')}\n")

    def drop(self) -> None:
        """Remove them: what they were kept for is done."""
        self._found.clear()
        if self._path is not None:
            with _using(self._path):
                self._path.unlink(missing_ok=True)

    def _hash(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class KeptJudge:
    """A judge that is asked only what `answers` does not hold, and whose answers are put there as they come."""

    def __init__(self, judge: Judge, answers: Answers) -> None:
        self._judge, self._answers, self._identity = judge, answers, judge.identity()
        self.name, self.hears_viewer = judge.name, judge.hears_viewer

    def identity(self) -> str:
        return self._identity

    def check(self, captions: Sequence[str]) -> None:
        self._judge.check(captions)

    def judge(
        self, pictures: Sequence[Image.Image], questions: Sequence[Question], tell: Tell = tell_nobody
    ) -> list[Verdict]:
        """One verdict a picture, as the judge's own."""
        names = [self._name("judge", [p], question) for p, question in zip(pictures, questions, strict=True)]

        def ask(missing: list[int], keep: Tell) -> None:
            self._judge.judge([pictures[n] for n in missing], [questions[n] for n in missing], keep)

        return self._all(names, ask, astuple, lambda answer: Verdict(*answer), tell)

    def compare(self, pairs: Sequence[Pair], questions: Sequence[Question], tell: Tell = tell_nobody) -> list[Outcome]:
        """One outcome a pair, as the judge's own.

        Raises:
            PSAError: where the judge looks at one picture at a time.
        """
        judge = pairwise(self._judge)
        names = [self._name("compare", pair, question) for pair, question in zip(pairs, questions, strict=True)]

        def ask(missing: list[int], keep: Tell) -> None:
            judge.compare([pairs[n] for n in missing], [questions[n] for n in missing], keep)

        return self._all(names, ask, str, str, tell)

    def _name(self, what: str, pictures: Sequence[Image.Image], question: Question) -> str:
        banned = None if question.profile is None else question.profile.banned_categories
        shown = [picture_digest(picture) for picture in pictures]
        return self._answers.name([self._identity, what, shown, question.caption, question.categories, banned])

    def _all(
        self,
        names: Sequence[str],
        ask: Callable[[list[int], Tell], None],
        plain: Callable[[Any], Any],
        whole: Callable[[Any], Any],
        tell: Tell,
    ) -> list[Any]:
        missing = [number for number, name in enumerate(names) if self._answers.get(name) is None]
        for number in sorted(set(range(len(names))) - set(missing)):
            tell(number, whole(self._answers.get(names[number])))

        def keep(place: int, answer: Any) -> None:
            self._answers.keep(names[missing[place]], plain(answer))
            tell(missing[place], answer)

        if missing:
            ask(missing, keep)
        return [whole(self._answers.get(name)) for name in names]


def pairwise(judge: Judge) -> PairwiseJudge:
    """Return `judge` as one that compares.

    Raises:
        PSAError: where it looks at one picture at a time.
    """
    if not isinstance(judge, PairwiseJudge):
        raise PSAError(
            f"The judge {judge.name} looks at one picture at a time; only vision-language models compare two."
        )
    return judge


def picture_digest(picture: Image.Image) -> str:
    """A hash of a picture's pixels as RGB, and of its size."""
    pixels = picture.convert("RGB")
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, key=repr(pixels.size).encode()).hexdigest()


def _lines(file: TextIO) -> Iterator[list[str]]:
    """The three parts of each line; one that is longer than any answer's falls into pieces, which no seal fits."""
    while line := file.readline(_LONGEST_LINE):
        if len(parts := line.split()) == 3:
            yield parts


@contextmanager
def _using(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PSAError(
            f"The judge's answers cannot be kept in {path}: {error.strerror}. Check the folder, its permissions and "
            "the free space."
        ) from error
