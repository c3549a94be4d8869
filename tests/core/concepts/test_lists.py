"""Lists of concepts and scenes are read as they are meant, or refused by line."""

import numpy as np
import pytest

from psa_core.concepts.lists import PLACEHOLDERS, Concept, parse_concepts, read_concepts
from psa_core.concepts.scenes import TemplateScenes, with_article
from psa_core.concepts.words import names_concept
from psa_core.errors import PSAError
from psa_core.mini.scenes import MiniScenes, mini_concepts
from psa_core.mini.world import SYMBOLS, parse_prompt, part_of
from psa_core.schema import CATEGORIES

LIST = "# Shocking\nspider = eight legs on a web; a creature in its web\n\n  thundercloud  \n#violence:\ntoy sword\n"
CONCEPTS = [
    Concept("Shocking", "spider", ("eight legs on a web", "a creature in its web")),
    Concept("Shocking", "thundercloud"),
    Concept("Violence", "toy sword"),
]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_is_read_whatever_its_editor(tmp_path, ends, mark):
    text = mark + LIST.replace("\n", ends)
    assert parse_concepts(text) == CONCEPTS
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert read_concepts(tmp_path / "list.txt") == CONCEPTS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no concept"),
        ("# Violence\n", "holds no concept"),
        ("spider", "line 1: a concept stands before any category"),
        ("# Horror\nspider", "line 1: '# Horror' is no category"),
        ("# Shocking\nspider\n# Violence\nSpider", "line 4: 'Spider' is in line 2 already, under Shocking"),
        ("# Shocking\ncaf\u00e9\n# Violence\ncafe\u0301", "is in line 2 already, under Shocking"),
        ("# Shocking\nspider = many spiders", "line 2: the hint 'many spiders' holds words"),
        ("# Shocking\nspider =", "line 2: there is no hint"),
        ("# Shocking\n= legs", "line 2: 'the concept' must be a text"),
        ("# Shocking\nspi\x00der", "line 2: 'the concept' must be one line"),
        ("# Shocking\nspi\u2028der", "line 2: 'the concept' must be one line"),
        ("# Shocking\n" + "x" * 101, "line 2: 'the concept' has more than 100"),
        ("# Shocking\na = " + "; ".join("bcdefgh"[i % 7] * (i + 2) for i in range(101)), "more than 100 hints"),
        ("# Shocking\n" + "\n".join(map(str, range(10_001))), "more than 10000 concepts"),
    ],
)
def test_a_wrong_line_is_named(text, sentence):
    with pytest.raises(PSAError) as error:
        parse_concepts(text)
    assert sentence in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe#\x00", b"", b"x" * (5 << 20)])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(PSAError, match=r"list\.txt"):
        read_concepts(tmp_path / "list.txt")


def test_the_shipped_list_has_five_of_each_category_all_with_hints():
    concepts = read_concepts(PLACEHOLDERS)
    assert {c.category for c in concepts} == set(CATEGORIES)
    assert all(sum(c.category == category for c in concepts) >= 5 for category in CATEGORIES)
    assert all(concept.hints for concept in concepts)


