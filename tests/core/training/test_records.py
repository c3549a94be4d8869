"""The Sage reader: what it takes, and one sentence for each kind of damage."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tiny_training import square, user, write_split

from psa_core import PSAError
from psa_core.training import read_split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_split(tmp_path, "train", range(4), 4)
    return tmp_path


def lines(data: Path) -> list[dict]:
    return [json.loads(line) for line in (data / "train" / "metadata.jsonl").read_text().splitlines()]


def rewrite(data: Path, records: list) -> None:
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (data / "train" / "metadata.jsonl").write_text("\n".join(texts) + "\n")


def changed(data: Path, **fields) -> None:
    """Change line 3's fields."""
    records = lines(data)
    records[2] |= fields
    rewrite(data, records)


def test_reads_records_users_and_categories(data):
    split = read_split(data, "train")
    assert (len(split), split.users, dict(split.categories), split.skipped) == (4, 4, {"Violence": 4}, [])
    record = split[2]
    assert (record.line, record.caption, record.profile) == (3, "a stormy sea", user(2))
    assert record.chosen == data / "train" / "user_0000002_Violence_square_2_s.png"
    assert [r.line for r in split] == [1, 2, 3, 4]


def test_blank_lines_count_as_lines_but_not_as_records(data):
    rewrite(data, [*lines(data)[:2], "", *lines(data)[2:]])
    assert [record.line for record in read_split(data, "train")] == [1, 2, 4, 5]


def break_json(data):
    rewrite(data, [*lines(data)[:2], '{"chosen": "a.png", ', lines(data)[3]])
    return "not valid JSON"


def not_an_object(data):
    rewrite(data, [*lines(data)[:2], "[1, 2]", lines(data)[3]])
    return "not a JSON object"


def missing_field(data):
    records = lines(data)
    del records[2]["rejected"]
    rewrite(data, records)
    return "lacks rejected"


def caption_not_text(data):
    changed(data, caption=3)
    return "caption is not text"


def missing_file(data):
    (data / "train" / lines(data)[2]["rejected"]).unlink()
    return "there is no file user_0000002_Violence_square_2_u.png"


def truncated_png(data):
    path = data / "train" / lines(data)[2]["chosen"]
    path.write_bytes(path.read_bytes()[:4000])
    return f"{path.name} is truncated or damaged"


def truncated_jpeg(data):
    square(data / "train" / "big.jpg", (9, 9, 9), np.random.default_rng(0), (400, 300))
    path = data / "train" / "big.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    changed(data, chosen="big.jpg")
    return "big.jpg is truncated or damaged"


def not_a_picture(data):
    path = data / "train" / lines(data)[2]["chosen"]
    path.write_text("<html>not found</html>")
    return f"{path.name} is not a picture"


def empty_picture(data):
    path = data / "train" / lines(data)[2]["chosen"]
    path.write_bytes(b"")
    return f"{path.name} is not a picture"


def unknown_category(data):
    changed(data, user_data={**user(2).to_dict(), "Banned_Categories": ["Gambling"], "Allowed_Categories": None})
    return "Banned_Categories must be one of"


def path_above(data):
    square(data / "outside.png", (1, 2, 3), np.random.default_rng(0))
    changed(data, chosen="../outside.png")
    return "leads out of the split's folder"


def path_absolute(data):
    changed(data, chosen=str((data / "train" / lines(data)[2]["chosen"]).resolve()))
    return "leads out of the split's folder"


def path_of_windows(data):
    changed(data, chosen="C:\\pictures\\a.png")
    return "leads out of the split's folder"


def path_link_out(data):
    square(data / "outside.png", (1, 2, 3), np.random.default_rng(0))
    (data / "train" / "link.png").symlink_to(data / "outside.png")
    changed(data, chosen="link.png")
    return "leads out of the split's folder"


def duplicate(data):
    records = lines(data)
    records[2] = records[0]
    rewrite(data, records)
    return "the same record as line 1"


DAMAGES = (
    break_json, not_an_object, missing_field, caption_not_text, missing_file, truncated_png, truncated_jpeg,
    not_a_picture, empty_picture, unknown_category, path_above, path_absolute, path_of_windows, path_link_out,
    duplicate,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_named_with_its_line_and_can_be_skipped(data, damage):
    sentence = damage(data)
    with pytest.raises(PSAError) as caught:
        read_split(data, "train")
    message = str(caught.value)
    assert message.startswith("train/metadata.jsonl, line 3: ") and sentence in message and "\n" not in message

    split = read_split(data, "train", skip_bad=True)
    assert [record.line for record in split] == [1, 2, 4]
    assert split.skipped == [message]


def test_messages_hold_no_profile_field(data):
    changed(data, user_data={**user(2).to_dict(), "Mental_Condition": "depressed", "Age": 4711})
    with pytest.raises(PSAError) as caught:
        read_split(data, "train")
    assert "depressed" not in str(caught.value) and "4711" not in str(caught.value)


def test_empty_or_missing_split(data):
    with pytest.raises(PSAError, match="no metadata of the split 'val'"):
        read_split(data, "val")
    (data / "val").mkdir()
    (data / "val" / "metadata.jsonl").write_text("")
    with pytest.raises(PSAError, match="empty"):
        read_split(data, "val")
    (data / "val" / "metadata.jsonl").write_text("\n\n")
    with pytest.raises(PSAError, match="no usable record"):
        read_split(data, "val")
    rewrite(data, ["{"])
    with pytest.raises(PSAError, match="1 bad records were left out"):
        read_split(data, "train", skip_bad=True)


def test_memory_does_not_grow_with_the_records(data):
    """Some hundred bytes a record (offset, line, digest), whatever a record holds: 44,000 pairs are a few MB."""
    first, peaks = lines(data)[0], []
    for count in (500, 2500):
        rewrite(data, [{**first, "caption": f"{i} " + "word " * 400} for i in range(count)])
        tracemalloc.start()
        read_split(data, "train")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 2000 < 600
