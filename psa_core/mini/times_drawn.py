"""How often a split has been drawn for a results file: a test is one the first time only."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..json_text import parse_json
from .benchmark import Plan


def count_drawing(output: Path, plan: Plan, methods: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    """What the results file tells of drawings before, with this one; and a sentence on it.

    Args:
        methods: name -> digest of its weights, of all that take part. Who is measured later, beside methods whose
            weights have not changed since the test, makes it no second test: the sentence names them.
    """
    before = _told(output)
    this = {"split": plan.part, "seed": plan.seed, "day": _today(), "methods": dict(methods)}
    alike = [each for each in before if (each.get("split"), each.get("seed")) == (plan.part, plan.seed)]
    return [*before, this], _sentence(plan, alike, methods)


def _sentence(plan: Plan, alike: Sequence[Mapping[str, Any]], methods: Mapping[str, str]) -> str:
    if plan.part != "test":
        return "Drawn from `val`, by which settings are chosen."
    if not alike:
        return "The test split was drawn once, by a seed that no setting was chosen with."
    days = ", ".join(dict.fromkeys(str(each.get("day")) for each in alike))
    known = [each.get("methods") for each in alike]
    if not all(isinstance(each, dict) and each.items() <= methods.items() for each in known):
        return f"The test split has been drawn before with this seed ({days}): it is a test no more."
    added = [name for name in methods if name not in (known[0] or {})]
    then = f"; measured since, on the same requests: {', '.join(f'`{name}`' for name in added)}" if added else ""
    return f"The test split was drawn once ({alike[0].get('day')}), by a seed that no setting was chosen with{then}."


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _told(output: Path) -> list[dict[str, Any]]:
    try:
        found = parse_json(output.read_text(encoding="utf-8")).get("drawings", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
