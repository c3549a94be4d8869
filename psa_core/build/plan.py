"""What a data set is to hold: its pairs, their seeds, who sees them, and which split they are in."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..concepts.pairs import PromptPair
from ..dataset.pair_files import HARMLESS, PICTURES, SHOWS, WITHOUT, PicturePair
from ..errors import PSAError
from ..profile import UserProfile
from ..seeds import draw_seed

TRAIN, VAL, TEST_SEEN, TEST_UNSEEN = "train", "val", "test_seen", "test_unseen"
SPLITS = (TRAIN, VAL, TEST_SEEN, TEST_UNSEEN, HARMLESS)
_SHARES = {TRAIN: 0.7, VAL: 0.08, TEST_SEEN: 0.08, TEST_UNSEEN: 0.14}
_UNSEEN_USERS = 0.2
_HOLDING_OUT = 5  # concepts, of which one is held out
_ALL_TOGETHER = 0.1  # how much a split's lack of pairs counts beside its lack of the category's
_ENDING = "jpg"


@dataclass(frozen=True, repr=False)
class Plan:
    """A data set before its first picture.

    `splits` names the pairs of each split, `users` has everybody with their splits; `held_out` names the concepts, by
    category, that stand in `test_unseen` alone; `notes` are for people.
    """

    pairs: list[PicturePair]
    splits: dict[str, list[PicturePair]]
    users: list[tuple[UserProfile, tuple[str, ...]]]
    held_out: dict[str, list[str]]
    notes: list[str]

    def people(self, split: str) -> list[UserProfile]:
        return [profile for profile, names in self.users if split in names]


def drawn_pairs(prompts: Sequence[PromptPair], seed: int) -> list[PicturePair]:
    """The pairs to draw for prompts, each with the seed of its noise, which other prompts do not change."""
    pairs = []
    for prompt in prompts:
        noise = draw_seed(seed, prompt.shows, prompt.without)
        content = [prompt.category, prompt.concept, prompt.shows, prompt.without, noise]
        which = (SHOWS, WITHOUT) if prompt.category else ("scene", "scene")
        name = pair_id(content)
        files = tuple(f"{PICTURES}/{name}_{part}.{_ENDING}" for part in which)
        pairs.append(PicturePair(name, *(getattr(prompt, field) for field in _PROMPT), noise, files))  # type: ignore
    return pairs


_PROMPT = ("category", "concept", "asked", "shows", "without", "made_by")


def pair_id(content: object) -> str:
    """16 hex digits that stand for JSON-compatible content."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def plan(pairs: Sequence[PicturePair], users: Sequence[UserProfile], seed: int) -> Plan:
    """Who sees what: users and prompts of a test are nowhere in what is trained on.

    A fifth of the users are unseen. Of a category's concepts, where it has five or more, one in five stands in
    `test_unseen` alone. Pairs that share a prompt stay together; one that cannot, for its concept is held out and its
    scene is not, is left out.

    Raises:
        PSAError: where no pair is left to train on, two pairs are the same, or users lack a User_ID of their own.
    """
    if len({pair.id for pair in pairs}) < len(pairs):
        raise PSAError("Two pairs are the same, prompts and pictures. Leave one of them out.")
    ids = {user.user_id for user in users}
    if not users or None in ids or len(ids) < len(users):
        raise PSAError("A data set needs users, and each of them a User_ID of their own.")
    seen, unseen = _divided(users, seed)
    held_out = _held_out_concepts(pairs, seed) if unseen else set()
    fates = _fates(pairs, held_out, seed, bool(unseen))
    splits = {name: [pair for pair in pairs if fates[pair.id] == name] for name in SPLITS}
    if not splits[TRAIN]:
        raise PSAError("There is no pair to train on. Give more prompts, with a concept and of different scenes.")
    kept = [pair for pair in pairs if fates[pair.id]]
    notes = []
    if held_out:
        names = ", ".join(f"{concept} ({category})" for category, concept in sorted(held_out))
        notes.append(f"Held out, in {TEST_UNSEEN} alone: {names}.")
    if len(kept) < len(pairs):
        notes.append(
            f"{len(pairs) - len(kept)} of {len(pairs)} pairs are left out: they share a prompt with one of a split "
            "that must not hold it."
        )
    if empty := [name for name in SPLITS if not splits[name]]:
        notes.append(f"Nothing is in {', '.join(empty)}: for that there are too few pairs or users.")
    by_category: dict[str, list[str]] = {}
    for category, concept in sorted(held_out):
        by_category.setdefault(category, []).append(concept)
    return Plan(kept, splits, _with_splits(users, seen, splits), by_category, notes)


