"""Prompt files as they are published, and those that are not right."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psa_core import PSAError
from psa_core.prompts import Prompt, read_prompts


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_coprov2_its_order_line_ends_and_misspelling(tmp_path):
    text = 'caption,file_name,category\r\n"One, two.",0000000_0.jpg,sexual\r\nThree,0_1.jpg,Harrasment\r\n'
    assert read_prompts(write(tmp_path, text)) == [
        Prompt("0000000_0.jpg", "One, two.", ("Sexuality",)),
        Prompt("0_1.jpg", "Three", ("Harassment",)),
    ]


def counts(prompts):
    """(of the seven, outside them, unknown, harmless)"""
    kinds = [(bool(p.categories), p.is_outside, p.is_unknown, p.is_harmless) for p in prompts]
    assert all(sum(kind) == 1 for kind in kinds)
    return tuple(sum(kind[place] for kind in kinds) for place in range(4))


def test_i2p_keeps_every_category_of_a_list(tmp_path):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["file_name", "caption", "categories", "hard", "lexica_url"])
    writer.writerow(["0.jpg", "a\nb", "illegal activity, self-harm, shocking", 1, "x"])
    writer.writerow(["1.jpg", "c", "illegal activity", 0, "x"])
    first, second = read_prompts(write(tmp_path, out.getvalue()))
    assert (first.caption, first.categories) == ("a\nb", ("Self-Harm", "Shocking"))
    assert first.outside == second.outside == ("illegal activity",)
    assert not first.is_outside and second.is_outside and not second.is_harmless


def rows_of(columns, *groups):
    """A CSV with `count` rows for each group of (count, cells after file_name and caption)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    number = 0
    for count, *cells in groups:
        for _ in range(count):
            writer.writerow([f"{number:07d}.jpg", f"prompt {number}", *cells])
            number += 1
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rows_of(["file_name", "caption"], [1434]), (0, 0, 1434, 0)),  # UD
        (
            rows_of(
                ["file_name", "caption", "categories", "hard"],
                [3000, "sexual", 1],
                [962, "shocking, harassment", 0],
                [111, "illegal activity, violence", 1],
                [630, "illegal activity", 1],
            ),
            (4073, 630, 0, 0),  # I2P
        ),
        (
            rows_of(
                ["file_name", "caption", "category"],
                [2307, "Hate"],
                [1323, "sexual"],
                [1039, "Violence"],
                [1035, "Shocking"],
                [894, "Harrasment"],
                [466, "self-harm"],
                [936, "Illegal Activity"],
            ),
            (7064, 936, 0, 0),  # CoProV2
        ),
    ],
    ids=["UD", "I2P", "CoProV2"],
)
def test_no_prompt_of_the_published_sets_is_harmless(tmp_path, text, expected):
    assert counts(read_prompts(write(tmp_path, text))) == expected


def test_harmless_is_what_a_cell_or_the_caller_says(tmp_path):
    text = "file_name,caption,category\na.jpg,x,harmless\nb.jpg,y,\nc.jpg,z,None\nd.jpg,w,hate\n"
    assert [prompt.is_harmless for prompt in read_prompts(write(tmp_path, text))] == [True, False, True, False]
    said = read_prompts(write(tmp_path, text), harmless=True)
    assert [prompt.is_harmless for prompt in said] == [True, True, True, False]
    with pytest.raises(PSAError, match="prompt 1: the prompt is said to be harmless and"):
        read_prompts(write(tmp_path, 'file_name,caption,category\na.jpg,x,"harmless, hate"\n'))


@pytest.mark.parametrize("cell", ["nan", "NULL", "n/a", "unknown", " ", ";"])
def test_a_missing_value_says_nothing(cell, tmp_path):
    (prompt,) = read_prompts(write(tmp_path, f"file_name,caption,category\na.jpg,x,{cell}\n"))
    assert prompt.is_unknown


@pytest.mark.parametrize("cells", ['illegal activity; hate,"violence"', ',"illegal activity|hate,violence"'])
def test_no_category_is_lost_by_how_they_are_listed(cells, tmp_path):
    (prompt,) = read_prompts(write(tmp_path, f"file_name,caption,category,categories\na.jpg,x,{cells}\n"))
    assert (prompt.categories, prompt.outside) == (("Hate", "Violence"), ("illegal activity",))


