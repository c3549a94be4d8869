"""Building data sets with a stub for the model: splits without leaks, exact resumption, what is refused."""

import json
import os
import random
import resource
import shutil
import signal
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from building import prompt_pairs
from PIL import Image

from psa_core import PSAError
from psa_core.build import Drawing, Said, build_dataset, drawn_pairs, plan
from psa_core.build.drawing import finish_batches
from psa_core.build.imported import read_picture_list
from psa_core.build.plan import SPLITS, check_leakage
from psa_core.build.sage_form import write_sage_form
from psa_core.concepts.pairs import PromptPair
from psa_core.dataset import read_split
from psa_core.dataset.check import check_dataset, split_names
from psa_core.dataset.sage import read_sage_split
from psa_core.judges.judging import Verdict, tell_nobody
from psa_core.population import sample_users
from psa_core.schema import CATEGORIES

USERS = sample_users(10, 3)


def prompts(concepts: int = 5, scenes: int = 6, harmless: int = 4, categories=("Violence", "Hate")) -> list[PromptPair]:
    return prompt_pairs(categories, concepts, scenes, harmless)


class Stub:
    """Draws noise that follows from prompt and seed; notes what it drew."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def draw(self, prompts, seeds):
        self.drawn += prompts
        rngs = [np.random.default_rng([seed, len(prompt)]) for prompt, seed in zip(prompts, seeds, strict=True)]
        return [Image.fromarray(rng.integers(0, 255, (72, 72, 3), np.uint8)) for rng in rngs]


def build(folder: Path, given=None, users=USERS, seed=1, stub=None, made=None, batch=4, **options):
    planned = plan(drawn_pairs(given or prompts(), seed), users, seed)
    drawing = Drawing(made or {"model": "a", "steps": 3}, lambda: stub or Stub(), batch)
    return build_dataset(folder, planned, users, seed, drawing, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_built_set_is_read_and_passes_the_check(tmp_path):
    stub = Stub()
    built = build(tmp_path, stub=stub)
    assert built.made == len(stub.drawn) == 2 * 60 + 4
    sizes = {name: len(read_split(tmp_path, name)) for name in SPLITS}
    assert sizes["train"] > sizes["test_unseen"] > 0 and min(sizes.values()) > 0 and sizes["harmless"] == 4
    assert all(not record.contradicts for record in read_split(tmp_path, "train"))
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert "virtual users only" in told["people"] and told["model"] == "a" and told["licence"] == "not stated"
    assert Image.open(tmp_path / "contact_sheet.png").width > 500


def test_what_is_tested_is_nowhere_in_what_is_trained_on(tmp_path):
    build(tmp_path)
    splits = {name: list(read_split(tmp_path, name)) for name in SPLITS}

    def texts(*names):
        return {text for name in names for r in splits[name] for text in (r.pair.shows, r.pair.without)}

    assert not texts("train", "harmless") & texts("val", "test_seen", "test_unseen")
    users = {name: {record.profile.user_id for record in records} for name, records in splits.items()}
    assert not users["test_unseen"] & set.union(*(users[name] for name in splits if name != "test_unseen"))
    assert users["train"] | users["test_unseen"] == {user.user_id for user in USERS}
    concepts = {name: {(r.category, r.concept) for r in records} for name, records in splits.items()}
    held_out = concepts["test_unseen"] - concepts["train"]
    assert {category for category, _ in held_out} == {"Violence", "Hate"} and len(held_out) == 2
    assert not held_out & (concepts["val"] | concepts["test_seen"])


def test_pairs_that_share_a_scene_stay_together():
    given = [
        PromptPair("Hate", f"thing{c}", f"scene {s} with thing{c}", f"scene {s}", "named", "by hand")
        for c in range(5)
        for s in range(12)
    ]
    planned = plan(drawn_pairs(given, 0), USERS, 0)
    where: dict[str, set[str]] = {}
    for name, pairs in planned.splits.items():
        for pair in pairs:
            where.setdefault(pair.without, set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert any("left out" in note for note in planned.notes)
    assert {len(planned.splits[name]) > 0 for name in ("train", "val", "test_seen", "test_unseen")} == {True}


def test_a_plan_follows_from_the_seed_and_few_concepts_are_not_held_out():
    one, again, other = (plan(drawn_pairs(prompts(), seed), USERS, seed) for seed in (1, 1, 2))
    assert one.pairs == again.pairs and one.splits == again.splits and one.users == again.users
    assert [p.id for p in one.pairs] != [p.id for p in other.pairs]
    few = plan(drawn_pairs(prompts(concepts=4), 1), USERS, 1)
    assert not any("Held out" in note for note in few.notes)
    alone = plan(drawn_pairs(prompts(), 1), USERS[:1], 1)
    assert not alone.splits["test_unseen"] and alone.splits["train"]
    assert plan(drawn_pairs(prompts(1, 1, 0, ("Hate",)), 1), USERS, 1).splits["train"]


@pytest.mark.parametrize("seed", range(4))
def test_a_concept_is_held_out_in_whatever_capitals_and_category(seed):
    given = [
        PromptPair(
            category, name, f"scene {s} {category} with {name}", f"scene {s} {category} {name[::-1]}", "named", "me"
        )
        for category in ("Hate", "Violence")
        for name in ("rat", "Rat", "RAT  x", "rat X", "mud", "snake", "Spider", "spider", "toad", "newt")
        for s in range(6)
    ]
    planned = plan(drawn_pairs(given, seed), USERS, seed)
    out = {concept.casefold().replace("  ", " ") for names in planned.held_out.values() for concept in names}
    assert out
    for name, pairs in planned.splits.items():
        if name != "test_unseen":
            assert not out & {pair.concept.casefold().replace("  ", " ") for pair in pairs}
    check_leakage(planned)


def test_one_user_or_several_is_the_same_set_of_pictures(tmp_path):
    given = [
        PromptPair("Hate", f"thing{c}", f"scene {s} with thing{c}", f"scene {s}", "named", "by hand")
        for c in range(5)
        for s in range(6)
    ]
    for users in (USERS[:1], USERS, USERS[:1]):
        build(tmp_path, given, users=users)
        assert {record.profile.user_id for record in read_split(tmp_path, "train")} <= {u.user_id for u in users}


@pytest.mark.parametrize("batch", [2, 4, 8])
def test_one_user_first_and_several_later_have_the_pictures_of_several_at_once(tmp_path, batch):
    """One alone has more pairs, and what is drawn together counts for rounding."""

    class Rounding(Stub):
        def draw(self, prompts, seeds):
            super().draw(prompts, seeds)
            rngs = [np.random.default_rng([seed, *map(len, prompts), *seeds]) for seed in seeds]
            return [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for rng in rngs]

    given = [
        PromptPair("Hate", f"thing{c}", f"scene {s} with thing{c}", f"scene {s}", "named", "by hand")
        for c in range(5)
        for s in range(12)
    ]
    for name, steps in {"at once": (USERS,), "later": (USERS[:1], USERS)}.items():
        for users in steps:
            build(tmp_path / name, given, users=users, stub=Rounding(), batch=batch)
    at_once, later = (files(tmp_path / name) for name in ("at once", "later"))
    assert all(later[name] == content for name, content in at_once.items()) and len(later) > len(at_once)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_concepts_of_several_categories_are_held_out_once(count):
    given = [
        PromptPair(category, name, f"{category} {k} {i} with {name}", f"{category} {k} {i}", "named", "me")
        for category in CATEGORIES[:count]
        for k, name in enumerate(("blood", "fire", "knife", "rope", "skull"))
        for i in range(4)
    ]
    for seed in range(10):
        planned = plan(drawn_pairs(given, seed), USERS, seed)
        assert len({name for names in planned.held_out.values() for name in names}) == 1
        assert len(planned.splits["train"]) >= len(given) * 13 // 20


@pytest.mark.parametrize("lost", ["users.jsonl", "train/pairs.jsonl", "harmless/pairs.jsonl"])
def test_a_list_that_was_lost_is_written_again(tmp_path, lost):
    build(tmp_path)
    before, stub = files(tmp_path), Stub()
    (tmp_path / lost).unlink()
    build(tmp_path, stub=stub)
    assert files(tmp_path) == before and not stub.drawn


def test_before_its_first_picture_a_set_may_become_another(tmp_path):
    class Away(Stub):
        def draw(self, prompts, seeds):
            raise PSAError("There is not enough memory.")

    with pytest.raises(PSAError, match="not enough memory"):
        build(tmp_path, made={"model": "another"}, stub=Away(), said=Said("CC0-1.0"))
    build(tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_text())["model"] == "a"
    assert json.loads((tmp_path / "dataset.json").read_text())["licence"] == "CC0-1.0"
    with pytest.raises(PSAError, match="A batch holds at least 1 picture"):
        build(tmp_path / "other", batch=0)
    assert not (tmp_path / "other").exists()


def test_what_is_no_text_is_a_sentence(tmp_path):
    with pytest.raises(PSAError, match="Write it in UTF-8"):
        build(tmp_path / "set", said=Said("CC\udcff"))
    assert not (tmp_path / "set").exists()


def test_a_long_concept_of_long_letters_has_a_name_in_sages_form(tmp_path):
    concept = "\U00020000" * 70
    given = [
        PromptPair("Hate", concept, f"a scene {number} with {concept}", f"a scene {number}", "named", "by hand")
        for number in range(12)
    ]
    build(tmp_path, given)
    assert write_sage_form(tmp_path) == sum(len(read_sage_split(tmp_path, name)) for name in split_names(tmp_path))


class KilledError(BaseException):
    """Nothing in the pack catches it."""


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_build_that_was_stopped_anywhere_ends_with_the_same_bytes_and_draws_nothing_twice(
    tmp_path, monkeypatch, batch
):

    given = prompts(2, 3, 3)
    stub = Stub()
    build(tmp_path / "whole", given, batch=batch, stub=stub)
    whole, replace = files(tmp_path / "whole"), os.replace
    names = [0]
    monkeypatch.setattr(os, "replace", lambda *paths: (names.__setitem__(0, names[0] + 1), replace(*paths))[1])
    build(tmp_path / "counted", given, batch=batch)
    for moment in range(0, 2 * names[0], 7):
        count = [0]

        def dying(*paths, count=count, moment=moment):
            if count[0] == moment:
                raise KilledError
            replace(*paths)
            count[0] += 2
            if count[0] == moment + 1:
                raise KilledError

        folder, second = tmp_path / str(moment), Stub()
        first = Stub()
        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(KilledError):
            build(folder, given, batch=batch, stub=first)
        monkeypatch.setattr(os, "replace", replace)
        there = {path.name for path in folder.rglob("*.jpg")} | {
            name for archive in folder.rglob(".drawn-*") for name in _packed(archive)
        }
        build(folder, given, batch=batch, stub=second)
        assert files(folder) == whole
        assert len(second.drawn) <= len(stub.drawn) - len(there)


def _packed(archive: Path) -> list[str]:
    return zipfile.ZipFile(archive).namelist()


def test_an_archive_of_a_killed_batch_gives_only_pictures_of_the_plan(tmp_path):
    pairs = drawn_pairs(prompts(), 1)
    (tmp_path / "pictures").mkdir()
    with zipfile.ZipFile(tmp_path / "pictures" / ".drawn-a", "w") as archive:
        archive.writestr("../../out.jpg", b"x")
        archive.writestr("dataset.json", b"x")
        archive.writestr(Path(pairs[0].pictures[0]).name, b"\xff\xd8 \xff\xd9")
    (tmp_path / "pictures" / ".drawn-b").write_bytes(b"no archive")
    finish_batches(tmp_path, pairs)
    assert sorted(files(tmp_path)) == [pairs[0].pictures[0]]


def killed_batch(folder: Path, **options) -> tuple[list, Path, dict[str, bytes]]:
    """Pairs, and the archive of a batch of two of their pictures on its way into its files."""
    pairs = drawn_pairs(prompts(), 1)
    path = folder / "pictures" / ".drawn-a"
    path.parent.mkdir(parents=True)
    packed = {pairs[n].pictures[0]: b"\xff\xd8 a picture \xff\xd9" * 3 for n in range(2)}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in packed.items():
            archive.writestr(zipfile.ZipInfo(Path(name).name), content, options.get("compression"))
    return pairs, path, packed


def test_damaged_bits_of_a_killed_batchs_archive_are_met(tmp_path):
    """Whatever zipfile makes of it: a picture as it was drawn, or none, and the build goes on."""
    pairs, path, packed = killed_batch(tmp_path / "whole")
    content, directory = path.read_bytes(), path.read_bytes().index(b"PK\x01\x02")
    bits = {*range(8 * (directory + 8), 8 * (directory + 12)), *range(8 * 6, 8 * 10)}  # flags and methods
    for at in sorted(bits | set(random.Random(0).sample(range(8 * len(content)), 400))):
        folder, (place, bit) = tmp_path / "folder", divmod(at, 8)
        (folder / "pictures").mkdir(parents=True)
        damaged = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        (folder / "pictures" / ".drawn-a").write_bytes(damaged)
        finish_batches(folder, pairs)
        found = files(folder)
        assert found.items() <= packed.items() and not (folder / "pictures" / ".drawn-a").exists()
        shutil.rmtree(folder)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_that_unpacks_to_more_is_none_of_ours(tmp_path, compression):
    pairs, path, _ = killed_batch(tmp_path, compression=compression)
    finish_batches(tmp_path, pairs)
    assert files(tmp_path) == {} and not path.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_in_an_archives_place_is_no_obstacle(tmp_path):
    pairs, path, _ = killed_batch(tmp_path)
    path.rename(tmp_path / "elsewhere")
    os.mkfifo(path)  # reading it would wait for ever
    path.with_name(".drawn-b").symlink_to(tmp_path / "elsewhere")
    path.with_name(".drawn-c").mkdir()
    finish_batches(tmp_path, pairs)
    assert [*files(tmp_path)] == ["elsewhere"]


def test_a_finished_set_is_left_as_it_is(tmp_path):
    build(tmp_path)
    before, stub = files(tmp_path), Stub()
    assert build(tmp_path, stub=stub).made == 0
    assert files(tmp_path) == before and stub.drawn == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"given": prompts(scenes=7)}, "the prompts"),
        ({"made": {"model": "b", "steps": 3}}, "the model"),
        ({"made": {"model": "a", "steps": 9}}, r"steps \(3 there, 9 now\)"),
        ({"seed": 2}, "seed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_request_is_refused_and_changes_nothing(tmp_path, change, words):
    build(tmp_path)
    before = files(tmp_path)
    with pytest.raises(PSAError, match=f"holds another data set. What differs: .*{words}"):
        build(tmp_path, **change)
    assert files(tmp_path) == before


def test_a_folder_of_something_else_and_one_in_use_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(PSAError, match=r"holds a.txt, and no dataset.json"):
        build(tmp_path)

    class Meanwhile(Stub):
        def draw(self, *given):
            with pytest.raises(PSAError, match="Another process is building"):
                build(tmp_path / "used")
            return super().draw(*given)

    build(tmp_path / "used", prompts(1, 1, 0), batch=8, stub=Meanwhile())


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on files' sizes")
def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path):
    build(tmp_path / "whole")
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (1200, 5000, 12000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            with pytest.raises(PSAError, match="cannot be written"):
                build(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    build(tmp_path / "full")
    assert files(tmp_path / "full") == files(tmp_path / "whole")


class Judge:
    """Finds the concept where the picture's prompt has it, apart from the pairs that it is told to doubt."""

    name, hears_viewer = "stub", True

    def __init__(self, missing=(), extra=(), fails_at: int | None = None) -> None:
        self.missing, self.extra, self.asked, self.fails_at = missing, extra, 0, fails_at

    def identity(self) -> str:
        return "stub"

    def check(self, captions) -> None:
        assert captions

    def judge(self, pictures, questions, tell=tell_nobody):
        verdicts = []
        for number, question in enumerate(questions):
            if self.fails_at is not None and self.asked == self.fails_at:
                raise PSAError("The judge is away.")
            self.asked += 1
            found = ("thing" in question.caption and question.caption not in self.missing) or (
                question.caption in self.extra
            )
            verdicts.append(Verdict(found, None, None, 0.0))
            tell(number, verdicts[-1])
        return verdicts


