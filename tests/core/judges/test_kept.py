"""Answers that a judge gave are kept: a run that was broken off goes on where it stopped."""

import argparse
import csv
import json
import stat
import sys

import pytest
from chat_server import FINE, asked
from damage import flipped
from PIL import Image

from psa_core import LEVELS, PSAError, UserProfile
from psa_core.commands import evaluate as command
from psa_core.judges.judging import Question, Verdict
from psa_core.judges.kept import Answers, KeptJudge, pairwise
from psa_core.judges.vision_language import VisionLanguageJudge
from psa_core.mini.judge import MiniJudge
from psa_core.schema import CATEGORIES

BANS = ("Hate", "Sexuality")
VIEWER = UserProfile(47, "female", "Buddhism", "hearing impairment", "sexual assault", BANS, user_id="7654321")
QUESTIONS = [Question("a street with a brawl", ("Violence",), "7654321", VIEWER)] * 12
PICTURES = [Image.new("RGB", (24, 16), (shade, 40, 200)) for shade in range(12)]


def judge_at(server, path, model: str = "tiny") -> KeptJudge:
    return KeptJudge(VisionLanguageJudge(server.address, model, at_once=1, wait=0.01), Answers(path))


def by_shade(body, _number) -> str:
    return json.dumps({**FINE, "quality": asked(body)[1][0].getpixel((0, 0))[0]})


def failing_at(last: int):
    return lambda body, number: (400, {}) if number >= last else by_shade(body, number)


def test_the_second_run_asks_only_for_what_is_missing(serve, tmp_path):
    broken = serve(failing_at(12))
    path = tmp_path / "results.answers"
    with pytest.raises(PSAError, match="answered 400"):
        judge_at(broken, path).judge(PICTURES, QUESTIONS)
    broken.answer = by_shade
    broken.bodies.clear()
    told = {}
    verdicts = judge_at(broken, path).judge(PICTURES, QUESTIONS, told.__setitem__)
    assert len(broken.bodies) == 1
    assert [verdict.agreement for verdict in verdicts] == [n / 100 for n in range(12)]
    assert told == dict(enumerate(verdicts)) and isinstance(verdicts[0], Verdict)


def test_what_was_in_flight_is_kept_too(serve, tmp_path):
    server = serve(lambda body, n: (400, {}) if asked(body)[1][0].getpixel((0, 0))[0] == 5 else by_shade(body, n))
    path = tmp_path / "results.answers"
    judge = KeptJudge(VisionLanguageJudge(server.address, "tiny", at_once=3), Answers(path))
    with pytest.raises(PSAError):
        judge.judge(PICTURES, QUESTIONS)
    answered = sum(asked(body)[1][0].getpixel((0, 0))[0] != 5 for body in server.bodies)
    assert len(Answers(path)) == answered >= 5


def test_an_answer_is_for_its_picture_question_and_judge_alone(serve, tmp_path):
    server, path = serve(by_shade), tmp_path / "results.answers"
    judge_at(server, path).judge(PICTURES[:1], QUESTIONS[:1])
    other_viewer = UserProfile(8, "male", banned_categories=("Hate",))
    same_bans = UserProfile(8, "male", banned_categories=BANS)
    caption = QUESTIONS[0].caption
    for picture, question, model, is_new in (
        (PICTURES[0], QUESTIONS[0], "tiny", False),
        (PICTURES[0], Question(caption, ("Violence",), "L2", same_bans), "tiny", False),  # it hears the bans alone
        (PICTURES[0], Question(caption, ("Violence",), "7654321", other_viewer), "tiny", True),
        (PICTURES[0], Question(caption, ("Violence",)), "tiny", True),
        (PICTURES[0], Question(caption, ("Hate",), "7654321", VIEWER), "tiny", True),
        (PICTURES[0], Question("a sea", ("Violence",), "7654321", VIEWER), "tiny", True),
        (PICTURES[1], QUESTIONS[0], "tiny", True),
        (PICTURES[0].resize((16, 24)), QUESTIONS[0], "tiny", True),
        (PICTURES[0], QUESTIONS[0], "large", True),
    ):
        server.bodies.clear()
        judge_at(server, path, model).judge([picture], [question])
        assert len(server.bodies) == is_new


def test_a_comparison_is_kept_apart_from_a_verdict(serve, tmp_path):
    server, path = serve(lambda _body, _number: '{"better": "tie"}'), tmp_path / "results.answers"
    pair = (PICTURES[0], PICTURES[1])
    for count, pairs in ((2, [pair]), (0, [pair]), (2, [pair[::-1]])):
        server.bodies.clear()
        assert judge_at(server, path).compare(pairs, QUESTIONS[:1]) == ["tie"]
        assert len(server.bodies) == count
    with pytest.raises(PSAError, match="one picture at a time"):
        pairwise(MiniJudge())