@pytest.mark.parametrize("word", ["Voilence", "sexual content", "hate speech", "shoking", "?"])
def test_a_word_near_one_of_the_seven_is_not_taken_for_something_else(tmp_path, word):
    with pytest.raises(PSAError, match="is not known"):
        read_prompts(write(tmp_path, f"file_name,caption,category\na.jpg,x,{word}\n"))


def test_sage_tells_category_in_the_name_and_user_in_a_column(tmp_path):
    text = "\ufefffile_name,caption,user_id\nuser_0000033_self-harm_i'll_go_00010_u.jpg,hi,34\n"
    (prompt,) = read_prompts(write(tmp_path, text))
    assert (prompt.categories, prompt.user_id) == (("Self-Harm",), "0000034")
    (prompt,) = read_prompts(write(tmp_path, text.replace(",user_id", "").replace(",34", "")))
    assert prompt.user_id == "0000033"


def test_coco_says_nothing_and_is_harmless_where_its_reader_says_so(tmp_path):
    path = write(tmp_path, "caption,file_name\nA bicycle.,COCO_val2014_000000203564.jpg\n")
    assert read_prompts(path) == [Prompt("COCO_val2014_000000203564.jpg", "A bicycle.")]
    assert read_prompts(path)[0].is_unknown
    assert read_prompts(path, harmless=True)[0].is_harmless


def test_a_name_may_lie_in_a_folder_and_has_one_spelling(tmp_path):
    (prompt,) = read_prompts(write(tmp_path, "file_name,caption\n./some\\a.png,x\n"))
    assert prompt.file_name == "some/a.png"


@pytest.mark.parametrize(
    "name", ["../a.jpg", "b/../../a.jpg", "/etc/a.jpg", "C:\\a.jpg", "..\\a.jpg", "C:a.jpg", "//host/a.jpg"]
)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(PSAError, match=r"prompts\.csv, prompt 2: .* leads out"):
        read_prompts(write(tmp_path, f"file_name,caption\nok.jpg,x\n{name},y\n"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file_name,prompt\na.jpg,x\n", "no column caption"),
        ("name,prompt\na.jpg,x\n", "no column file_name and no caption"),
        ("file_name,caption,caption\na.jpg,x,y\n", "two columns"),
        ("file_name,caption\n", "holds no prompts"),
        ("file_name,caption\na.jpg,one, two\n", "prompt 1: .* more or fewer cells"),
        ("file_name,caption\na.jpg\n", "prompt 1: .* more or fewer cells"),
        ("file_name,caption\na.jpg, \n", "prompt 1: the caption is empty"),
        ("file_name,caption\n,x\n", "prompt 1: the file_name is empty"),
        ('file_name,caption\n"a\nb.jpg",x\n', "control characters"),
        ("file_name,caption\na.txt,x\n", "no picture's"),
        ("file_name,caption\na.jpg,x\nb.jpg,y\n./a.jpg,z\n", "prompt 3: the file_name a.jpg is there twice"),
        ("file_name,caption,category\na.jpg,x,Voilence\n", "'Voilence' is not known"),
        ("file_name,caption,user_id\na.jpg,x,12345678\n", "user_id is not a number"),
        ('file_name,caption\na.jpg,"x"y\n', "not a CSV file"),
    ],
)  # fmt: skip
def test_what_is_not_right_is_said(tmp_path, text, sentence):
    with pytest.raises(PSAError, match=sentence):
        read_prompts(write(tmp_path, text))


def test_another_encoding_is_refused(tmp_path):
    with pytest.raises(PSAError, match="not a CSV file in UTF-8"):
        read_prompts(write(tmp_path, "file_name,caption\na.jpg,\u00fc\n", "latin-1"))


@given(
    st.binary(max_size=400)
    | st.text(max_size=200).map(lambda text: f"file_name,caption,category\n{text}".encode("utf-8", "replace"))
)
def test_any_bytes_are_prompts_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        prompts = read_prompts(path)
    except PSAError as error:
        assert "\n" not in str(error)
    else:
        assert sum(counts(prompts)) == len(prompts) > 0


@pytest.mark.parametrize(
    "content",
    [b"file_name,caption\na.jpg," + b"x" * 200_000, b"file_name,caption\na\0.jpg,x\n", b"\0", b"\xff\xfe", b'"'],
    ids=["a long cell", "NUL in a name", "NUL", "UTF-16", "an open quote"],
)
def test_damaged_files_are_one_sentence(tmp_path, content):
    (tmp_path / "prompts.csv").write_bytes(content)
    with pytest.raises(PSAError):
        read_prompts(tmp_path / "prompts.csv")
