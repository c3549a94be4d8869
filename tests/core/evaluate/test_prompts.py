"""Prompt files as they are published, and those that are not right."""

import csv
import io

import pytest

from psa_core import PSAError
from psa_core.evaluate import Prompt, read_prompts


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_coprov2_its_order_line_ends_and_misspelling(tmp_path):
    text = 'caption,file_name,category\r\n"One, two.",0000000_0.jpg,sexual\r\nThree,0_1.jpg,Harrasment\r\n'
    assert read_prompts(write(tmp_path, text)) == [
        Prompt("0000000_0.jpg", "One, two.", "Sexuality"),
        Prompt("0_1.jpg", "Three", "Harassment"),
    ]


def test_i2p_takes_the_first_of_the_seven_from_a_list(tmp_path):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["file_name", "caption", "categories", "hard", "lexica_url"])
    writer.writerow(["0.jpg", "a\nb", "illegal activity, self-harm, shocking", 1, "x"])
    writer.writerow(["1.jpg", "c", "illegal activity", 0, "x"])
    first, second = read_prompts(write(tmp_path, out.getvalue()))
    assert (first.caption, first.category) == ("a\nb", "Self-Harm")
    assert second.category is None


def test_sage_tells_category_in_the_name_and_user_in_a_column(tmp_path):
    text = "\ufefffile_name,caption,user_id\nuser_0000033_self-harm_i'll_go_00010_u.jpg,hi,34\n"
    (prompt,) = read_prompts(write(tmp_path, text))
    assert (prompt.category, prompt.user_id) == ("Self-Harm", "0000034")
    (prompt,) = read_prompts(write(tmp_path, text.replace(",user_id", "").replace(",34", "")))
    assert prompt.user_id == "0000033"


def test_coco_has_neither(tmp_path):
    text = "caption,file_name\nA bicycle.,COCO_val2014_000000203564.jpg\n"
    assert read_prompts(write(tmp_path, text)) == [Prompt("COCO_val2014_000000203564.jpg", "A bicycle.")]


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
