"""What a data set is to hold: its pairs, their seeds, who sees them, and which split they are in."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..concepts.pairs import PromptPair
from ..dataset.pair_files import HARMLESS, PICTURES, SHOWS, WITHOUT, PicturePair
from ..errors import PSAError
from ..profile import UserProfile
from ..seeds import draw_seed
from ..spelling import plain_text

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
    category, that stand in `test_unseen` alone; `notes` are for people; `looks` are as `plan` was given them.
    `known_by` are the pairs that tell this data set from others, whoever its users are: one alone has some more.
    """

    pairs: list[PicturePair]
    splits: dict[str, list[PicturePair]]
    users: list[tuple[UserProfile, tuple[str, ...]]]
    held_out: dict[str, list[str]]
    notes: list[str]
    looks: Mapping[str, Sequence[int]]
    known_by: Sequence[PicturePair]

    @property
    def drawn(self) -> tuple[Sequence[PicturePair], Sequence[PicturePair]]:
        """Those to draw, in two parts that no batch mixes: so the first's pictures do not depend on who looks."""
        known = {pair.id for pair in self.known_by}
        return self.known_by, [pair for pair in self.pairs if pair.id not in known]

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
        pairs.append(PicturePair(name, *(getattr(prompt, part) for part in _PROMPT), noise, files))  # type: ignore
    return pairs


_PROMPT = ("category", "concept", "asked", "shows", "without", "made_by")


