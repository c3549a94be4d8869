"""The Sage reader: what it takes, and one sentence for each kind of damage."""

import csv
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_training import square, user, write_split

from psa_core import PSAError
from psa_core.rules import banned_categories
from psa_core.training import SageRecord, read_split

FIELDS = ("age", "religion", "physical_condition", "mental_condition")


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


def plain_caption_not_text(data):
    changed(data, caption_without=["a wall"])
    return "caption_without is not text"


def plain_caption_the_same(data):
    changed(data, caption_without=lines(data)[2]["caption"])
    return "caption_without is its caption"


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
    square(data.parent / "outside.png", (1, 2, 3), np.random.default_rng(0))
    (data / "train" / "link.png").symlink_to(data.parent / "outside.png")
    changed(data, chosen="link.png")
    return "leads out of the split's folder"


def path_link_loop(data):
    (data / "train" / "link.png").symlink_to("back.png")
    (data / "train" / "back.png").symlink_to("link.png")
    changed(data, chosen="link.png")
    return "cannot be a file's path here"


def path_too_long(data):
    changed(data, chosen="x" * 300 + ".png")
    return "cannot be a file's path here"


def path_half_a_character(data):
    changed(data, chosen="\ud800.png")
    return "\\ud800.png"


def path_of_a_folder(data):
    (data / "train" / "folder.png").mkdir()
    changed(data, chosen="folder.png")
    return "no file"


def caption_half_a_character(data):
    changed(data, caption="\ud800")
    return "caption is not text"


def long_number(data):
    text = re.sub(r'"Age": \d+', '"Age": ' + "9" * 5000, json.dumps(lines(data)[2]))
    rewrite(data, [*lines(data)[:2], text, lines(data)[3]])
    return "not valid JSON"


def deep_nesting(data):
    rewrite(data, [*lines(data)[:2], '{"a":' * 10_000, lines(data)[3]])
    return "not valid JSON"


def long_list(data):
    changed(data, user_data={**user(2).to_dict(), "Banned_Categories": "[" + "'Hate', " * 7_000 + "]"})
    return "category lists must be lists"


def long_line(data):
    changed(data, caption="x" * 70_000)
    return "line is longer than 64 KiB"


def duplicate(data):
    records = lines(data)
    records[2] = records[0]
    rewrite(data, records)
    return "the same record as line 1"


DAMAGES = (
    break_json, not_an_object, missing_field, caption_not_text, plain_caption_not_text,
    plain_caption_the_same, missing_file, truncated_png, truncated_jpeg,
    not_a_picture, empty_picture, unknown_category, path_above, path_absolute, path_of_windows, path_link_out,
    path_link_loop, path_too_long, path_half_a_character, path_of_a_folder, caption_half_a_character, long_number,
    deep_nesting, long_list, long_line, duplicate,
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


def test_links_into_the_hubs_cache_and_the_data_set_are_followed(data, tmp_path):
    repository = tmp_path / "datasets--someone--Sage"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted((data / "train").iterdir())):
        (snapshot / "train").mkdir(exist_ok=True)
        path.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / "train" / path.name).symlink_to(Path("..", "..", "..", "blobs", f"{number:064x}"))
    split = read_split(snapshot, "train")
    assert [record.profile for record in split] == [user(number) for number in range(4)]

    name = split[0].chosen.name
    (snapshot / "pictures").mkdir()
    (snapshot / "train" / name).rename(snapshot / "pictures" / name)
    (snapshot / "train" / name).symlink_to(Path("..", "pictures", name))
    assert read_split(snapshot, "train")[0].chosen.name == name

    stranger = tmp_path / "datasets--other" / "blobs" / "0"
    stranger.parent.mkdir(parents=True)
    square(stranger.with_suffix(".png"), (1, 2, 3), np.random.default_rng(0))
    (snapshot / "train" / name).unlink()
    (snapshot / "train" / name).symlink_to(stranger.with_suffix(".png"))
    with pytest.raises(PSAError, match=r"line 1: 'chosen': .* leads out of the split's folder"):
        read_split(snapshot, "train")


def bare(data: Path) -> list[dict]:
    """Make the records as the published ones are: without bans, with a Cluster_ID."""
    records = lines(data)
    for record in records:
        for name in ("Banned_Categories", "Allowed_Categories"):
            del record["user_data"][name]
        record["user_data"]["Cluster_ID"] = 3
    rewrite(data, records)
    return records


