"""What a writer of prompts is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

from .lists import Concept
from .pairs import IMPLIED
from .scenes import Scene

LONGEST_WRITTEN = 400
"""Characters of a prompt that a language model writes."""


@dataclass(frozen=True)
class Request:
    """One pair to be written.

    Attributes:
        concept: `None` for a harmless scene.
        asked: "named" or "implied".
        scene: what it is to be about.
        choice: a number by chance, for what else there is to choose.
        refused: why an earlier answer could not be used.
    """

    concept: Concept | None
    asked: str
    scene: Scene
    choice: int
    refused: str | None = None

    def fill(self) -> dict[str, str]:
        """The answer that is made of the scene, and the concept's name or one of its hints, as they stand."""
        if self.concept is None:
            return {"prompt": self.scene.without}
        if self.asked == IMPLIED and self.concept.hints:
            shows = self.scene.imply(self.concept.hints[self.choice % len(self.concept.hints)])
        else:
            shows = self.scene.name(self.concept.name)
        return {"shows": shows, "without": self.scene.without}

    def makes(self, answer: Mapping[str, object]) -> bool:
        """Whether an answer is just that."""
        return answer == self.fill()
