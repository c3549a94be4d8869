"""What is said of a data set may change, and its pictures stay: its lists are written anew, all of them or none."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import killed_builds
import numpy as np
import pytest
from building import prompt_pairs
from pair_sets import take_out
from PIL import Image

from psa_core import PSAError
from psa_core.build import Drawing, Said, build_dataset, drawn_pairs, plan
from psa_core.build import folder as folder_module
from psa_core.build.folder import GIVEN, VIRTUAL
from psa_core.build.plan import SPLITS, check_leakage
from psa_core.build.sage_form import write_sage_form
from psa_core.commands.build_dataset import _Drawer
from psa_core.dataset import read_split
from psa_core.dataset.answers import JUDGED
from psa_core.dataset.check import check_dataset, split_names
from psa_core.dataset.sage import read_sage_split
from psa_core.encoders.structured import StructuredEncoder
from psa_core.errors import EmptySplitError
from psa_core.generate.painter import Settings, TooLittleMemoryError
from psa_core.judges.judging import Verdict, tell_nobody
from psa_core.population import sample_users, seed_of
from psa_core.review import AnswerBook, Review
from psa_core.training.assembly import read_splits

USERS, OTHERS = sample_users(10, 3), sample_users(9, 4)


class Stub:
    """Draws noise that follows from prompt, seed and how many are drawn at once; notes what it drew."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.drawn: list[str] = []
        self.fails_at = fails_at

    def draw(self, prompts, seeds):
        if self.fails_at is not None and len(self.drawn) >= self.fails_at:
            raise PSAError("There is not enough memory.")
        self.drawn += prompts
        each = zip(prompts, seeds, strict=True)
        rngs = [np.random.default_rng([seed, len(prompt), len(prompts)]) for prompt, seed in each]
        return [Image.fromarray(rng.integers(0, 255, (72, 72, 3), np.uint8)) for rng in rngs]


class Judge:
    """Finds the concept where the prompt has it, but in the pairs of `missing`; and in those of `harmful`."""

    name, hears_viewer = "stub", True

    def __init__(self, missing=(), identity: str = "stub", harmful=()) -> None:
        self.missing, self.known_as, self.checked, self.harmful = missing, identity, 0, harmful

    def identity(self) -> str:
        return self.known_as

    def check(self, captions) -> None:
        self.checked += 1

    def judge(self, pictures, questions, tell=tell_nobody):
        verdicts = []
        for number, about in enumerate(questions):
            found = ("thing" in about.caption and about.caption not in self.missing) or about.caption in self.harmful
            bans = any(category in about.profile.banned_categories for category in about.categories)
            verdicts.append(Verdict(found, None, None, float(number % 2 == 0) * (-1.0 if bans else 1.0)))
            tell(number, verdicts[-1])
        return verdicts


def build(folder: Path, users=USERS, stub=None, batch: int = 4, mixed: bool = False, given=None, seed=1, **options):
    planned = plan(drawn_pairs(given or prompt_pairs(), seed), users, seed)
    drawing = Drawing({"model": "a", "batch_size": batch}, lambda: stub or Stub(), batch, mixed)
    return build_dataset(folder, planned, users, seed, drawing, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def what_is_read(folder: Path) -> dict:
    """All that a data set says to those who read it."""
    names = split_names(folder)
    read = {name: [(r.profile, r.caption, r.chosen.name, r.rejected.name) for r in read_split(folder, name)]
            for name in names}  # fmt: skip
    return {**read, "told": json.loads((folder / "dataset.json").read_text())}


CHANGES = {
    "users": {"users": OTHERS},
    "one user": {"users": USERS[:2]},
    "licence": {"said": Said("CC0-1.0")},
    "rules": {"said": Said(rules="sage")},
    "a judge": {"judge": Judge((prompt_pairs()[0].shows,))},
    "labels": {"judge": Judge(), "labels": "judge"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_what_is_said_may_change_and_nothing_is_drawn_again(tmp_path, change, finished):
    first = Stub(fails_at=None if finished else 60)
    try:
        build(tmp_path / "set", stub=first)
    except PSAError:
        assert not finished
    stub = Stub()
    built = build(tmp_path / "set", stub=stub, **change)
    assert len(stub.drawn) == 83 - len(first.drawn) and built.changed
    assert any("has changed" in note and "the pictures" not in note for note in built.notes())
    build(tmp_path / "fresh", **change)
    assert files(tmp_path / "set") == files(tmp_path / "fresh")
    assert not build(tmp_path / "set", **change).changed
    assert not [found for found in check_dataset(tmp_path / "set").findings if found.kind != "note"]


def test_answers_by_hand_and_what_somebody_wrote_down_stay(tmp_path):
    build(tmp_path)
    told = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**told, "licence": "CC0-1.0", "author": "me"}))
    review = Review(read_split(tmp_path, "train", answers=False), AnswerBook(tmp_path))
    state = review.state()
    review.answer(state["question"]["number"], state["question"]["token"], "bad", state["seen"])
    by_hand = (tmp_path / "answers.jsonl").read_bytes()
    assert not build(tmp_path).changed
    assert build(tmp_path, users=OTHERS).changed == ["the users"]
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert (told["licence"], told["author"]) == ("CC0-1.0", "me")
    assert (tmp_path / "answers.jsonl").read_bytes() == by_hand
    assert any("by hand" in note for note in read_split(tmp_path, "train").notes)
    assert build(tmp_path, users=OTHERS, said=Said("CC-BY-4.0")).changed == ["licence (CC0-1.0 there, CC-BY-4.0 now)"]


