"""The translations name what there is, and all of it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANGUAGES = ("ko", "zh", "ja")
NODES = {
    node
    for path in (ROOT / "nodes").glob("*.py")
    for node in re.findall(r'node_id="(\w+)"', path.read_text(encoding="utf-8"))
}
SAID = {
    re.sub(r"\\(.)", r"\1", text)
    for path in (ROOT / "web").glob("psa_*.js")
    for quote, text in re.findall(r"""\bsay\(\s*(["'])(.+?)(?<!\\)\1""", path.read_text(encoding="utf-8"))
}


def read(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_is_translated_with_its_tooltips(language):
    nodes = read(language, "nodeDefs.json")
    missing = {"PSAUserProfile", "PSAEncode", "PSAApply", "PSATrain"} - set(nodes)
    assert not missing and set(nodes) <= NODES
    for node in nodes.values():
        assert node["display_name"] and node["description"]
        assert all(each["name"] and each["tooltip"] for each in node.get("inputs", {}).values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_page_says_is_translated(language):
    words = read(language, "main.json")["psa"]
    assert SAID and set(words) >= SAID
    for sentence, translated in words.items():
        assert set(re.findall(r"\{\w+\}", sentence)) == set(re.findall(r"\{\w+\}", translated)), sentence


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_menus_and_templates_have_words(language):
    words = read(language, "main.json")
    tasks = re.search(r"for task in \(([^)]*)\)", (ROOT / "nodes" / "sockets.py").read_text(encoding="utf-8"))[1]
    assert set(re.findall(r'"(\w+)"', tasks)) <= set(words["nodeCategories"])
    described = set(words["templateWorkflows"]["templateDescription"]["comfyui-psa"])
    assert described <= {path.stem for path in (ROOT / "workflows").glob("*.json")}
