"""Review by hand: the questions, the answers on disk, and what they do to a data set that is read."""

import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pair_sets import write_pair_set
from tiny_training import QUICK, dataset, user, write_split

from psa_core import PSAError
from psa_core.dataset import read_split
from psa_core.dataset.answered import with_answers
from psa_core.dataset.answers import ANSWERS, JUDGED, Answer, each_answer, read_on, standing
from psa_core.dataset.check import check_dataset
from psa_core.dataset.pair_files import write_users
from psa_core.review import AnswerBook, AnsweredMeanwhileError, OutdatedError, Review
from psa_core.training import TrainConfig


@pytest.fixture(params=["sage", "compact"])
def data(request, tmp_path: Path) -> Path:
    """12 records of 4 users, of whom two ban Violence: in Sage's form 12 pairs of pictures, in the compact one 3."""
    if request.param == "sage":
        write_split(tmp_path, "train", range(4), 12)
    else:
        write_pair_set(tmp_path, {"train": (range(4), 3)})
    return tmp_path


def review(data: Path) -> Review:
    return Review(read_split(data, "train", answers=False), AnswerBook(data))


def say(asked: Review, word: str) -> dict:
    state = asked.state()
    question = state["question"]
    asked.answer(question["number"], question["token"], word, state["seen"])
    return question


def pictures(asked: Review, question: dict) -> tuple[Path, Path]:
    """That stand left and right."""
    left, right = (asked.picture(question["number"], question["token"], side) for side in ("left", "right"))
    return left, right


def undo(asked: Review) -> None:
    state = asked.state()
    asked.answer(state["undo"]["number"], state["undo"]["token"], "undo", state["seen"])


def test_each_pair_is_asked_once_for_each_kind_of_viewer_the_pairs_in_turn(data):
    asked, split = review(data), read_split(data, "train")
    kinds = {profile.banned_categories for profile in split.profiles}
    questions = []
    while question := asked.state()["question"]:
        assert asked.state()["answered"] == len(questions)
        questions.append(question)
        say(asked, "left")
    assert asked.state() | {"undo": None} == {
        "answered": len(asked), "total": len(asked), "taken_out": 0, "question": None, "undo": None, "seen": len(asked),
    }  # fmt: skip
    met = Counter((asked._scene_id(each["number"]), tuple(each["banned"])) for each in questions)
    wanted = {(record.chosen.name, record.profile.banned_categories) for record in split}
    assert set(met.values()) == {1} and {banned for _, banned in met} == kinds
    assert (
        len(met) <= len(wanted)
        and len({asked._scene_id(each["number"]) for each in questions[: split.scenes]}) == split.scenes
    )
    assert set(questions[0]) == {"number", "token", "caption", "banned"}


def test_the_questions_and_sides_are_the_same_again_and_both_sides_come(data):
    first, second = review(data), review(data)
    sides = [first._pictures(n) for n in range(len(first))]
    assert sides == [second._pictures(n) for n in range(len(second))]
    assert len({left.name.removesuffix(".png")[-1] for left, _ in sides}) == 2  # s and u, or s(hows) and (withou)t


def test_an_answer_decides_for_all_who_ban_the_same_and_for_nobody_else(data):
    before = [(record.chosen, record.rejected) for record in read_split(data, "train")]
    asked = review(data)
    question = asked.state()["question"]
    left, right = pictures(asked, question)
    say(asked, "right")
    split = read_split(data, "train")
    decided = 0
    for record, (chosen, rejected) in zip(split, before, strict=True):
        if {record.chosen, record.rejected} == {left, right} and list(record.profile.banned_categories) == question[
            "banned"
        ]:
            assert (record.chosen, record.rejected) == (right, left)
            decided += 1
        else:
            assert (record.chosen, record.rejected) == (chosen, rejected)
    assert decided and f"by hand, {decided} records were decided and 0 taken out" in split.notes[-1]
    scenes, users, swapped = split.examples()
    for index, record in enumerate(split):
        both = split.scene(int(scenes[index])).pictures
        assert (record.chosen, record.rejected) == both[:: -1 if swapped[index] else 1]
        assert split.profiles[users[index]] == record.profile


