"""One fixed, invented person for each set of banned categories, who can stand for whoever bans just these."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from types import MappingProxyType

from .population import Person, is_realistic
from .profile import UserProfile
from .rules import SAGE
from .schema import MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

_PLAIN = Person(35, "male", "None", "healthy", "healthy")
_AGES = (35, 60, 19, 12)  # one for each kind of age that the rules `sage` know; nobody is younger than needed


def stand_in(banned: Iterable[str]) -> UserProfile:
    """The person who stands for a set of banned categories, and depends on nothing else.

    By the rules `sage` that person bans just these, where a realistic person does (29 sets); for any other set it is
    a healthy adult without a religion, who bans them by choice.

    Raises:
        PSAError: for something that is no category.
    """
    plain = UserProfile(*_PLAIN, banned_categories=tuple(banned))
    return _by_rule().get(plain.banned_categories, plain)


def follows_from_person(profile: UserProfile) -> bool:
    """Whether what the profile bans is what the rules `sage` say of such a person."""
    return profile.with_rules(SAGE).banned_categories == profile.banned_categories


@cache
def _by_rule() -> Mapping[tuple[str, ...], UserProfile]:
    """The plainest person for each set: who differs from `_PLAIN` in the fewest fields, the first of these."""
    fields = product(_AGES, ("male",), reversed(RELIGIONS), reversed(PHYSICAL_CONDITIONS), reversed(MENTAL_CONDITIONS))
    people = filter(is_realistic, (Person(*each) for each in fields))
    found: dict[tuple[str, ...], UserProfile] = {}
    for person in sorted(people, key=lambda person: sum(a != b for a, b in zip(person, _PLAIN, strict=True))):
        profile = UserProfile(*person)
        found.setdefault(profile.banned_categories, profile)
    return MappingProxyType(found)
