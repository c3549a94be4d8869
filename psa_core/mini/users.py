"""People of the mini world, drawn as Sage's are."""

import numpy as np

from .. import population
from ..profile import UserProfile
from ..rules import REFERENCE_PROMPT

# The chance that a user departs from the rules in a category, as often as Sage's users depart from these rules: they
# agree on 63 % of single categories. Sage's follow a table of their own (`psa_core.rules`); the mini world's depart by
# chance, so that what is banned cannot be told from who somebody is.
DEPARTURES = 0.37


def sample_user(rng: np.random.Generator, number: int) -> UserProfile:
    """A random realistic user with `User_ID` `number`.

    Without departures the seven categories would be banned in three fixed groups, and no adapter
    could learn them apart.

    Raises:
        PSAError: for a number of more than 7 digits.
    """
    return population.sample_user(rng, number, REFERENCE_PROMPT, DEPARTURES)
