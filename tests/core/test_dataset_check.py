"""`psa dataset check`: what it counts, and each thing that it finds."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pair_sets import write_pair_set
from PIL import Image
from tiny_training import user, write_split

from psa_core import PSAError
from psa_core.build.plan import Plan, check_leakage
from psa_core.cli import main
from psa_core.dataset import read_split
from psa_core.dataset.answers import Answer, picture_name, scene_id
from psa_core.dataset.check import check_dataset
from psa_core.dataset.lookalikes import DISTANCE, groups, picture_hash
from psa_core.dataset.pair_files import FORMAT, PicturePair
from psa_core.json_lines import write_objects
from psa_core.review import AnswerBook

pytest.importorskip("imagehash", reason="pip install 'comfyui-psa[check]'")
SPLITS = {"train": range(0, 4), "val": range(0, 4), "test_seen": range(0, 4), "test_unseen": range(4, 8)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A clean data set: no split shares a prompt, a picture or (unseen) a user with another."""
    folder = tmp_path / "my data"
    for name, users in SPLITS.items():
        write_split(folder, name, users, 8)
        change(folder, name, lambda record, number, name=name: {"caption": f"scene {number} of {name}"})
        scenery(folder / name)
    (folder / "dataset.json").write_text('{"licence": "CC0-1.0"}')
    return folder


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name / "metadata.jsonl").read_text().splitlines()]