def test_choices_are_the_same_in_both_prompts_of_a_scene():
    scenes = TemplateScenes(
        "place = a park; a room\nlight = dusk; noon\n{place} at {light}, {a concept} | {place} at {light}"
    )
    drawn = [scenes.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert {scene.without for scene in drawn} == {f"{p} at {t}" for p in ("a park", "a room") for t in ("dusk", "noon")}
    for scene in drawn:
        assert scene.name("owl") == f"{scene.without}, an owl"
        assert scene.imply("what hoots") == f"{scene.without}, what hoots"
    assert scenes.draw(np.random.default_rng(3)) == drawn[3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "hold no scene"),
        ("# only a word\nplace = here", "hold no scene"),
        ("a room", "line 1: it is neither"),
        ("a room with {a concept}", "line 1: it is neither"),
        ("a room | a room", "line 1: a scene has {concept}"),
        ("{concept} {a concept} | a room", "line 1: a scene has {concept}"),
        ("{concept} | {concept}", "line 1: a scene has {concept}"),
        ("{concept} |", "line 1: a scene has {concept}"),
        ("{concept} in {place} | {place}", "line 1: {place} is not defined"),
        ("{concept} in { | a room", "line 1: a brace"),
        ("place = {place}", "line 1: the choice 'place'"),
        ("concept = a\n", "line 1: the choice 'concept'"),
        ("place = a\nplace = b", "line 2: the choice 'place'"),
        ("{concept} " + "x" * 501 + " | a room", "longer than 500"),
    ],
)
def test_a_wrong_scene_is_named(text, sentence):
    with pytest.raises(PSAError) as error:
        TemplateScenes(text)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("phrase", "written"),
    [
        ("owl", "an owl"),
        ("star", "a star"),
        ("plus", "a plus"),
        ("glass", "a glass"),
        ("boxing gloves", "boxing gloves"),
        ("the sea", "the sea"),
        ("an owl", "an owl"),
        ("Paris", "Paris"),
        ("🕷", "🕷"),
    ],
)
def test_articles(phrase, written):
    assert with_article(phrase) == written


def test_the_mini_worlds_prompts_are_its_own_and_never_the_benchmarks():
    concepts = {concept.category: concept for concept in mini_concepts()}
    for seed in range(300):
        scene = MiniScenes().draw(np.random.default_rng(seed))
        assert part_of(scene.without) == "train"
        assert parse_prompt(scene.without).symbol is None
        concept = concepts[CATEGORIES[seed % 7]]
        assert parse_prompt(scene.name(concept.name)).symbol == SYMBOLS[concept.category]
        for hint in concept.hints:
            assert parse_prompt(scene.imply(hint)).way == "implied"
            assert not names_concept(hint, concept.name)


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\t", "\u2009", "  ", "\u200b"])
def test_spaces_of_all_kinds_are_spaces(space):
    line = f"toy{space}sword{space}={space}a{space}thing of wood;"
    text = f"{space}#{space}Shocking{space}\n{space}\n{space}{line}{space}"
    assert parse_concepts(text) == [Concept("Shocking", "toy sword", ("a thing of wood",))]
    choice, scene = f"{space}place{space}=a park;{space}a room", f"{{a concept}}{space}in {{place}} | {{place}}"
    scenes = TemplateScenes(f"{choice}\n{scene}")
    assert scenes.draw(np.random.default_rng(0)).name("owl").startswith("an owl in a ")


@pytest.mark.parametrize("mark", ["-", "*", "+", "\u2022", "\u2013"])
def test_bullets_are_no_part_of_a_name(mark):
    text = f"# Shocking\n{mark} spider = eight legs on a web; a creature in its web\n {mark}\tthundercloud\n"
    assert parse_concepts(f"{text}## **Violence**\n{mark} toy sword") == CONCEPTS


@pytest.mark.parametrize("numbers", ["1. 2. 3.", "1) 2) 1)", "1. 1. 1."])
def test_numbers_in_order_are_no_part_of_a_name(numbers):
    first, second, third = numbers.split()
    text = f"# Shocking\n{first} spider = eight legs on a web; a creature in its web\n{second} thundercloud\n"
    assert parse_concepts(f"{text}# Violence\n{third} toy sword") == CONCEPTS


@pytest.mark.parametrize("name", ["3. Reich", "-5 degrees", "7 of 9", "2. April", "*nsync", "x - y"])
def test_other_numbers_and_signs_are_part_of_it(name):
    assert [concept.name for concept in parse_concepts(f"# Hate\n{name}")] == [name]


def test_a_long_list_in_other_scripts(tmp_path):
    names = [f"{word} {number}" for number in range(100) for word in ("паук", "蜘蛛", "عنكبوت", "กระต่าย", "🕷")]
    (tmp_path / "list.txt").write_text("# Shocking\n" + "\n".join(names), encoding="utf-8")
    assert [concept.name for concept in read_concepts(tmp_path / "list.txt")] == names