def test_training_follows_the_answers(data):
    config = TrainConfig.from_dict(QUICK | {"flip": False})
    before = dataset(data, "train", config)
    asked, split = review(data), read_split(data, "train")
    question = asked.state()["question"]
    left, right = pictures(asked, question)
    (index, record), *_ = (
        (index, record)
        for index, record in enumerate(split)
        if {record.chosen, record.rejected} == {left, right}
        and list(record.profile.banned_categories) == question["banned"]
    )
    say(asked, "left" if record.rejected == left else "right")
    after = dataset(data, "train", config)
    assert after.id != before.id and len(after) == len(before)
    assert torch.equal(after[index, 0, 0]["latents"], before[index, 0, 0]["latents"].flip(0))
    other = next(i for i, r in enumerate(split) if {r.chosen, r.rejected} != {left, right})
    assert torch.equal(after[other, 0, 0]["latents"], before[other, 0, 0]["latents"])


@pytest.mark.parametrize("word", ["neither", "bad"])
def test_neither_and_bad_take_a_pair_out(data, word):
    asked, whole = review(data), [(r.chosen, r.caption, r.profile) for r in read_split(data, "train")]
    say(asked, "left")
    question = asked.state()["question"]
    pair = {*pictures(asked, question)}
    say(asked, word)
    split = read_split(data, "train")
    rest = [record for record in split if {record.chosen, record.rejected} == pair]
    assert len(split) == len([*split]) == len(split.examples().scenes) < len(whole)
    if word == "bad":
        assert not rest and asked._scene_id(asked.state()["question"]["number"]) != asked._scene_id(question["number"])
    else:
        assert all(list(record.profile.banned_categories) != question["banned"] for record in rest)
    assert sum(split.categories.values()) == len(split) and asked.state()["taken_out"] == 1
    with pytest.raises(IndexError):
        split[len(split)]
    with pytest.raises(IndexError):
        split[-1]


def test_undo_takes_the_last_answer_back_and_asks_again(data):
    asked = review(data)
    first, second = say(asked, "left"), say(asked, "bad")
    last = asked.state()["undo"]
    assert (last["number"], last["token"]) == (second["number"], second["token"])
    undo(asked)
    assert asked.state()["question"] == second and asked.state()["undo"]["number"] == first["number"]
    again = review(data)  # the page was closed
    undo(again)
    assert again.state()["answered"] == 0 and again.state()["undo"] is None
    assert read_split(data, "train").notes == read_split(data, "train", answers=False).notes
    assert [answer.answer for answer in each_answer(data)] == ["left", "bad", "undo", "undo"]


def test_the_last_answer_counts(data):
    asked = review(data)
    question = say(asked, "left")
    asked.answer(question["number"], question["token"], "right", asked.state()["seen"])
    (answer,) = standing(each_answer(data)).values()
    assert answer.chosen == answer.right and asked.state()["answered"] == 1


def test_two_reviews_at_once_see_each_others_answers(data):
    one, other = review(data), review(data)
    say(one, "left")
    assert other.state()["answered"] == 1
    say(other, "right")
    assert one.state()["answered"] == 2 and len([*each_answer(data)]) == 2


@pytest.mark.parametrize("word", ["right", "undo"])
def test_what_somebody_else_has_said_meanwhile_is_not_overruled_unawares(data, word):
    one, other = review(data), review(data)
    say(one, "bad")
    seen = other.state()
    question = say(one, "left")  # the one that the other looks at, too
    target = seen["question"] if word == "right" else seen["undo"]
    with pytest.raises(AnsweredMeanwhileError):
        other.answer(target["number"], target["token"], word, seen["seen"])
    assert [answer.answer for answer in each_answer(data)] == ["bad", "left"]
    undo(other)  # now it has been seen
    assert other.state()["question"] == question


