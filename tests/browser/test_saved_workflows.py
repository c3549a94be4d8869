"""What earlier versions of the pack saved opens in the page with every value where it was."""

import json
from pathlib import Path

import every_node
import pytest

SAVED = Path(__file__).parents[1] / "data" / "workflows"


@pytest.mark.parametrize("version", sorted(folder.name for folder in SAVED.glob("*")))
def test_every_node_is_read_as_it_was_saved(version, page):
    kept, prompt = (
        json.loads((SAVED / version / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("every_node", "every_node.prompt")
    )
    page.evaluate(every_node.LOAD, kept)
    assert page.evaluate("() => app.graph.nodes.length") == len(kept["nodes"])
    assert every_node.lost(prompt, page.evaluate(every_node.PROMPT)) == []
