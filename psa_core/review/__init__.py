"""Review: a person looks at two pictures and says which one a viewer prefers."""

from .book import AnswerBook
from .questions import AnsweredMeanwhileError, OutdatedError, Review

__all__ = ["AnswerBook", "AnsweredMeanwhileError", "OutdatedError", "Review"]