def write_users(path: Path, profiles) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(profiles[0].to_dict()))
        writer.writeheader()
        writer.writerows(profile.to_dict() for profile in profiles)
    return path


def test_records_without_bans_follow_the_rules_of_the_data(data):
    bare(data)
    split = read_split(data, "train")
    assert (split.bans["derived"], split.bans["joined"]) == (4, 0)
    assert any("4 of 4 records do not say what their users ban: the rules 'sage'" in note for note in split.notes)
    for record in split:
        person = {name: getattr(record.profile, name) for name in FIELDS}
        assert record.profile.banned_categories == banned_categories("sage", **person)


def test_records_without_bans_are_joined_with_a_users_file(data, tmp_path):
    bare(data)
    people = [replace(user(number), banned_categories=("Hate", "Propaganda")) for number in range(4)]
    split = read_split(data, "train", users=write_users(tmp_path / "users.csv", people))
    assert [record.profile for record in split] == people == split.profiles
    assert (split.bans["derived"], split.bans["joined"]) == (0, 4)
    assert any("4 of 4 records ban is from the users file" in note for note in split.notes)


def test_records_that_say_what_is_banned_need_no_note(data, tmp_path):
    split = read_split(data, "train")
    assert (split.notes, sum(split.bans.values())) == ([], 0)
    people = [user(number) for number in range(4)]
    assert read_split(data, "train", users=write_users(tmp_path / "users.csv", people)).notes == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"age": 77}, "line 3: in user_data: the record and the users file do not agree on this user's age"),
        ({"user_id": "0000009"}, "line 3: in user_data: the users file has no such User_ID"),
        ({"gender": "other"}, "do not agree on this user's gender"),
    ],
)
def test_a_record_that_does_not_fit_the_users_file(data, tmp_path, change, sentence):
    bare(data)
    people = [user(number) for number in range(4)]
    if change == {"gender": "other"}:
        change = {"gender": "male" if people[2].gender == "female" else "female"}
    people[2] = replace(people[2], **change)
    path = write_users(tmp_path / "users.csv", people)
    with pytest.raises(PSAError, match=sentence):
        read_split(data, "train", users=path)
    split = read_split(data, "train", skip_bad=True, users=path)
    assert (len(split), split.bans["joined"], len(split.skipped)) == (3, 3, 1)


def test_bans_that_do_not_fit_the_users_file_and_a_user_without_number(data, tmp_path):
    path = write_users(tmp_path / "users.csv", [replace(user(n), banned_categories=("Hate",)) for n in range(4)])
    with pytest.raises(PSAError, match="do not agree on this user's banned categories"):
        read_split(data, "train", users=path)
    records = bare(data)
    del records[0]["user_data"]["User_ID"]
    rewrite(data, records)
    with pytest.raises(PSAError, match="line 1: in user_data: there is no User_ID"):
        read_split(data, "train", users=path)


def test_a_choice_against_the_ban_is_counted(data):
    records = lines(data)
    for record in records[1:3]:
        record["chosen"], record["rejected"] = record["rejected"], record["chosen"]
    rewrite(data, records)
    split = read_split(data, "train")
    assert split.bans["contradicted"] == 2
    assert any("2 of 4 records" in note and "line 2, 3." in note for note in split.notes)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("user_0000033_self-harm_i'll_go_00010_u.jpg", "Self-Harm"),
        ("user_0000033_sexual_x_1_s.jpg", "Sexuality"),
        ("user_0000033_illegal_x_1_s.jpg", "illegal"),
        ("a.jpg", None),
    ],
)
def test_the_category_in_a_files_name(name, category):
    record = SageRecord(1, Path(name), Path(name), "x", user(0))
    assert record.category == category


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(["chosen", "rejected", "caption", "user_data"]),
        st.text(st.characters(codec=None)) | st.just("x" * 300) | st.dictionaries(st.text(), st.text(), max_size=2),
    ).map(lambda value: json.dumps(value).encode())
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_line_is_a_record_or_a_sentence(tmp_path_factory, content):
    split = tmp_path_factory.getbasetemp() / "any"
    split.mkdir(exist_ok=True)
    (split / "metadata.jsonl").write_bytes(content)
    with pytest.raises(PSAError) as caught:
        read_split(split.parent, "any")
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


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
