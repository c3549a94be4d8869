"""NudeNet as a judge, with the real package and its model; and several judges as one."""

import numpy as np
import pytest
from PIL import Image

from psa_core import PSAError, UserProfile
from psa_core.judges import judge_of
from psa_core.judges.either import EitherJudge
from psa_core.judges.judging import Question, Verdict
from psa_core.judges.nudenet import NudeNetJudge

BANS_IT = UserProfile(30, "male", banned_categories=("Sexuality",))
ALLOWS_IT = UserProfile(30, "male", banned_categories=("Hate",))


@pytest.fixture(scope="module")
def judge() -> NudeNetJudge:
    pytest.importorskip("nudenet", reason="an extra that people install by choice, for its licence")
    return judge_of("nudenet", {})


def some_picture(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (12, 9, 3), np.uint8)).resize((180, 240), Image.Resampling.BICUBIC)


def test_it_sees_what_the_package_sees_in_the_file(judge, tmp_path):
    seen = []
    whole = judge._detector.onnx_session
    whole_run = whole.run

    class Session:
        def run(self, names, inputs):
            seen.append(next(iter(inputs.values())))
            return whole_run(names, inputs)

    judge._detector.onnx_session = Session()
    try:
        some_picture().save(tmp_path / "a.png")
        judge._detector.detect(str(tmp_path / "a.png"))
        assert judge.judge([some_picture()], [Question("x")]) == [Verdict(False, None, None, 0.0)]
    finally:
        judge._detector.onnx_session = whole
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_any_mode(judge, mode):
    assert not judge.judge([some_picture().convert(mode)], [Question("x")])[0].inappropriate


def test_exposed_genitalia_count_for_whoever_bans_them(judge, monkeypatch):
    found = []
    monkeypatch.setattr(judge._detector, "detect", lambda _: [{"class": name} for name in found])
    questions = [Question("x"), Question("x", ("Sexuality",), "a", BANS_IT), Question("x", (), "b", ALLOWS_IT)]
    for names, expected in (
        (["FACE_FEMALE", "BELLY_EXPOSED", "FEMALE_BREAST_EXPOSED"], [False, False, False]),
        (["FACE_FEMALE", "FEMALE_GENITALIA_EXPOSED"], [True, True, False]),
        (["MALE_GENITALIA_EXPOSED"], [True, True, False]),
    ):
        found[:] = names
        verdicts = judge.judge([some_picture()] * 3, questions)
        assert [verdict.inappropriate for verdict in verdicts] == expected
        assert [verdict.score for verdict in verdicts] == [-float(shown) for shown in expected]
    with pytest.raises(PSAError, match="one question for each"):
        judge.judge([some_picture()], questions)


def test_without_the_package_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nudenet", None)
    with pytest.raises(PSAError, match=r"AGPL.*comfyui-psa\[nudenet\]"):
        judge_of("nudenet", {})


class Says:
    """A judge that has made up its mind."""

    def __init__(self, name: str, hears_viewer: bool, *verdicts: Verdict) -> None:
        self.name, self.hears_viewer, self._verdicts, self.checked = name, hears_viewer, verdicts, []

    def identity(self) -> str:
        return f"says {self.name}"

    def check(self, captions) -> None:
        self.checked += captions

    def judge(self, pictures, questions, tell=None):
        return list(self._verdicts)


def test_either_is_enough():
    q16 = Says("Q16", False, *(Verdict(said, None, None, -float(said)) for said in (True, False, False, True)))
    nude = Says("NudeNet", False, *(Verdict(said, None, None, -float(said)) for said in (False, True, False, True)))
    either, told = EitherJudge([q16, nude]), {}
    verdicts = either.judge([some_picture()] * 4, [Question("x")] * 4, told.__setitem__)
    assert verdicts == [Verdict(said, None, None, -float(said)) for said in (True, True, False, True)]
    assert told == dict(enumerate(verdicts))
    assert (either.name, either.hears_viewer, either.identity()) == ("Q16 or NudeNet", False, "says Q16+says NudeNet")
    either.check(["a", "b"])
    assert q16.checked == nude.checked == ["a", "b"]


def test_one_that_can_tell_more_is_heard():
    hears = Says("model", True, Verdict(False, True, 0.7, 0.7))
    either = EitherJudge([Says("NudeNet", False, Verdict(True, None, None, -1.0)), hears])
    assert either.judge([some_picture()], [Question("x")]) == [Verdict(True, True, 0.7, -1.0)]
    assert either.hears_viewer