def test_pairs_that_contradict_their_prompts_are_set_aside(tmp_path):
    given = prompts(2, 4, 3)
    missing, extra, harmful = given[0].shows, given[5].without, given[-1].shows
    built = build(tmp_path, given, judge=Judge((missing,), (extra, harmful)))
    assert len(built.aside) == 3
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    reasons = {line["shows"]: line["set_aside"] for line in lines if line["set_aside"]}
    assert set(reasons) == {missing, given[5].shows, harmful}
    assert "does not find" in reasons[missing] and "harmless" in reasons[harmful]
    captions = {r.caption for name in ("train", "val", "test_seen") for r in read_split(tmp_path, name)}
    assert missing not in captions and not list(tmp_path.glob(".answers*"))


def test_a_judges_answers_are_kept_until_the_lists_are_written(tmp_path):
    given = prompts(2, 4, 3)
    with pytest.raises(PSAError, match="The judge is away"):
        build(tmp_path / "set", given, judge=Judge(fails_at=20))
    assert (tmp_path / "set" / ".answers").is_file() and not (tmp_path / "set" / "pairs.jsonl").exists()
    second, stub = Judge(), Stub()
    build(tmp_path / "set", given, judge=second, stub=stub)
    assert second.asked == 2 * 16 + 3 - 20 and stub.drawn == []
    with pytest.raises(PSAError, match="every pair of the split 'train'"):
        build(tmp_path / "none", given, judge=Judge(tuple(pair.shows for pair in given)))


