"""How often a split has been drawn for a results file: a test is one the first time only."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .benchmark import Plan


def count_drawing(output: Path, plan: Plan) -> tuple[list[dict[str, Any]], str]:
    """What the results file tells of drawings before, with this one; and a sentence on it."""
    before = _told(output)
    this = {"split": plan.part, "seed": plan.seed, "day": datetime.now(timezone.utc).date().isoformat()}
    alike = [each for each in before if (each.get("split"), each.get("seed")) == (plan.part, plan.seed)]
    if plan.part != "test":
        sentence = "Drawn from `val`, by which settings are chosen."
    elif alike:
        days = ", ".join(str(each.get("day")) for each in alike)
        sentence = f"The test split has been drawn before with this seed ({days}): it is a test no more."
    else:
        sentence = "The test split was drawn once, by a seed that no setting was chosen with."
    return [*before, this], sentence


def _told(output: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(output.read_text(encoding="utf-8")).get("drawings", [])
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