def test_sages_form_of_other_users_goes(tmp_path):
    build(tmp_path)
    write_sage_form(tmp_path)
    (tmp_path / "train" / "mine.txt").write_text("a note")
    build(tmp_path, users=OTHERS)
    assert not list(tmp_path.rglob("metadata.jsonl")) and not list(tmp_path.rglob("user_*"))
    assert (tmp_path / "train" / "mine.txt").read_text() == "a note"
    write_sage_form(tmp_path)
    ids = {user.user_id for user in OTHERS}
    assert {record.profile.user_id for record in read_sage_split(tmp_path, "train")} <= ids


def test_sages_form_follows_answers_by_hand(tmp_path):
    build(tmp_path)
    before = write_sage_form(tmp_path)
    take_out(tmp_path, "train", 1)
    after = write_sage_form(tmp_path)
    assert after == before - 8  # by the eight of ten users who are trained on
    for name in SPLITS:
        named = {path for record in read_sage_split(tmp_path, name) for path in (record.chosen, record.rejected)}
        assert named == {path for path in (tmp_path / name).iterdir() if path.suffix != ".jsonl"}
        ours, theirs = read_split(tmp_path, name), read_sage_split(tmp_path, name)
        assert [each.caption for each in theirs] == [each.caption for each in ours]
        for one, other in zip(theirs, ours, strict=True):
            assert one.chosen.read_bytes() == other.chosen.read_bytes()
    take_out(tmp_path, "val")
    write_sage_form(tmp_path)
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["pairs.jsonl"]
    assert (tmp_path / "train" / "metadata.jsonl").exists()