def _divided(users: Sequence[UserProfile], seed: int) -> tuple[list[UserProfile], list[UserProfile]]:
    """(seen, unseen) users; of one alone, nobody is unseen."""
    order = sorted(users, key=lambda user: draw_seed(seed, "unseen", str(user.user_id)))
    count = max(1, round(_UNSEEN_USERS * len(users))) if len(users) > 1 else 0
    return order[count:], order[:count]


def _with_splits(
    users: Sequence[UserProfile], seen: list[UserProfile], splits: dict[str, list[PicturePair]]
) -> list[tuple[UserProfile, tuple[str, ...]]]:
    known = {user.user_id for user in seen}
    training = tuple(name for name in (TRAIN, VAL, TEST_SEEN) if splits[name])
    in_order = [user for user in users if user.user_id in known]
    at_harmless = {user.user_id for _, user in harmless_records(splits[HARMLESS], in_order)}
    found = []
    for user in users:
        if user.user_id in known:
            found.append((user, (*training, *((HARMLESS,) if user.user_id in at_harmless else ()))))
        else:
            found.append((user, (TEST_UNSEEN,) if splits[TEST_UNSEEN] else ()))
    return found


def harmless_records(
    pairs: Sequence[PicturePair], users: Sequence[UserProfile]
) -> Iterable[tuple[PicturePair, UserProfile]]:
    """Each harmless scene with one user: nobody's ban says anything of it."""
    return ((pair, users[number % len(users)]) for number, pair in enumerate(pairs))


def _held_out_concepts(pairs: Sequence[PicturePair], seed: int) -> set[tuple[str, str]]:
    by_category: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.category:
            by_category.setdefault(pair.category, set()).add(pair.concept)
    return {
        (category, concept)
        for category, concepts in by_category.items()
        for concept in sorted(concepts, key=lambda name: draw_seed(seed, "held out", category, name))[
            : len(concepts) // _HOLDING_OUT
        ]
    }


def _fates(
    pairs: Sequence[PicturePair], held_out: set[tuple[str, str]], seed: int, with_unseen: bool
) -> dict[str, str | None]:
    """The split of each pair, by id; `None` for one that has a place in none."""
    groups = _in_turn(_sharing_prompts(pairs), seed)
    shares = {name: share for name, share in _SHARES.items() if with_unseen or name != TEST_UNSEEN}
    counts = Counter(pair.category for pair in pairs if pair.category is not None)
    needs = {name: {cat: share * count for cat, count in counts.items()} for name, share in shares.items()}
    overall = {name: share * counts.total() for name, share in shares.items()}  # in all categories together

    def lack(name: str, group: list[PicturePair]) -> float:
        own = [needs[name][pair.category] for pair in group if pair.category is not None]
        return sum(own) / len(own) + _ALL_TOGETHER * overall[name]

    fates: dict[str, str | None] = {}
    for group in groups:
        scenes = [pair for pair in group if pair.category is None]
        out = [pair for pair in group if (pair.category, pair.concept) in held_out]
        if len(scenes) == len(group):
            fates |= {pair.id: HARMLESS for pair in scenes}
            continue
        fate = TEST_UNSEEN if len(out) + len(scenes) == len(group) else max(shares, key=lambda name: lack(name, group))
        for pair in group:
            if pair.category is not None:
                needs[fate][pair.category] -= 1
                overall[fate] -= 1
        fates |= {pair.id: fate for pair in group}
        if fate != TEST_UNSEEN:
            fates |= {pair.id: None for pair in out}
        fates |= {pair.id: HARMLESS if fate == TRAIN else None for pair in scenes}
    return fates


def _sharing_prompts(pairs: Sequence[PicturePair]) -> list[list[PicturePair]]:
    """The pairs in groups that have no prompt in common."""
    leader: dict[str, str] = {}

    def find(text: str) -> str:
        while leader.setdefault(text, text) != text:
            leader[text] = leader[leader[text]]
            text = leader[text]
        return text

    for pair in pairs:
        first, second = _plain(pair.shows), _plain(pair.without or pair.shows)
        leader[find(first)] = find(second)
    groups: dict[str, list[PicturePair]] = {}
    for pair in pairs:
        groups.setdefault(find(_plain(pair.shows)), []).append(pair)
    return list(groups.values())


def _in_turn(groups: list[list[PicturePair]], seed: int) -> list[list[PicturePair]]:
    """In a seeded order, the categories in turn; large groups first, for they find a place less easily."""
    by_category: dict[str, list[list[PicturePair]]] = {}
    for group in sorted(groups, key=lambda group: (-len(group), draw_seed(seed, "group", group[0].id))):
        by_category.setdefault(group[0].category or "", []).append(group)
    return [group for row in zip_longest(*by_category.values()) for group in row if group is not None]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
