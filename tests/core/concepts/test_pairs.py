"""Files of prompt pairs: what is written is read back, and what is wrong is named by its line."""

import json

import pytest

from psa_core.concepts.pairs import PromptPair, read_prompt_pairs, write_prompt_pairs
from psa_core.concepts.words import hints_by_word, names_concept
from psa_core.errors import PSAError

NAMED = PromptPair("Shocking", "spider web", "an attic with a web of spiders", "an attic", "named", "templates")
IMPLIED = PromptPair("Shocking", "spider web", "an attic, eight legs", "an attic", "implied", "by hand")
HARMLESS = PromptPair(None, "", "a meadow", "a meadow", "named", "templates")


def write_lines(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def test_pairs_come_back_as_they_were_and_give_the_same_bytes(tmp_path):
    pairs = [NAMED, IMPLIED, HARMLESS, PromptPair("Violence", "épée", "une épée", "une fleur", "named", "by hand")]
    for name in ("a.jsonl", "b.jsonl"):
        write_prompt_pairs(tmp_path / name, pairs)
        assert read_prompt_pairs(tmp_path / name) == pairs
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_byte_order_mark_empty_lines_and_carriage_returns_do_no_harm(tmp_path):
    write_prompt_pairs(tmp_path / "a.jsonl", [NAMED, HARMLESS])
    text = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n\r\n"))
    assert read_prompt_pairs(tmp_path / "b.jsonl") == [NAMED, HARMLESS]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"category": "Horror"}, "category must be one of"),
        ({"category": None}, "a harmless scene"),
        ({"category": ["Shocking"]}, "category must be one of"),
        ({"concept": ""}, "'concept' must be a text"),
        ({"shows": "an attic"}, "does not name"),
        ({"asked": "implied"}, "names the concept"),
        ({"without": "the web of one spider"}, "'without' names the concept"),
        ({"shows": "a spider web\nIGNORE ALL"}, "one line"),
        ({"shows": "a spider web \u202e"}, "one line"),
        ({"shows": " a spider web"}, "without spaces"),
        ({"shows": "spider web " + "x" * 1000}, "more than 1000"),
        ({"without": 7}, "'without' must be a text"),
        ({"asked": "shouted"}, "'asked' must be"),
        ({"asked": ["named"]}, "'asked' must be"),
        ({"made_by": "x" * 201}, "more than 200"),
        ({"license": "mine"}, "these fields and no other"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path, change, sentence):
    path = write_lines(tmp_path / "p.jsonl", vars(HARMLESS), b"", vars(NAMED) | change)
    with pytest.raises(PSAError, match=r"^p\.jsonl, line 3: ") as error:
        read_prompt_pairs(path)
    assert sentence in str(error.value)


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 300_000 + b'"', b"7", b"NaN"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = write_lines(tmp_path / "p.jsonl", vars(NAMED), line, vars(HARMLESS))
    with pytest.raises(PSAError, match=r"^p\.jsonl, line 2: "):
        read_prompt_pairs(path)


def test_the_same_prompts_twice_are_refused_with_both_lines(tmp_path):
    twice = vars(NAMED) | {"category": "Violence"}
    path = write_lines(tmp_path / "p.jsonl", vars(NAMED), vars(HARMLESS), twice)
    with pytest.raises(PSAError, match=r"line 3: the same two prompts as p\.jsonl, line 1"):
        read_prompt_pairs(path)
    with pytest.raises(PSAError, match="pair 2: the same"):
        write_prompt_pairs(tmp_path / "out.jsonl", [NAMED, NAMED])
    assert not (tmp_path / "out.jsonl").exists()


def test_no_pair_is_no_file(tmp_path):
    with pytest.raises(PSAError, match="no prompt pair"):
        write_prompt_pairs(tmp_path / "out.jsonl", [])
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(PSAError, match="no prompt pair"):
        read_prompt_pairs(tmp_path / "blank.jsonl")


@pytest.mark.parametrize(
    ("prompt", "concept", "named", "hinted"),
    [
        ("Three SPIDERS on a wall", "spider", True, True),
        ("a spider's web", "Spiders", True, True),
        ("berries", "berry", True, True),
        ("two buses", "bus", True, True),
        ("two TVs", "TV", True, True),
        ("a painter's studio", "SS", False, False),
        ("the painter\u2019s studio", "SS", False, False),
        ("dressed as a clown", "ass", False, False),
        ("his hat", "hiss", False, False),
        ("a spiderless room", "spider", False, False),
        ("a carton of milk", "car", False, False),
        ("a knife held by a clown", "clown with a knife", True, True),
        ("a clown with a smile", "clown with a knife", False, True),
        ("a cup with a lid", "clown with a knife", False, False),
        ("garden_gnome", "gnome", True, True),
        ("一只蜘蛛在墙上", "蜘蛛", True, True),
        ("一只猫", "蜘蛛", False, False),
        ("the wall, 🕷", "🕷", True, True),
        ("\uff33\uff30\uff29\uff24\uff25\uff32", "spider", True, True),
        ("दिल्ली में", "बिल्ली", False, False),
    ],
)
def test_words_tell_whether_a_prompt_names_a_concept(prompt, concept, named, hinted):
    assert (names_concept(prompt, concept), hints_by_word(prompt, concept)) == (named, hinted)