def test_the_file_alone_tells_nothing_of_a_viewer(serve, tmp_path, monkeypatch):
    """Whoever is handed it knows picture, caption and judge, and tries all lists of bans."""
    server, path = serve(by_shade), tmp_path / "results.answers"
    kept = judge_at(server, path)
    kept.judge(PICTURES[:1], QUESTIONS[:1])
    text = path.read_text()
    for word in (*CATEGORIES, "brawl", "7654321", "female", "Buddhism", "tiny"):
        assert word not in text
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another person"))
    assert len(Answers(path)) == 0
    stranger = judge_at(server, path)
    for number in range(128):
        bans = tuple(category for place, category in enumerate(CATEGORIES) if number >> place & 1)
        viewer = UserProfile(47, "female", banned_categories=bans)
        name = stranger._name("judge", PICTURES[:1], Question(QUESTIONS[0].caption, ("Violence",), None, viewer))
        assert name not in text


def test_damage_is_asked_again_and_never_another_answer(serve, tmp_path):
    server, path = serve(by_shade), tmp_path / "results.answers"
    judge_at(server, path).judge(PICTURES, QUESTIONS)
    whole = path.read_bytes()
    head = whole[: whole.index(b"\n")]
    damaged = (head + content for content in flipped(whole[len(head) :], 60, seed=1))
    for content in (*damaged, whole[:-20], whole[:10], b"", head, whole + b"\xff\xfe half a li"):
        path.write_bytes(content)
        verdicts = judge_at(server, path).judge(PICTURES, QUESTIONS)
        assert [verdict.agreement for verdict in verdicts] == [n / 100 for n in range(12)]
        server.bodies.clear()
        judge_at(server, path).judge(PICTURES, QUESTIONS)
        assert server.bodies == []  # what was asked again stands on lines of its own


@pytest.mark.parametrize("content", [b"my answers to the exam\n", b"\n\nmine", b"\0" * 50, b"PK\x03\x04", b"\xff"])
def test_another_ones_file_is_left_alone(tmp_path, content):
    (tmp_path / "results.answers").write_bytes(content)
    with pytest.raises(PSAError, match="holds no answers of a judge"):
        Answers(tmp_path / "results.answers")
    assert (tmp_path / "results.answers").read_bytes() == content


def test_answers_that_cannot_be_kept_are_said(tmp_path):
    (tmp_path / "file").write_text("x")
    answers = Answers(tmp_path / "file" / "results.answers")
    with pytest.raises(PSAError, match="cannot be kept"):
        answers.keep("name", [1])
    (tmp_path / "folder.answers").mkdir()
    with pytest.raises(PSAError, match="cannot be kept"):
        Answers(tmp_path / "folder.answers")


def test_a_damaged_key_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Answers(tmp_path / "a.answers")
    (tmp_path / "psa" / "answers.key").write_bytes(b"short")
    with pytest.raises(PSAError, match="is damaged"):
        Answers(tmp_path / "a.answers")


def test_the_command_goes_on_and_leaves_results_alone(serve, tmp_path):
    names = [f"{number}.png" for number in range(6)]
    for method in ("base", "psa"):
        (tmp_path / "images" / method / "tiny").mkdir(parents=True)
        for number, name in enumerate(names):
            shade = number + 100 * (method == "psa")
            Image.new("RGB", (24, 16), (shade, 40, 200)).save(tmp_path / "images" / method / "tiny" / name)
    with open(tmp_path / "prompts.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption", "category"), *((name, "x", "Hate") for name in names)])
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    server = serve(lambda body, number: (401, {}) if number > 8 else json.dumps(FINE))
    words = ["--judge", "vlm", "--address", server.address, "--vlm-model", "tiny"]
    args = parser.parse_args(
        [str(tmp_path / "images"), "--prompts", str(tmp_path / "prompts.csv"), *words, "-o", str(tmp_path / "r.json")]
    )
    with pytest.raises(PSAError, match="answered 401"):
        command.run(args)
    assert (tmp_path / "r.answers").is_file() and not (tmp_path / "r.json").exists()
    kept = len(Answers(tmp_path / "r.answers"))
    server.bodies.clear()
    server.answer = lambda _body, _number: json.dumps(FINE)
    assert command.run(args) == 0
    assert kept >= 6 and len(server.bodies) == 12 - kept + 1  # and the question whether the server is there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "prompts.csv", "r.json", "r.md", "r.png"]


def test_a_dead_server_is_found_before_a_picture_is_read(serve, tmp_path):
    server = serve(by_shade)
    judge = KeptJudge(VisionLanguageJudge(server.address, "tiny"), Answers())
    server.shutdown()
    server.server_close()
    with pytest.raises(PSAError, match="could not be reached"):
        judge.check(["x"])


def test_the_mini_judge_checks_prompts():
    MiniJudge().check(["a sea with a red circle"])
    with pytest.raises(PSAError, match="does not know the prompt"):
        MiniJudge().check(["a sea with a red circle", "a photo of a street"])
    with pytest.raises(PSAError, match="one question for each"):
        MiniJudge().judge(PICTURES, [Question("a sea with a red circle", (), "L0", LEVELS["L0"])])