def test_an_answer_meets_no_other_viewer_and_no_other_picture_where_the_users_change(tmp_path):
    """A page asks with the numbers of before; what it shows is the pair, the bans, and where the pictures stand."""
    write_pair_set(tmp_path, {"train": (range(4), 6)})
    old, met = review(tmp_path), set()

    def shown(asked: Review, number: int) -> tuple:
        return asked._scene_id(number), asked._banned(number), asked._pictures(number)

    for first in range(4, 28, 4):
        write_users(tmp_path, [(user(number), ["train"]) for number in range(first, first + 4)])
        new = review(tmp_path)
        for number in range(min(len(old), len(new))):
            before, now, token = shown(old, number), shown(new, number), old._token(number)
            if before == now:
                assert new.picture(number, token, "left") == before[2][0]
                continue
            with pytest.raises(OutdatedError, match="has changed"):
                new.picture(number, token, "left")
            for word in ("left", "undo"):
                with pytest.raises(OutdatedError, match="has changed"):
                    new.answer(number, token, word, 0)
            met.add(tuple(a == b for a, b in zip(before, now, strict=True)))
        with pytest.raises(OutdatedError, match="has changed"):  # one that there were before
            new.answer(len(new), old._token(0), "left", 0)
    assert {(True, False, False), (True, False, True)} <= met, "the same number and scene, for another viewer"
    assert not (tmp_path / ANSWERS).exists()


def test_answers_to_another_split_are_nobodys_business(tmp_path):
    write_split(tmp_path, "train", range(4), 4)
    write_split(tmp_path, "val", range(4), 4)
    one, other = (Review(read_split(tmp_path, name, answers=False), AnswerBook(tmp_path)) for name in ("train", "val"))
    state = one.state()
    say(other, "left")
    one.answer(state["question"]["number"], state["question"]["token"], "left", state["seen"])
    assert len([*each_answer(tmp_path)]) == 2


@pytest.mark.parametrize("seen", [None, True, "0", 0.5, [0]])
def test_who_does_not_say_what_they_have_seen_is_refused(data, seen):
    asked = review(data)
    question = asked.state()["question"]
    with pytest.raises(PSAError, match="'seen' must be"):
        asked.answer(question["number"], question["token"], "left", seen)
    assert not (data / ANSWERS).exists()


