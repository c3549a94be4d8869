"""The questions of a review: two pictures side by side, and what the viewer bans. Pure but for the book of answers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.answers import BAD, LEFT, NEITHER, RIGHT, UNDO, Answer, picture_name, scene_id, standing
from ..dataset.split import PairSplit, Scene
from ..errors import PSAError
from ..schema import CATEGORIES
from .book import AnswerBook

_SIDES, _ORDER = 1, 2  # what a random number is drawn for


class OutdatedError(PSAError):
    """What the person looked at is not what there is now; nothing was saved."""


class AnsweredMeanwhileError(OutdatedError):
    """The person had not seen all answers that there are."""

    def __init__(self) -> None:
        super().__init__(
            "Somebody else has answered here meanwhile, or you in another page. Nothing was saved: look at the "
            "question that comes now."
        )


class Review:
    """A split's questions, those that are answered, and the next one.

    Q questions are numbered in the order in which they are asked: each pair for one kind of viewer first, then each
    for a second, and so on, at random within that. Viewers who ban the same are one kind: more of them the person does
    not see. The same data set gives the same questions in the same order, with the same picture on the left.

    Args:
        split: as its files say it, without answers applied (`read_split(..., answers=False)`).
        book: the answers of its data set.
    """

    def __init__(self, split: PairSplit, book: AnswerBook) -> None:
        self.split, self.book = split, book
        self._root = split.folder.parent
        self._kinds = sorted({profile.banned_categories for profile in split.profiles})
        numbers = {kind: number for number, kind in enumerate(self._kinds)}
        kind_of = np.array([numbers[profile.banned_categories] for profile in split.profiles])
        examples = split.examples()
        names, of_two = [], np.ones(split.scenes, bool)
        for number in range(split.scenes):
            scene = split.scene(number)
            names.append(scene_id(scene, self._root))
            of_two[number] = scene.pictures[0] != scene.pictures[1]
        self._ids, self._names = np.array([int(name, 16) for name in names], np.uint64), frozenset(names)
        cells = np.unique(examples.scenes.astype(np.int64) * len(self._kinds) + kind_of[examples.users])
        cells = cells[of_two[cells // len(self._kinds)]]
        scenes, kinds = np.divmod(cells, len(self._kinds))
        bits = np.array([sum(1 << CATEGORIES.index(word) for word in kind) for kind in self._kinds])
        drawn = _random(scenes, bits[kinds], _ORDER)
        by_scene = np.lexsort((drawn, scenes))
        first = np.searchsorted(scenes[by_scene], scenes[by_scene])
        rounds = np.empty(len(cells), np.int64)
        rounds[by_scene] = np.arange(len(cells)) - first
        order = np.lexsort((drawn, rounds))
        self._scenes, self._viewers = scenes[order], kinds[order]
        self._first_is_left = _random(self._scenes, bits[self._viewers], _SIDES) % np.uint64(2) == 0

    def __len__(self) -> int:
        return len(self._scenes)

    def state(self) -> dict[str, Any]:
        """How far the review is, and the next question, JSON-compatible.

        `question` is `None` where all are answered, else it has `number`, `token`, `caption`, and what the viewer is
        `banned`. The token stands for the pair, those bans and which picture is on the left: a number may mean another
        question once the data set has changed. `undo` is the question that was answered last, its `number` and
        `token`, or `None`. `seen` is for the next `answer`: how many there are of this split.
        """
        said = self.book.answers()
        counting = standing(said)
        done = self._answered(counting)
        left = np.flatnonzero(~done)
        return {
            "answered": int(done.sum()),
            "total": len(self),
            "taken_out": sum(answer.chosen is None for answer in self._of_this_split(counting)),
            "question": self._question(int(left[0])) if len(left) else None,
            "undo": self._last(counting),
            "seen": self._count(said),
        }

    def picture(self, number: int, token: str, side: str) -> Path:
        """The picture that stands at the `left` or `right` of a question.

        Raises:
            OutdatedError: where the question with that number is another one now.
            PSAError: for a question or a side that there is none of.
        """
        if side not in (LEFT, RIGHT):
            raise PSAError("A picture stands left or right.")
        return self._pictures(self._checked(number, token))[side == RIGHT]

    def answer(self, number: int, token: str, word: str, seen: int) -> None:
        """Save what a person said to a question.

        Args:
            token: that the question came with, so that an answer meets no other pair or viewer, nor the other picture,
                where the data changed.
            word: left, right, neither, bad, or undo to take back what was said.
            seen: as the `state` had it that the person looked at.

        Raises:
            OutdatedError: where the question with that number is another one now.
            AnsweredMeanwhileError: where other answers came in since: two people do not overrule each other unawares.
            PSAError: for a question that there is none of, other words, or where nothing can be saved.
        """
        number = self._checked(number, token)
        if word not in (LEFT, RIGHT, NEITHER, BAD, UNDO):
            raise PSAError(f"An answer is one of: {', '.join((LEFT, RIGHT, NEITHER, BAD, UNDO))}.")
        if not isinstance(seen, int) or isinstance(seen, bool):
            raise PSAError("'seen' must be the number that came with the question.")
        left, right = (picture_name(path, self._root) for path in self._pictures(number))

        def check() -> None:
            if seen != self._count(self.book.answers()):
                raise AnsweredMeanwhileError

        self.book.add(Answer(self._scene_id(number), self._banned(number), left, right, word), check)

    def _checked(self, number: object, token: object) -> int:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise PSAError("There is no such question. Open the review again.")
        if number >= len(self) or token != self._token(number):
            raise OutdatedError(
                "The data set has changed since this question was asked. Nothing was saved: look at the question that "
                "comes now."
            )
        return number

    def _token(self, number: int) -> str:
        """16 hex digits for what a person sees of a question, and answers."""
        left, _ = self._pictures(number)
        shown = [self._scene_id(number), self._banned(number), picture_name(left, self._root)]
        return hashlib.blake2b(json.dumps(shown).encode(), digest_size=8).hexdigest()

    def _question(self, number: int) -> dict[str, Any]:
        return {
            "number": number,
            "token": self._token(number),
            "caption": self._scene(number).caption,
            "banned": list(self._banned(number)),
        }

    def _banned(self, number: int) -> tuple[str, ...]:
        return self._kinds[self._viewers[number]]

    def _scene(self, number: int) -> Scene:
        return self.split.scene(int(self._scenes[number]))

    def _pictures(self, number: int) -> tuple[Path, Path]:
        first, second = self._scene(number).pictures
        return (first, second) if self._first_is_left[number] else (second, first)

    def _scene_id(self, number: int) -> str:
        return f"{int(self._ids[self._scenes[number]]):016x}"

    def _answered(self, counting: dict) -> np.ndarray:
        """(Q,): a bad picture answers its pair's questions for all viewers."""
        done = np.zeros(len(self), bool)
        ids = self._ids[self._scenes]
        by_viewer: dict[tuple[str, ...], list[int]] = {}
        bad: list[int] = []
        for (scene, banned), answer in counting.items():
            (bad if answer.answer == BAD else by_viewer.setdefault(banned, [])).append(int(scene, 16))
        done |= np.isin(ids, np.array(bad, np.uint64))
        for kind, banned in enumerate(self._kinds):
            if banned in by_viewer:
                done |= (self._viewers == kind) & np.isin(ids, np.array(by_viewer[banned], np.uint64))
        return done

    def _count(self, said: list[Answer]) -> int:
        return sum(answer.scene in self._names for answer in said)

    def _of_this_split(self, counting: dict) -> list[Answer]:
        return [answer for answer in counting.values() if answer.scene in self._names]

    def _last(self, counting: dict) -> dict[str, Any] | None:
        said = [(scene, self._kinds.index(banned)) for scene, banned in counting if banned in self._kinds][::-1]
        ids = np.array([int(scene, 16) for scene, _ in said], np.uint64)
        asked = np.isin(_mixed(ids, [kind for _, kind in said]), _mixed(self._ids[self._scenes], self._viewers))
        for place in np.flatnonzero(asked):  # the first, but for an answer that looks like a question's by chance
            if (number := self._number(*said[place])) is not None:
                return {"number": number, "token": self._token(number)}
        return None

    def _number(self, scene: str, kind: int) -> int | None:
        mine = (self._ids[self._scenes] == np.uint64(int(scene, 16))) & (self._viewers == kind)
        return int(np.flatnonzero(mine)[0]) if mine.any() else None


def _mixed(ids: np.ndarray, kinds: Any) -> np.ndarray:
    """uint64 that are rarely the same for two pairs of a scene's id and a number of viewers."""
    return ids ^ ((np.asarray(kinds, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _random(scenes: np.ndarray, bans: np.ndarray, purpose: int) -> np.ndarray:
    """uint64 that look random, the same for the same arguments (Steele, Lea and Flood 2014: SplitMix64)."""
    values = (scenes.astype(np.uint64) * np.uint64(128) + bans.astype(np.uint64)) * np.uint64(4) + np.uint64(purpose)
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