def test_a_name_in_sages_form_is_no_picture_of_an_earlier_list(tmp_path):
    build(tmp_path)
    write_sage_form(tmp_path)
    pairs = (tmp_path / "train" / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train" / "pairs.jsonl").write_text("".join(reversed(pairs)))
    write_sage_form(tmp_path)
    for ours, theirs in zip(read_split(tmp_path, "train"), read_sage_split(tmp_path, "train"), strict=True):
        assert ours.chosen.read_bytes() == theirs.chosen.read_bytes()
        assert ours.rejected.read_bytes() == theirs.rejected.read_bytes()


def test_a_split_of_which_nothing_is_left_is_left_out(tmp_path):
    """Where it was not asked for by name: the harmless scenes, and what a build measures on."""
    harmless = [pair.shows for pair in prompt_pairs() if pair.category is None]
    build(tmp_path, judge=Judge(harmful=harmless))
    splits = read_splits(tmp_path, StructuredEncoder())
    assert splits.harmless is None and len(splits.train)
    with pytest.raises(EmptySplitError, match=r"All \d+ picture pairs of the split 'harmless' .* are set aside"):
        read_splits(tmp_path, StructuredEncoder(), harmless="harmless")
    take_out(tmp_path, "val")
    with pytest.raises(EmptySplitError, match="taken out by hand"):
        read_split(tmp_path, "val")


def test_answers_of_a_judge_that_are_cut_are_told_and_written_again(tmp_path):
    build(tmp_path, judge=Judge(), labels="judge")
    before, whole = files(tmp_path), (tmp_path / JUDGED).read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (b"", b"".join(lines[:-1]), b"".join(lines[: len(lines) // 2]), whole[: len(whole) // 2], whole[:-5]):
        (tmp_path / JUDGED).write_bytes(cut)
        with pytest.raises(PSAError, match="is not there, or not all of it"):
            read_split(tmp_path, "train")
        assert not check_dataset(tmp_path).passed
        stub = Stub()
        build(tmp_path, stub=stub, judge=Judge(), labels="judge")
        assert files(tmp_path) == before and not stub.drawn
    (tmp_path / JUDGED).write_bytes(whole[:-1])  # as editors save
    assert len(read_split(tmp_path, "train"))
    told = json.loads(before["dataset.json"])
    for lists in ({}, {"lists": "lost"}, {"lists": {JUDGED: "1"}}):  # of an earlier version, or by somebody
        (tmp_path / "dataset.json").write_text(json.dumps({**told, "lists": {}} | lists))
        assert len(read_split(tmp_path, "train"))


@pytest.mark.parametrize("name", ["users.jsonl", "train/pairs.jsonl"])
def test_lines_that_are_there_no_more_are_told(tmp_path, name):
    """Somebody may have taken them out, so they stay out."""
    build(tmp_path)
    lines = (tmp_path / name).read_text().splitlines(keepends=True)
    (tmp_path / name).write_text("".join(lines[: len(lines) // 2]))
    (note,) = (note for note in read_split(tmp_path, "train").notes if "lines" in note)
    assert f"{name} has {len(lines) // 2} of the {len(lines)} lines" in note
    assert note in [finding.sentence for finding in check_dataset(tmp_path).findings]
    before = files(tmp_path)
    build(tmp_path)
    assert files(tmp_path) == before
    (tmp_path / name).write_text("".join(lines)[:-1])  # as editors save
    assert not read_split(tmp_path, "train").notes
    (tmp_path / name).unlink()
    build(tmp_path)
    assert (tmp_path / name).read_text() == "".join(lines) and not read_split(tmp_path, "train").notes


def test_a_split_whose_users_are_lost_is_not_said_to_be_set_aside(tmp_path):
    aside = next(pair.shows for pair in plan(drawn_pairs(prompt_pairs(), 1), USERS, 1).splits["test_unseen"])
    build(tmp_path, judge=Judge((aside,)))
    users = [json.loads(line) for line in (tmp_path / "users.jsonl").read_text().splitlines()]
    kept = [json.dumps(user) + "\n" for user in users if user["Splits"] != ["test_unseen"]]
    (tmp_path / "users.jsonl").write_text("".join(kept))
    with pytest.raises(PSAError, match=r"Check its pairs\.jsonl and users\.jsonl") as caught:
        read_split(tmp_path, "test_unseen")
    assert not isinstance(caught.value, EmptySplitError) and not check_dataset(tmp_path).passed


def test_a_description_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_DESCRIPTION", 200)
    stub = Stub()
    with pytest.raises(PSAError, match="Use fewer concepts"):
        build(tmp_path, stub=stub)
    assert not stub.drawn and not (tmp_path / "dataset.json").exists()


class KilledError(BaseException):
    """Nothing in the pack catches it."""


def test_a_rewriting_that_is_stopped_anywhere_leaves_the_old_set_or_the_new_one(tmp_path, monkeypatch):
    given = prompt_pairs(("Hate",), 5, 2, 1)
    after = {"given": given, "users": USERS[:1], "said": Said("CC0-1.0")}  # splits go with the users
    build(tmp_path / "old", given=given)
    build(tmp_path / "new", **after)
    old, new = (what_is_read(tmp_path / name) for name in ("old", "new"))
    assert set(new) - set(old) and set(old) - set(new)
    real, found = {name: getattr(os, name) for name in ("replace", "unlink", "rmdir")}, set()
    for moment in range(10_000):
        folder, count = tmp_path / str(moment), 0
        subprocess.run(["cp", "-r", tmp_path / "old", folder], check=True)

        def dying(name):
            def call(*arguments, **options):
                nonlocal count
                if count == moment:  # noqa: B023
                    raise KilledError
                count += 1
                return real[name](*arguments, **options)

            return call

        for name in real:
            monkeypatch.setattr(os, name, dying(name))
        try:
            build(folder, **after)
            killed = False
        except KilledError:
            killed = True
        for name in real:
            monkeypatch.setattr(os, name, real[name])
        now = what_is_read(folder)
        assert now in (old, new), f"a mix after {moment} steps"
        found.add(now == new)
        build(folder, **after)
        left = {name: content for name, content in files(folder).items() if ".part-" not in name}  # this process lives
        assert left == files(tmp_path / "new")
        if not killed:
            break
    assert found == {True, False} and moment > 10


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_kill_9_while_lists_are_rewritten_leaves_one_set_or_the_other(tmp_path):
    rng, seen = random.Random(0), set()
    folder, environment = tmp_path / "set", {**os.environ, "OMP_NUM_THREADS": "1"}
    killed_builds.rewrite(folder, 1)
    sets = []
    for turn in (0, 1):
        began = time.monotonic()
        killed_builds.rewrite(tmp_path / f"{turn}", 1 + turn)
        sets.append(what_is_read(tmp_path / f"{turn}"))
    two_turns, kills = time.monotonic() - began, 0
    while kills < 10 or (seen != {0, 1} and kills < 50):
        started = tmp_path / "started"
        started.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, killed_builds.__file__, str(folder), "rewrite", str(started)], env=environment
        )
        while process.poll() is None and not started.exists():
            time.sleep(0.005)
        time.sleep(rng.random() * two_turns)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = what_is_read(folder)
        assert now in sets
        seen.add(sets.index(now))
        kills += 1
    assert seen == {0, 1}


def test_lists_that_a_strangers_data_set_brings_along_stay_inside_it(tmp_path):
    build(tmp_path / "mine")
    before = files(tmp_path / "mine")
    build(tmp_path / "theirs")
    ready = tmp_path / "theirs" / ".lists"
    for name in ("val", "test_seen", "pictures", ".hidden"):
        (ready / name).mkdir(parents=True)
        (ready / name / "pairs.jsonl").write_text("")
    (ready / "note.txt").write_text("mine")
    (tmp_path / "theirs" / "val" / "pairs.jsonl").unlink()
    (tmp_path / "theirs" / "val").rmdir()
    (tmp_path / "theirs" / "val").symlink_to(tmp_path / "mine" / "val")
    gone = ["../mine/pairs.jsonl", "val/pairs.jsonl", "pictures/../../mine/users.jsonl", "val/../users.jsonl"]
    (ready / ".gone").write_text(json.dumps([*gone, 7, "/etc"]))
    read_split(tmp_path / "theirs", "train")
    assert files(tmp_path / "mine") == before
    assert not ready.exists() and not (tmp_path / "theirs" / ".hidden").exists()
    assert (tmp_path / "theirs" / "users.jsonl").exists() and not (tmp_path / "theirs" / "note.txt").exists()


def test_another_batch_size_goes_on_where_that_is_said(tmp_path):
    first = Stub(fails_at=20)
    with pytest.raises(PSAError, match="not enough memory"):
        build(tmp_path, stub=first)
    with pytest.raises(PSAError, match=r"batch_size \(4 there, 2 now\)\. .* --mixed-batches"):
        build(tmp_path, batch=2)
    there, second = files(tmp_path), Stub(fails_at=10)
    with pytest.raises(PSAError, match="not enough memory"):
        build(tmp_path, batch=2, mixed=True, stub=second)
    assert json.loads((tmp_path / "dataset.json").read_text())["batch_size"] == [4, 2]
    with pytest.raises(PSAError, match=r"batch_size"):  # also as it was begun: the two stand side by side by now
        build(tmp_path)
    build(tmp_path, batch=2, mixed=True, stub=Stub())
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert told["batch_size"] == [4, 2]
    assert all(files(tmp_path)[name] == content for name, content in there.items() if name.startswith("pictures/"))
    with pytest.raises(PSAError, match=r"the model"):
        planned = plan(drawn_pairs(prompt_pairs(), 1), USERS, 1)
        build_dataset(tmp_path, planned, USERS, 1, Drawing({"model": "b", "batch_size": 2}, Stub, 2, True))


def test_a_judge_that_does_not_know_the_categories_is_refused_before_anything_is_drawn(tmp_path):
    class Narrow(Judge):
        categories = ("Hate",)

    stub = Stub()
    with pytest.raises(PSAError, match="knows Hate alone, and would set every pair of Violence aside"):
        build(tmp_path / "set", stub=stub, judge=Narrow())
    assert not stub.drawn and not (tmp_path / "set").exists()
    build(tmp_path / "set", given=prompt_pairs(("Hate",)), judge=Narrow())


def test_a_finished_set_needs_its_judge_no_more(tmp_path):
    build(tmp_path, judge=Judge())

    class Away(Judge):
        def check(self, captions) -> None:
            raise PSAError("The judge is away.")

    before = files(tmp_path)
    build(tmp_path, judge=Away())
    assert files(tmp_path) == before
    with pytest.raises(PSAError, match="away"):
        build(tmp_path, judge=Away(), users=OTHERS)
    assert files(tmp_path) == before


def test_after_a_judge_that_sets_all_aside_comes_another_or_none(tmp_path):
    strict, stub = Judge([pair.shows for pair in prompt_pairs()], "strict"), Stub()
    with pytest.raises(PSAError, match="take another judge or none: the pictures stay"):
        build(tmp_path, judge=strict, stub=stub)
    assert len(stub.drawn) == 83
    built = build(tmp_path, stub=stub)
    assert len(stub.drawn) == 83 and not built.aside and not list(tmp_path.glob(".answers*"))


def test_whether_people_are_virtual_is_said_where_it_is_known(tmp_path):
    """Drawn people are known by the seed that draws them, whatever they ban; of others their giver is to say."""
    real = [replace(user, age=40 + number % 3) for number, user in enumerate(USERS)]
    assert seed_of(USERS) == 3 and seed_of(real) is None
    assert seed_of([replace(user, banned_categories=()) for user in USERS[::-1]]) == 3
    assert seed_of(USERS[:5]) is None  # so few may be real ones that look so
    far = sample_users(8, 10**6)
    assert seed_of(far) is None and seed_of(far, [10**6]) == 10**6
    assert build(tmp_path / "drawn").people == VIRTUAL
    built = build(tmp_path / "given", users=real)
    told = json.loads((tmp_path / "given" / "dataset.json").read_text())
    assert built.people == told["people"] == GIVEN and "virtual" not in told["people"]
    assert build(tmp_path / "few", users=USERS[:5], said=Said(virtual=True)).people == VIRTUAL


def test_lists_that_leak_are_not_written(tmp_path):
    planned = plan(drawn_pairs(prompt_pairs(), 1), USERS, 1)
    check_leakage(planned)
    moved = planned.splits["val"][0]
    leaking = {
        "prompts": replace(planned, splits={**planned.splits, "train": [*planned.splits["train"], moved]}),
        "users": replace(planned, users=[(user, SPLITS) for user, _ in planned.users]),
        "concepts": replace(planned, held_out={moved.category: [moved.concept]}),
        "pictures": replace(planned, looks={moved.id: (1, 2), planned.splits["train"][0].id: (2, 3)}),
    }
    for what, leaks in leaking.items():
        with pytest.raises(PSAError, match=f"would be trained on: .*{what}"):
            build_dataset(tmp_path / what, leaks, USERS, 1, Drawing({}, Stub, 4))
        assert not (tmp_path / what / "pairs.jsonl").exists()


def test_too_little_memory_is_told_with_what_goes_on():
    class Full:
        def draw(self, prompts, *_):
            raise TooLittleMemoryError(f"There is not enough GPU memory for {len(prompts)} pictures at once.")

    drawer = _Drawer(Full(), Settings())
    with pytest.raises(PSAError, match=r"for 4 pictures at once\. .* smaller --batch-size and --mixed-batches"):
        drawer.draw(["a"] * 4, [1] * 4)
    with pytest.raises(TooLittleMemoryError):  # there is no smaller one
        drawer.draw(["a"], [1])