def pair_id(content: object) -> str:
    """16 hex digits that stand for JSON-compatible content."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def plan(
    pairs: Sequence[PicturePair],
    users: Sequence[UserProfile],
    seed: int,
    looks: Mapping[str, Sequence[int]] | None = None,
) -> Plan:
    """Who sees what: users and prompts of a test are nowhere in what is trained on.

    A fifth of the users are unseen. Of a category's concepts, where it has five or more, one in five stands in
    `test_unseen` alone, in whatever category and capitals. Pairs that share a prompt or a picture stay together; one
    that cannot, for its concept is held out and its scene is not, is left out.

    Args:
        looks: by id, what the pictures show that are there already, as hashes; those of one colour say nothing.

    Raises:
        PSAError: where no pair is left to train on, two pairs are the same, or users lack a User_ID of their own.
    """
    if len({pair.id for pair in pairs}) < len(pairs):
        raise PSAError("Two pairs are the same, prompts and pictures. Leave one of them out.")
    ids = {user.user_id for user in users}
    if not users or None in ids or len(ids) < len(users):
        raise PSAError("A data set needs users, and each of them a User_ID of their own.")
    seen, unseen = _divided(users, seed)
    of_several = _held_out_concepts(pairs, seed)
    held_out = of_several if unseen else set()
    looks = looks or {}
    sharing = _sharing(pairs, looks)
    fates = _fates(sharing, held_out, seed, bool(unseen))
    known_by = [pair for pair in pairs if (fates if unseen else _fates(sharing, of_several, seed, True))[pair.id]]
    splits = {name: [pair for pair in pairs if fates[pair.id] == name] for name in SPLITS}
    if not splits[TRAIN]:
        raise PSAError("There is no pair to train on. Give more prompts, with a concept and of different scenes.")
    kept = [pair for pair in pairs if fates[pair.id]]
    notes = []
    out = sorted({(pair.category, pair.concept) for pair in pairs if pair.category and _is_out(pair, held_out)})
    if out:
        names = ", ".join(f"{concept} ({category})" for category, concept in out)
        notes.append(f"Held out, in {TEST_UNSEEN} alone: {names}.")
    if len(kept) < len(pairs):
        notes.append(
            f"{len(pairs) - len(kept)} of {len(pairs)} pairs are left out: they share a prompt or a picture with "
            "one of a split that must not hold it."
        )
    if empty := [name for name in SPLITS if not splits[name]]:
        notes.append(f"Nothing is in {', '.join(empty)}: for that there are too few pairs or users.")
    by_category: dict[str, list[str]] = {}
    for category, concept in out:
        by_category.setdefault(category, []).append(concept)
    return Plan(kept, splits, _with_splits(users, seen, splits), by_category, notes, looks, known_by)


def check_leakage(planned: Plan) -> None:
    """Look at the lists once more, whatever made them.

    Raises:
        PSAError: where something of a test is in what is trained on: a user, a prompt, a picture or a concept.
    """
    splits, looks = planned.splits, planned.looks
    trained = {content for name in (TRAIN, HARMLESS) for pair in splits[name] for content in _content(pair, looks)}
    tested = {content for name in (VAL, TEST_SEEN, TEST_UNSEEN) for p in splits[name] for content in _content(p, looks)}
    both = trained & tested
    seen = [pair for name in SPLITS if name != TEST_UNSEEN for pair in splits[name]]
    held_out = {plain_text(concept) for concepts in planned.held_out.values() for concept in concepts}
    leaks = {
        "prompts": sum(isinstance(content, str) for content in both),
        "pictures": sum(isinstance(content, int) for content in both),
        "users": sum(TEST_UNSEEN in names and len(names) > 1 for _, names in planned.users),
        "concepts": len({plain_text(pair.concept) for pair in seen if _is_out(pair, held_out)}),
    }
    if found := ", ".join(f"{count} {what}" for what, count in leaks.items() if count):
        raise PSAError(
            f"What is tested would be trained on: {found}. No list is written, and the pictures stay. Build with other "
            "prompts or users, and report this: it is a fault of this pack."
        )


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


def _held_out_concepts(pairs: Sequence[PicturePair], seed: int) -> set[str]:
    """The names that are held out, as `plain_text` has them. Which they are follows from how each is written first.

    In the alphabet's order of categories: one of an earlier category counts for a later one that has it, too.
    """
    by_category: dict[str, dict[str, str]] = {}
    for pair in pairs:
        if pair.category:
            by_category.setdefault(pair.category, {}).setdefault(plain_text(pair.concept), pair.concept)
    held_out, known = set[str](), set[str]()
    for category, written in sorted(by_category.items()):
        lacking = max(0, len(written) // _HOLDING_OUT - len(held_out & written.keys()))
        new = sorted(written.keys() - known, key=lambda name: draw_seed(seed, "held out", category, written[name]))
        held_out.update(new[:lacking])
        known |= written.keys()
    return held_out


def _is_out(pair: PicturePair, held_out: set[str]) -> bool:
    return pair.category is not None and plain_text(pair.concept) in held_out


def _fates(sharing: list[list[PicturePair]], held_out: set[str], seed: int, with_unseen: bool) -> dict[str, str | None]:
    """The split of each pair, by id; `None` for one that has a place in none. Groups that share stay together."""
    groups = _in_turn(sharing, seed)
    shares = {name: share for name, share in _SHARES.items() if with_unseen or name != TEST_UNSEEN}
    counts = Counter(pair.category for group in groups for pair in group if pair.category is not None)
    needs = {name: {cat: share * count for cat, count in counts.items()} for name, share in shares.items()}
    overall = {name: share * counts.total() for name, share in shares.items()}  # in all categories together

    def lack(name: str, group: list[PicturePair]) -> float:
        own = [needs[name][pair.category] for pair in group if pair.category is not None]
        return sum(own) / len(own) + _ALL_TOGETHER * overall[name]

    fates: dict[str, str | None] = {}
    for group in groups:
        scenes = [pair for pair in group if pair.category is None]
        out = [pair for pair in group if _is_out(pair, held_out)]
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


def _sharing(pairs: Sequence[PicturePair], looks: Mapping[str, Sequence[int]]) -> list[list[PicturePair]]:
    """The pairs in groups that have no prompt and no picture in common."""
    leader: dict[str | int, str | int] = {}

    def find(what: str | int) -> str | int:
        while leader.setdefault(what, what) != what:
            leader[what] = leader[leader[what]]
            what = leader[what]
        return what

    for pair in pairs:
        first, *others = _content(pair, looks)
        for other in others:
            leader[find(other)] = find(first)
    groups: dict[str | int, list[PicturePair]] = {}
    for pair in pairs:
        groups.setdefault(find(plain_text(pair.shows)), []).append(pair)
    return list(groups.values())


def _content(pair: PicturePair, looks: Mapping[str, Sequence[int]]) -> Iterator[str | int]:
    """What no two splits may have in common of it: its prompts, and what its pictures show."""
    yield plain_text(pair.shows)
    yield plain_text(pair.without or pair.shows)
    yield from looks.get(pair.id, ())


def _in_turn(groups: list[list[PicturePair]], seed: int) -> list[list[PicturePair]]:
    """In a seeded order, the categories in turn; large groups first, for they find a place less easily."""
    by_category: dict[str, list[list[PicturePair]]] = {}
    for group in sorted(groups, key=lambda group: (-len(group), draw_seed(seed, "group", group[0].id))):
        by_category.setdefault(group[0].category or "", []).append(group)
    return [group for row in zip_longest(*by_category.values()) for group in row if group is not None]
