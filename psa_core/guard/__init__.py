"""The guard: a judge looks at each viewer's picture, and one that fails is drawn again or hidden."""

from .hiding import HIDINGS, hide
from .looking import failing, viewers_in_turn
from .words import told

__all__ = ["HIDINGS", "failing", "hide", "told", "viewers_in_turn"]