def test_of_many_who_answer_one_question_at_once_one_is_heard(data):
    """Each thread, and each of two books, has seen the same."""
    reviews = [review(data), review(data)]
    state = reviews[0].state()
    question, refused = state["question"], []

    def answer(asked: Review) -> None:
        try:
            asked.answer(question["number"], question["token"], "left", state["seen"])
        except AnsweredMeanwhileError as error:
            refused.append(error)

    threads = [threading.Thread(target=answer, args=(reviews[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7 and len([*each_answer(data)]) == 1
    assert [asked.state()["seen"] for asked in reviews] == [1, 1]


def test_a_book_that_several_threads_read_at_once_knows_each_answer_once(data):
    writer, reader = AnswerBook(data), AnswerBook(data)
    counts: list[int] = []
    readers = [
        threading.Thread(target=lambda: counts.extend(len(reader.answers()) for _ in range(40))) for _ in range(4)
    ]
    for thread in readers:
        thread.start()
    for number in range(40):
        writer.add(Answer(f"{number:016x}", (), "a", "b", "left"))
    for thread in readers:
        thread.join()
    assert len(reader.answers()) == 40 and max(counts) <= 40


def test_the_file_names_no_user_and_is_closed_to_others(data):
    say(review(data), "left")
    (line,) = (data / ANSWERS).read_text().splitlines()
    assert set(json.loads(line)) == {"scene", "banned", "left", "right", "answer"}
    if os.name != "nt":
        assert (data / ANSWERS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("number", "token", "word"),
    [(-1, None, "left"), (10**6, None, "left"), (True, None, "left"), ("0", None, "left"), (0, "0" * 16, "left"),
     (0, None, "LEFT"), (0, None, ["left"]), (0, 7, "left")],
)  # fmt: skip
def test_what_is_no_answer_is_refused(data, number, token, word):
    asked = review(data)
    question = asked.state()["question"]
    number = question["number"] if number == 0 else number
    with pytest.raises(PSAError):
        asked.answer(number, question["token"] if token is None else token, word, 0)
    assert not (data / ANSWERS).exists()


def test_all_taken_out_is_said(data):
    asked = review(data)
    while asked.state()["question"]:
        say(asked, "bad")
    with pytest.raises(PSAError, match="taken out by hand"):
        read_split(data, "train")
    assert any("taken out by hand" in finding.sentence for finding in check_dataset(data).findings)
    assert read_split(data, "train", answers=False)


def test_a_torn_last_line_is_no_answer_and_the_next_one_is_whole(data):
    asked = review(data)
    say(asked, "left")
    with open(data / ANSWERS, "ab") as file:
        file.write(b'{"scene": "01')
    assert len([*each_answer(data)]) == 1
    say(review(data), "right")
    assert [answer.answer for answer in each_answer(data)] == ["left", "right"]
    assert all(json.loads(line) for line in (data / ANSWERS).read_text().splitlines())


def without_its_end(path: Path) -> None:
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))


def test_a_last_line_that_lacks_its_end_alone_counts_and_is_kept(data):
    """As some editors save. It was ignored, and deleted by the next answer."""
    asked = review(data)
    for word in ("left", "neither"):
        say(asked, word)
    without_its_end(data / ANSWERS)
    whole = read_split(data, "train", answers=False)
    assert [answer.answer for answer in each_answer(data)] == ["left", "neither"]
    assert len(read_split(data, "train")) < len(whole)
    for each in (asked, review(data)):
        assert each.state() == each.state() and each.state()["answered"] == 2
    say(asked, "right")
    for each in (asked, review(data)):
        assert each.state()["answered"] == 3
    assert [answer.answer for answer in each_answer(data)] == ["left", "neither", "right"]
    assert (data / ANSWERS).read_bytes().count(b"\n") == len((data / ANSWERS).read_bytes().splitlines()) == 3


def test_a_reader_that_is_overtaken_by_a_lines_end_meets_no_empty_line(tmp_path):
    book = AnswerBook(tmp_path)
    book.add(Answer("0123456789abcdef", (), "a", "b", "left"))
    without_its_end(book.path)
    reading = each_answer(tmp_path)
    assert next(reading).answer == "left"
    AnswerBook(tmp_path).add(Answer("0123456789abcdef", (), "a", "b", "right"))
    assert [*reading] == []
    assert [answer.answer for answer in book.answers()] == ["left", "right"]


@pytest.mark.parametrize(
    "line",
    ["[]", '{"scene": "x"}',
     '{"scene": "0123456789abcdef", "banned": [], "left": "a", "right": "b", "answer": "left", "answer": "bad"}'],
)  # fmt: skip
def test_a_last_line_without_an_end_that_is_json_and_no_answer_is_named_and_kept(data, line):
    say(review(data), "left")
    with open(data / ANSWERS, "ab") as file:
        file.write(line.encode())
    for _ in range(2):
        with pytest.raises(PSAError, match=r"answers\.jsonl, line 2"):
            review(data).state()
        AnswerBook(data).add(Answer("0123456789abcdef", (), "a", "b", "left"))
        assert (data / ANSWERS).read_text().splitlines()[1] == line


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[]", '{"scene": "x"}', "{" * 3000, "7" * 5000, "\udcff",
     '{"scene": "0123456789abcdef", "banned": ["Sadness"], "left": "a", "right": "b", "answer": "left"}',
     '{"scene": "0123456789abcdef", "banned": [], "left": "a", "right": "b", "answer": "perhaps"}',
     '{"scene": "0123456789ABCDEF", "banned": [], "left": "a", "right": "b", "answer": "left"}',
     '{"scene": "0123456789abcdef", "banned": [], "left": "a", "right": "b", "answer": "left", "answer": "bad"}'],
)  # fmt: skip
def test_a_damaged_line_is_named(data, line):
    say(review(data), "left")
    with open(data / ANSWERS, "ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    for read in (lambda: [*each_answer(data)], lambda: read_split(data, "train"), lambda: review(data).state()):
        with pytest.raises(PSAError, match=r"answers\.jsonl, line 2"):
            read()


def edited(old: bytes, new: bytes, count: int):
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new, count))


