"""The translations name what there is, and all of it. ComfyUI, which knows the inputs, holds them in tests/comfy."""

import json
import re
from pathlib import Path

import pytest

from psa_core.training.estimate import NOT_MEASURED

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
    assert set(nodes) == NODES
    for node in nodes.values():
        inputs, outputs = node.get("inputs", {}), node.get("outputs", {})
        assert node["display_name"] and node["description"]
        assert all(each["name"] and each["tooltip"] for each in inputs.values())
        assert list(outputs) == [str(number) for number in range(len(outputs))]
        assert all(each["name"] for each in outputs.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_translation_of_a_node_holds_what_the_page_takes_for_a_command(language):
    text = (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
    strings = re.findall(r': "(.*)"', text)
    assert strings and [each for each in strings if set(each) & set("{}|@")] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_page_says_is_translated(language):
    words = read(language, "main.json")["psa"]
    assert SAID and set(words) >= SAID | {NOT_MEASURED}
    for sentence, translated in words.items():
        assert set(re.findall(r"\{\w+\}", sentence)) == set(re.findall(r"\{\w+\}", translated)), sentence


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_menus_and_templates_have_words(language):
    words = read(language, "main.json")
    tasks = re.search(r"for task in \(([^)]*)\)", (ROOT / "nodes" / "sockets.py").read_text(encoding="utf-8"))[1]
    assert set(re.findall(r'"(\w+)"', tasks)) <= set(words["nodeCategories"])
    name = re.search(r'^name = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert "PSA" in words["templateWorkflows"]["category"][name]  # the folder that ComfyUI installs the pack into


@pytest.mark.parametrize(("language", "words"), {"ko": "측정하지 않", "zh": "未测量", "ja": "未測定"}.items())
def test_the_recommended_settings_are_called_unmeasured_where_they_are(language, words):
    tooltip = read(language, "nodeDefs.json")["PSATrain"]["inputs"]["preset"]["tooltip"]
    for said in (tooltip, read(language, "main.json")["psa"][NOT_MEASURED]):
        assert words in said and "SD1.5" in said and "SDXL" in said
    english = re.sub(r'"\s+f?"', "", (ROOT / "nodes" / "train.py").read_text(encoding="utf-8"))
    assert "recommended: made for an evening on one card with 12 GB (not measured for SD1.5 and SDXL" in english