def change(folder: Path, name: str, changed) -> None:
    lines = [json.dumps(record | changed(record, number)) for number, record in enumerate(records(folder, name))]
    (folder / name / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def scenery(split: Path) -> None:
    """Other pictures in the files' places: smooth ones, so that a look-alike is one after a change of size, too."""
    rng = np.random.default_rng(list(split.name.encode()))
    for path in sorted(split.glob("*.png")):
        small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        small.resize((96, 96), Image.Resampling.BICUBIC).save(path)


def found(folder: Path) -> dict[str, list]:
    result: dict[str, list] = {"leakage": [], "unreadable": [], "note": []}
    for finding in check_dataset(folder).findings:
        result[finding.kind].append(finding)
    return result


def test_a_clean_data_set_passes(data):
    check = check_dataset(data)
    assert check.passed and check.findings == [] and check.licence == "CC0-1.0"
    train, *_, unseen = check.splits
    assert (train.records, train.scenes, train.users, dict(train.per_user)) == (8, 8, 4, {2: 4})
    assert train.concepts("Violence") == {"square": 8} and train.chosen("Violence")["safe"] == 4
    assert unseen.name == "test_unseen" and train.safe_share() == 0.5
    assert check.look_alike["pictures_that_look_alike"] == 0
    assert check.pictures == {"pictures": 64, "shortest_side": 96, "longest_short_side": 96}


def test_what_is_written_tells_of_no_user(data, tmp_path, capsys):
    assert main(["dataset", "check", str(data), "--json", str(tmp_path / "a.json"), "--picture", "a.png"]) == 0
    said = capsys.readouterr().out + (tmp_path / "a.json").read_text()
    assert "CC0-1.0" in said and "scene" not in said
    profile = user(2).to_dict()
    for field in ("User_ID", "Religion", "Gender"):
        assert str(profile[field]) not in said
    assert json.loads((tmp_path / "a.json").read_text())["passed"] is True
    assert Image.open("a.png").size[0] == 900


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def leaks(folder: Path, what: str, *words: str) -> None:
    (leak,) = found(folder)["leakage"]
    assert leak.what == what and all(word in leak.sentence for word in words), leak
    assert main(["dataset", "check", str(folder)]) == 1


def test_an_unseen_user_who_is_seen(data):
    change(data, "val", lambda record, number: {"user_data": user(5).to_dict()} if number == 3 else {})
    leaks(data, "users", "1 of the 4 users of test_unseen", "val")


@pytest.mark.parametrize("name", ["val", "test_seen", "test_unseen"])
def test_a_prompt_that_was_trained_on_however_it_is_spelt(data, name):
    change(data, name, lambda record, number: {"caption": "Scene  2 of TRAIN"} if number == 5 else {})
    leaks(data, "captions", f"1 prompt of {name}", "line 6")


@pytest.mark.parametrize("field", ["caption", "caption_without"])
@pytest.mark.parametrize("trained_field", ["caption", "caption_without"])
def test_a_prompt_without_the_concept_is_trained_on_too(data, field, trained_field):
    """With `plain_share` pairs stand under it."""
    change(data, "train", lambda record, number: {trained_field: "an empty street"} if number == 2 else {})
    change(data, "val", lambda record, number: {field: "An  empty STREET"} if number == 5 else {})
    leaks(data, "captions", "1 prompt of val", "in train", "line 6")


def test_the_checker_finds_what_the_builder_keeps_apart(tmp_path):
    pairs = write_pair_set(tmp_path, {"train": (range(4), 2), "val": (range(4), 1)}, harmless=1)
    of_train, _, of_val, scene = pairs
    without = {"without": of_train.without}
    shared = {of_val.id: without, of_train.id: {}, scene.id: {"shows": of_val.without, "without": of_val.without}}
    for changed in (of_val, scene):
        lines = [pair.line() | (shared[pair.id] if pair is changed else {}) for pair in pairs]
        write_objects(tmp_path / "pairs.jsonl", lines)
        now = {line["id"]: PicturePair.of_line(line) for line in lines}
        splits = {"train": pairs[:2], "val": [of_val], "test_seen": [], "test_unseen": [], "harmless": [scene]}
        planned = {name: [now[pair.id] for pair in members] for name, members in splits.items()}
        with pytest.raises(PSAError, match="1 prompts"):
            check_leakage(Plan(list(now.values()), planned, [], {}, [], {}, []))
        assert [finding.what for finding in found(tmp_path)["leakage"]] == ["captions"]


def test_pairs_that_a_person_took_out_leak_and_spoil_nothing(data):
    change(data, "val", lambda record, number: {"caption": "scene 2 of train"} if number == 1 else {})
    change(data, "val", lambda record, number: {"user_data": user(5).to_dict()} if number == 3 else {})
    split = read_split(data, "val")
    shutil.copy(data / "train" / records(data, "train")[0]["chosen"], split[4].chosen)
    Image.new("RGB", (32, 96), "black").save(split[5].chosen)
    shutil.copy(split[6].chosen, split[6].rejected)
    before = check_dataset(data)
    assert {finding.what for finding in before.findings} == {
        "users", "captions", "pictures", "tiny", "blank", "equal pictures",
    }  # fmt: skip
    for scene in map(split.scene, (1, 3, 4, 5, 6)):
        names = [picture_name(path, data) for path in scene.pictures]
        AnswerBook(data).add(Answer(scene_id(scene, data), (), *names, "bad"))
    check = check_dataset(data)
    assert check.passed and [finding.what for finding in check.findings] == ["records"]
    (val,) = (split for split in check.splits if split.name == "val")
    assert (val.records, val.scenes, val.users) == (3, 3, 3) and check.pictures["pictures"] == 64 - 10
    assert check.look_alike["pictures_that_look_alike"] == 0


def test_a_concept_that_is_held_out_stands_in_test_unseen_alone(data):
    rename_concept(data, "test_unseen", "lamp")
    held_out = {"held_out_concepts": {"Violence": ["lamp"]}, "licence": "CC0-1.0"}
    (data / "dataset.json").write_text(json.dumps(held_out))
    check = check_dataset(data)
    assert check.passed and check.only_unseen() == {"Violence": ["lamp"]}
    assert "concepts in test_unseen alone: Violence 1" in check.to_text()
    for listed in ({"Violence": ["lamp", "square"]}, {"Hate": ["SQUARE"]}):  # as the builder holds out
        (data / "dataset.json").write_text(json.dumps(held_out | {"held_out_concepts": listed}))
        findings = found(data)["leakage"]
        assert {finding.what for finding in findings} == {"concepts"} and len(findings) == 3  # train, val, test_seen
    rename_concept(data, "val", "Toy-sword")  # as file names have it
    (data / "dataset.json").write_text(json.dumps(held_out | {"held_out_concepts": {"Violence": ["toy sword"]}}))
    (leak,) = found(data)["leakage"]
    assert leak.what == "concepts" and "is in val" in leak.sentence


def rename_concept(data: Path, split: str, concept: str) -> None:
    """Call what the split's pictures show by another name."""

    def renamed(record, number):
        names = {field: record[field].replace("_square_", f"_{concept}_") for field in ("chosen", "rejected")}
        for field, name in names.items():
            (data / split / record[field]).rename(data / split / name)
        return names

    change(data, split, renamed)


def test_the_compact_form_is_checked_alike(tmp_path):
    write_pair_set(tmp_path / "built", {"train": (range(4), 3), "test_unseen": (range(4, 6), 2)}, harmless=2)
    (tmp_path / "built" / "dataset.json").write_text(json.dumps({"format": FORMAT, "licence": "not stated"}))
    check = check_dataset(tmp_path / "built")
    train, unseen, harmless = check.splits
    assert (train.records, train.scenes, train.users, train.chosen()) == (
        12, 3, 4, {"safe": 6, "unsafe": 6, "unknown": 0},
    )  # fmt: skip
    assert train.concepts("Violence") == {"square": 12} and dict(unseen.per_user) == {2: 2}
    assert harmless.chosen() == {"safe": 0, "unsafe": 0, "unknown": 2}
    assert check.passed and check.licence is None and "equal pictures" not in {f.what for f in check.findings}
    lines = (tmp_path / "built" / "train" / "pairs.jsonl").read_text().splitlines()
    with open(tmp_path / "built" / "test_unseen" / "pairs.jsonl", "a") as file:
        file.write(lines[0] + "\n")
    assert {finding.what for finding in found(tmp_path / "built")["leakage"]} == {"captions", "pictures"}


def test_a_picture_that_was_trained_on_under_another_name_in_another_format(data):
    source = data / "train" / records(data, "train")[1]["chosen"]
    target = data / "test_seen" / records(data, "test_seen")[4]["rejected"]
    Image.open(source).save(target.with_suffix(".bmp"))
    target.with_suffix(".bmp").rename(target)
    leaks(data, "pictures", "1 picture of test_seen", "line 5")


def test_a_picture_like_a_trained_one_is_counted_and_fails_nothing(data):
    source = data / "train" / records(data, "train")[1]["chosen"]
    target = data / "test_seen" / records(data, "test_seen")[4]["rejected"]
    Image.open(source).resize((128, 128)).save(target, format="JPEG", quality=80)
    check = check_dataset(data)
    assert check.passed
    assert check.look_alike["pictures_that_look_alike"] == 2 and check.look_alike["groups_of_them"] == 1
    assert check.look_alike["pairs_of_test_seen_like_trained_ones"] == 1
    assert check.look_alike["pairs_of_val_like_trained_ones"] == 0
    names = [f"train/{source.name}", f"test_seen/{target.name}"]
    assert check.to_dict()["files_that_look_alike"] == [names]
    assert f"alike: {names[0]}, {names[1]}" in check.to_text()


def test_of_many_groups_of_look_alikes_the_text_names_some_and_the_json_all(data):
    names = {record[which] for record in records(data, "train") for which in ("chosen", "rejected")}
    sources = [data / "train" / name for name in sorted(names)]
    targets = [data / "test_seen" / record["chosen"] for record in records(data, "test_seen")]
    count = min(len(sources), len(targets))
    for source, target in zip(sources, targets, strict=False):
        Image.open(source).resize((128, 128)).save(target, format="JPEG", quality=80)
    check = check_dataset(data)
    listed = check.to_dict()["files_that_look_alike"]
    assert len(listed) == count > 5 and all(len(group) == 2 for group in listed)
    assert check.to_text().count("  alike: ") == 5 and f"and {count - 5} more groups" in check.to_text()


def test_a_pairs_own_pictures_may_look_alike(data):
    for record in records(data, "train"):
        picture = Image.open(data / "train" / record["chosen"])
        picture.putpixel((0, 0), (1, 2, 3))
        picture.save(data / "train" / record["rejected"])
    assert check_dataset(data).look_alike["pictures_that_look_alike"] == 0


def test_damage_is_told_with_line_and_file_and_fails(data, capsys):
    record = records(data, "train")[2]
    (data / "train" / record["chosen"]).write_bytes(b"no picture")
    (finding,) = found(data)["unreadable"]
    assert finding.count == 1 and "line 3" in finding.sentence and record["chosen"] in finding.sentence
    assert main(["dataset", "check", str(data)]) == 1
    shutil.rmtree(data / "val")
    (data / "val").mkdir()
    (data / "val" / "metadata.jsonl").write_text("{}\n")
    assert any("'val'" in finding.sentence for finding in found(data)["unreadable"])


def test_nothing_but_damage(tmp_path):
    (tmp_path / "bad" / "train").mkdir(parents=True)
    (tmp_path / "bad" / "train" / "metadata.jsonl").write_text("nonsense\n")
    assert main(["dataset", "check", "bad", "--picture", "a.png", "--json", "a.json"]) == 1
    assert Image.open("a.png").size == (900, 60)


def test_poor_pictures_are_noted(data):
    first, second, third = (data / "train" / record["chosen"] for record in records(data, "train")[:3])
    Image.open(first).resize((32, 96)).save(first)
    Image.new("RGB", (96, 96), "black").save(second)
    Image.new("RGB", (96, 96), "black").save(data / "val" / records(data, "val")[0]["chosen"])
    shutil.copy(third, data / "train" / records(data, "train")[2]["rejected"])
    findings = found(data)
    assert not findings["leakage"]  # two black pictures have nothing to tell
    assert {finding.what: finding.count for finding in findings["note"]} == {
        "tiny": 1,
        "blank": 2,
        "equal pictures": 1,
    }
    assert first.name in next(finding.sentence for finding in findings["note"] if finding.what == "tiny")


@pytest.mark.parametrize("text", ["", "[1]", "{" * 5000, "\udcff"])
def test_a_damaged_description_is_unreadable(data, text):
    (data / "dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "dataset.json" in found(data)["unreadable"][0].sentence


def test_without_a_licence_there_is_a_note(data):
    (data / "dataset.json").unlink()
    (note,) = found(data)["note"]
    assert note.what == "licence"


def test_without_imagehash_all_else_is_done_and_it_says_so(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    monkeypatch.setattr("psa_core.extras.find_spec", lambda name: None if name == "imagehash" else object())
    check = check_dataset(data)
    assert check.passed and check.look_alike is None
    assert "pip install 'comfyui-psa[check]'" in check.findings[0].sentence


def test_no_data_set(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", f"{tmp_path}\0"):
        with pytest.raises(PSAError, match="no data set"):
            check_dataset(folder)


def test_groups_are_those_of_a_comparison_of_all_with_all():
    rng = np.random.default_rng(0)
    some = rng.integers(0, 2**63, 60, np.uint64)
    near = [value ^ np.uint64(sum(1 << int(bit) for bit in rng.choice(64, count, replace=False)))
            for value, count in zip(some, [0, 1, 2, 3, 4, 5] * 10, strict=True)]  # fmt: skip
    hashes = np.concatenate([some, np.array(near, np.uint64)])
    found = groups(hashes)
    for first in range(len(hashes)):
        for second in range(first):
            close = bin(int(hashes[first] ^ hashes[second])).count("1") <= DISTANCE
            assert close == (found[first] == found[second])


def test_one_bucket_for_all_takes_no_quadratic_time():
    """200,000 hashes that share a band: all with all would be 20 thousand million comparisons."""
    hashes = np.arange(200_000, dtype=np.uint64) << np.uint64(20)
    assert len(groups(hashes)) == len(hashes)


def test_the_hash_is_imagehashs():
    from imagehash import hex_to_hash, phash

    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8))
    bits = np.unpackbits(np.array([picture_hash(image)], np.uint64).view(np.uint8)).astype(bool)
    assert (bits.reshape(8, 8) == phash(image).hash).all() and hex_to_hash(str(phash(image))) == phash(image)