def another(path: Path) -> None:
    """As editors save: another file in its place, as long as it was."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.with_name("new").write_bytes(b"".join(reversed(lines)))
    path.with_name("new").replace(path)


@pytest.mark.parametrize(
    "edit",
    [edited(b'"left"}', b'"undo"}', 3), edited(b'"left"}', b'"undo"}', 1), edited(b'"left"}', b'"neither"}', 3),
     another, lambda path: path.write_bytes(path.read_bytes() + path.read_bytes()), lambda path: path.write_bytes(b""),
     Path.unlink],
    ids=["all as long", "one as long", "longer", "another file", "twice", "emptied", "gone"],
)  # fmt: skip
def test_answers_that_somebody_edits_count_as_the_file_has_them(data, edit):
    """Also where the file is as long as before, and its time does not tell."""
    asked, path = review(data), data / ANSWERS
    for _ in range(3):
        say(asked, "left")
    asked.state()
    before = path.stat()
    edit(path)
    if path.exists():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert asked.book.answers() == [*each_answer(data)]
    assert asked.state() == review(data).state()
    say(asked, "right")
    assert asked.state() == review(data).state()


def test_a_line_that_is_damaged_while_a_review_is_open_is_named_and_read_once_it_is_mended(data):
    asked, path = review(data), data / ANSWERS
    say(asked, "left")
    whole = path.read_bytes()
    path.write_bytes(b"x" * (len(whole) + 9) + b"\n")
    with pytest.raises(PSAError, match=r"answers\.jsonl, line 1"):
        asked.state()
    path.write_bytes(whole)
    assert asked.state()["answered"] == 1


def test_answers_to_pairs_that_are_gone_change_nothing(data):
    AnswerBook(data).add(Answer("0123456789abcdef", (), "train/a.png", "train/b.png", "left"))
    whole, split = read_split(data, "train", answers=False), read_split(data, "train")
    assert len(split) == len(whole) and split.notes == whole.notes and review(data).state()["undo"] is None


def test_memory_does_not_go_by_the_answers(data):
    """A judge answers once for each pair and kind of viewer: each was kept three times, in some 700 bytes."""
    say(review(data), "left")
    line, count = (data / ANSWERS).read_bytes(), 5000
    (answer,) = each_answer(data)
    lines = [line.replace(answer.scene.encode(), f"{number:016x}".encode()) for number in range(count)]
    (data / JUDGED).write_bytes(line * count + b"".join(lines))
    split = read_split(data, "train", answers=False)
    tracemalloc.start()
    answered = with_answers(split)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * count and len(answered) == len(split) and any("by hand" in note for note in answered.notes)


def test_a_full_disk_is_said_and_loses_nothing(data, monkeypatch):
    asked = review(data)
    say(asked, "left")
    before, write = (data / ANSWERS).read_bytes(), os.write

    def half(handle, line):
        write(handle, line[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(PSAError, match="No space left"):
        say(asked, "right")
    monkeypatch.undo()
    assert (data / ANSWERS).read_bytes() == before
    say(asked, "right")
    assert len([*each_answer(data)]) == 2


def test_answers_of_several_threads_are_all_there(data):
    book = AnswerBook(data)
    mine = [Answer(f"{number:016x}", (), "a", "b", "left") for number in range(80)]
    threads = [threading.Thread(target=lambda part=mine[n::4]: [book.add(each) for each in part]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each_answer(data), key=lambda answer: answer.scene) == mine


KILLED = """
import sys
from pathlib import Path
from psa_core.dataset.answers import Answer
from psa_core.review import AnswerBook

book = AnswerBook(Path(sys.argv[1]))
for number in range(len(book.answers()), 10**9):
    book.add(Answer(f"{number:016x}", (), "a", "b", "left"))
    print(number, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_no_kill_loses_an_answer_that_was_acknowledged(tmp_path):
    for kill in range(10):
        process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE)
        for _ in range(3 + 7 * kill % 5):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().splitlines()
        process.wait()
        kept = [*each_answer(tmp_path)]
        assert [int(answer.scene, 16) for answer in kept] == list(range(len(kept)))
        assert not said or len(kept) > int(said[-1])


def test_threads_that_ask_at_once_hear_each_answer_once(data, monkeypatch):
    book = AnswerBook(data)
    for number in range(3):
        book.add(Answer(f"{number:016x}", (), "a", "b", "left"))
    both_read = threading.Barrier(2)

    def read(*arguments):
        with suppress(threading.BrokenBarrierError):
            both_read.wait(0.5)
        return read_on(*arguments)

    monkeypatch.setattr("psa_core.review.book.read_on", read)
    threads = [threading.Thread(target=book.answers) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.scene for answer in book.answers()] == [f"{number:016x}" for number in range(3)]