def test_sages_form_has_the_same_records(tmp_path):
    build(tmp_path)
    count = write_sage_form(tmp_path)
    assert write_sage_form(tmp_path) == count
    total = 0
    for name in SPLITS:
        compact, sage = list(read_split(tmp_path, name)), read_sage_split(tmp_path, name)
        total += len(sage)
        assert [r.profile for r in sage] == [r.profile for r in compact] and not sage.bans["contradicted"]
        for ours, theirs in zip(sage, compact, strict=True):
            assert ours.chosen.read_bytes() == theirs.chosen.read_bytes()
            assert ours.rejected.read_bytes() == theirs.rejected.read_bytes()
            assert (ours.caption, ours.category) == (theirs.caption, theirs.category)
    assert total == count


def test_existing_pictures_are_imported(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["shows,without,category,concept,prompt"]
    for number in range(12):
        for which in ("a", "b"):
            pixels = rng.integers(0, 255, (70, 70, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{which}{number}.png")
        rows.append(f"a{number}.png,b{number}.png,violence,knife,a kitchen {number} with a knife")
    rows.append(",b0.png,harmless,,a kitchen")
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(rows) + "\n")
    imported = read_picture_list(listed)
    assert len(imported) == 13 and imported[0].pair.asked == "named" and imported[-1].pair.category is None
    planned = plan([each.pair for each in imported], USERS, 1)
    build_dataset(tmp_path / "set", planned, USERS, 1, imported)
    record = read_split(tmp_path / "set", "train")[0]
    number = record.caption.split()[2]
    assert record.rejected.read_bytes() in {(tmp_path / f"{which}{number}.png").read_bytes() for which in "ab"}
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["pictures"] == "imported"
    for odd, words in {
        "../a0.png,b0.png,violence,knife,x": "leads out",
        "a0.png,b99.png,violence,knife,x": "no file",
        "a0.png,b0.png,fun,knife,x": "none of the seven",
        "a0.png,b0.png,violence,,x": "'concept'",
        "a0.png,a0.png,violence,knife,x": "both pictures are the same",
        "list.csv,b0.png,violence,knife,x": "does not end in",
        "a0.png,b0.png,violence,knife,": "'prompt'",
        "a0.png,b0.png,,knife,x": "a harmless scene has one picture and no concept",
        "a0.png,,,knife,x": "a harmless scene has one picture and no concept",
        "a0.png,b0.png,harmless,,x": "a harmless scene has one picture and no concept",
    }.items():
        listed.write_text(f"{rows[0]}\n{odd}\n")
        with pytest.raises(PSAError, match=f"row 1: .*{words}"):
            read_picture_list(listed)


@pytest.mark.parametrize("name", ["Prompt_Without", "prompt without", "promptWithout", "prompt-without"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_prompt_without_is_read_by_its_name_and_by_no_other_is_it_ignored(tmp_path, name, ending):
    for seed, file in enumerate("ab"):
        picture(tmp_path / f"{file}.png", seed)
    row = {"shows": "a.png", "without": "b.png", "category": "violence", "concept": "knife", "prompt": "a knife"}
    listed = tmp_path / f"list.{ending}"

    def write(row: dict[str, str]) -> None:
        lines = [json.dumps(row)] if ending == "jsonl" else [",".join(row), ",".join(row.values())]
        listed.write_text("".join(f"{line}\n" for line in lines))

    write(row | {"prompt_without": "a table", "my notes": "x"})
    assert read_picture_list(listed)[0].pair.without == "a table"
    write(row | {name: "a table"})
    with pytest.raises(PSAError, match=f"row 1: it has '?{name}'?, which is not read. Call it prompt_without"):
        read_picture_list(listed)
    for wrong in ("a table with a Knife", "a knife"):
        write(row | {"prompt_without": wrong})
        with pytest.raises(PSAError, match="row 1: its prompt_without names the concept"):
            read_picture_list(listed)
    for value in ([], 0, False) if ending == "jsonl" else ():
        write(row | {"category": value})  # type: ignore[dict-item]
        with pytest.raises(PSAError, match="its values must be texts"):
            read_picture_list(listed)


def picture(path: Path, seed: int, **options) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (70, 70, 3), np.uint8)).save(path, **options)


def import_list(folder: Path, rows: list[str], name: str = "set", seed: int = 1):
    (folder / "list.csv").write_text("\n".join(["shows,without,category,concept,prompt", *rows]) + "\n")
    imported = read_picture_list(folder / "list.csv")
    looks = {each.pair.id: each.looks for each in imported}
    planned = plan([each.pair for each in imported], USERS, seed, looks)
    built = build_dataset(folder / name, planned, USERS, seed, imported)
    return planned, built


def test_imported_pairs_that_share_a_picture_stay_together(tmp_path):
    """Whatever its file is called and however it holds the pixels; pictures of one colour have nothing in common."""
    rows = []
    for number in range(24):
        picture(tmp_path / f"a{number}.png", number)
        shared = number % 8  # three pairs each have the same picture without, once as BMP
        picture(tmp_path / f"b{number}.{'bmp' if number > 15 else 'png'}", 100 + shared)
        Image.new("RGB", (70, 70), "black").save(tmp_path / f"c{number}.png")
        ending = "bmp" if number > 15 else "png"
        rows.append(f"a{number}.png,b{number}.{ending},violence,knife,a kitchen {number} with a knife")
    rows += [f",a{number}.png,harmless,,a scene {number}" for number in range(24)]
    rows += [f"c{number}.png,b{number}.png,hate,flag,a black room {number} with a flag" for number in range(2)]
    planned, _ = import_list(tmp_path, rows)
    assert planned.splits["train"] and planned.splits["val"] and planned.splits["test_unseen"]
    where: dict[int, set[str]] = {}
    for name in ("train", "val", "test_seen", "test_unseen"):
        for pair in planned.splits[name]:
            number = int(next(word for word in pair.shows.split() if word.isdecimal()))
            where.setdefault(number % 8, set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert not [found for found in check_dataset(tmp_path / "set").findings if found.kind == "leakage"]


def test_pictures_of_all_kinds_that_training_reads_are_imported_once(tmp_path):
    """With bytes behind a JPEG's end, and with a name that says another kind."""
    rows = []
    kinds = {"jpg": "JPEG", "jpeg": "GIF", "JPG": "BMP", "tif": "TIFF", "gif": "GIF", "bmp": "BMP", "webp": "WEBP"}
    for number, (ending, kind) in enumerate([*kinds.items(), ("tiff", "TIFF")]):
        for which in ("a", "b"):
            picture(tmp_path / f"{which}{number}.{ending}", 10 * number + (which == "a"), format=kind)
        rows.append(f"a{number}.{ending},b{number}.{ending},violence,knife,a kitchen {number} with a knife")
    with open(tmp_path / "a0.jpg", "ab") as file:
        file.write(b"behind the end")
    _, built = import_list(tmp_path, rows)
    assert built.made == 16
    assert import_list(tmp_path, rows)[1].made == 0
    sheet = Image.open(tmp_path / "set" / "contact_sheet.png")
    assert sheet.height > 3 * 192  # 16 pictures, six in a row


def test_a_source_that_changed_since_it_was_listed_is_no_picture_of_the_set(tmp_path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png", ord(name))
    rows = ["a.png,b.png,violence,knife,a knife"]
    (tmp_path / "list.csv").write_text("\n".join(["shows,without,category,concept,prompt", *rows]) + "\n")
    imported = read_picture_list(tmp_path / "list.csv")
    picture(tmp_path / "a.png", 99)
    planned = plan([each.pair for each in imported], USERS, 1)
    with pytest.raises(PSAError, match=r"a\.png has changed since the list was read"):
        build_dataset(tmp_path / "set", planned, USERS, 1, imported)


def test_the_check_finds_no_leak_in_what_is_built(tmp_path):
    build(tmp_path)
    result = check_dataset(tmp_path)
    assert not [finding for finding in result.findings if finding.kind in ("leakage", "unreadable")], result.findings


def test_the_check_knows_which_concepts_are_held_out(tmp_path):
    """A pair of a held-out concept that somebody moves into what is trained on is found."""
    build(tmp_path)
    told = json.loads((tmp_path / "dataset.json").read_text())["held_out_concepts"]
    assert set(told) == {"Violence", "Hate"} and all(len(names) == 1 for names in told.values())
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    moved = next(pair["id"] for pair in pairs if pair["concept"] in told["Hate"])
    with open(tmp_path / "train" / "pairs.jsonl", "a") as file:
        file.write(json.dumps({"pair": moved}) + "\n")
    found = [finding for finding in check_dataset(tmp_path).findings if finding.kind == "leakage"]
    assert "concepts" in {finding.what for finding in found}


class Processes:
    """One of several that build together."""

    def __init__(self, rank: int, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes, self.is_main_process = rank, barrier.parties, rank == 0
        self.wait_for_everyone = barrier.wait


@pytest.mark.parametrize("batch", [1, 3])
def test_several_processes_draw_their_shares_of_the_same_set(tmp_path, batch):
    build(tmp_path / "alone", batch=batch)
    barrier, stubs = threading.Barrier(3, timeout=100), [Stub() for _ in range(3)]

    def share(rank: int) -> int:
        return build(tmp_path / "shared", batch=batch, stub=stubs[rank], processes=Processes(rank, barrier)).made

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(share, range(3)))
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert sum(made) == 2 * 60 + 4 and min(made) > 30
    assert made == [len(stub.drawn) for stub in stubs]


def test_a_list_that_is_lost_or_cut_is_told(tmp_path):
    """What the check and a reader say, before the same build mends it."""
    build(tmp_path)
    users = (tmp_path / "users.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "users.jsonl").write_text("".join(users[:-1]))
    found = check_dataset(tmp_path)
    assert found.passed and any("other users than dataset.json" in each.sentence for each in found.findings)
    (tmp_path / "users.jsonl").write_text("".join(users))
    shutil.rmtree(tmp_path / "val")
    found = check_dataset(tmp_path)
    assert not found.passed and any("no list of the split 'val'" in each.sentence for each in found.findings)
    build(tmp_path)
    assert check_dataset(tmp_path).passed


def test_a_set_that_is_not_finished_says_so(tmp_path):
    build(tmp_path)
    (tmp_path / "pairs.jsonl").unlink()
    for name in SPLITS:
        shutil.rmtree(tmp_path / name)
    for read in (check_dataset, lambda folder: read_split(folder, "train")):
        with pytest.raises(PSAError, match=r"is not finished.*Build it again"):
            read(tmp_path)
