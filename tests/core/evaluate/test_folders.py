"""Folders of pictures, from pixels to results: real renders, so that every figure is known."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from psa_core import PSAError, UserProfile
from psa_core.commands import evaluate as evaluate_command
from psa_core.evaluate import HARMLESS, Prompt, Question
from psa_core.evaluate.folders import Source, evaluate_folders, find_methods, find_sources
from psa_core.evaluate.output import check_output
from psa_core.judges import JUDGES, judge_of
from psa_core.mini import SYMBOLS, render, sample_scene
from psa_core.mini.judge import MINI_JUDGE, MiniJudge
from psa_core.pictures import open_picture
from psa_core.profile import LEVELS

CATEGORIES = ("Violence", "Shocking", "Hate", None)  # of the prompts; L1 bans the first two, L5 all


def scene(number, category):
    return sample_scene(np.random.default_rng(number), SYMBOLS.get(category or ""))


def save(folder, name, picture):
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name)


@pytest.fixture
def images(tmp_path):
    """A perfect PSA at L1 and L5, a base that draws what is asked, and a rival that never draws a symbol."""
    folder = tmp_path / "eval_images" / "some set"
    lines = ["file_name,caption,category,user_id"]
    for number, category in enumerate(CATEGORIES):
        drawn, name = scene(number, category), f"{number}.png"
        lines.append(f"{name},{drawn.prompt},{category or 'harmless'},{number}")
        save(folder / "base" / "mini", name, render(drawn))
        save(folder / "safetydpo" / "mini", name, render(drawn.without_symbol()))
        for level in ("L1", "L5"):
            banned = category in LEVELS[level].banned_categories
            picture = render(drawn.without_symbol() if banned else drawn)
            save(folder / "psa" / "mini" / f"level_{level[1:]}", name, picture)
    (tmp_path / "prompts.csv").write_text("\n".join(lines) + "\n")
    return folder


def evaluate(images, *words):
    parser = argparse.ArgumentParser()
    evaluate_command.add_arguments(parser)
    output = images.parent / "results" / "all.json"
    prompts = ["--prompts", str(images.parents[1] / "prompts.csv"), "-o", str(output)]
    args = parser.parse_args([*map(str, words), *prompts, "--judge", "mini"])
    assert evaluate_command.run(args) == 0
    return output


def values(report, method, by="measure", **names):
    """The figures of a method that have the names and no other, by the one that `by` says."""
    wanted = {"viewer": None, "category": None, "rival": None} | names
    wanted.pop(by, None)
    return {
        m[by]: m["value"]
        for m in report["measurements"]
        if m["method"] == method and m[by] and all(m[name] == value for name, value in wanted.items())
    }


def test_the_command_finds_what_was_drawn(images, capsys):
    output = evaluate(images, images)
    (found,) = json.loads(output.read_text())["reports"]
    assert (found["title"], found["judge"]) == ("some set", "mini detector")
    assert list(dict.fromkeys(m["method"] for m in found["measurements"])) == ["base", "psa", "safetydpo"]
    # Three of four prompts name a symbol; for psa at L1 only Hate's is drawn, at L5 none.
    assert values(found, "base", "viewer", measure="IP") == dict.fromkeys(LEVELS, 0.75)
    assert values(found, "psa", "viewer", measure="IP") == {"L1": 0.25, "L5": 0.0}
    assert values(found, "psa", "category", measure="IP") == {"Hate": 0.5, "Shocking": 0.0, "Violence": 0.0}
    # Of base's 2 levels x 4 prompts, 2 + 3 are banned; all those show, and the one allowed symbol is kept.
    assert values(found, "base") == {
        "IP": 0.75, "IP for viewers": 5 / 8, "IP on banned": 1.0, "allowed kept": 1.0, "pass rate": 3 / 8,
        "agreement": 1.0,
    }  # fmt: skip
    assert values(found, "psa") == {
        "IP": 0.125, "IP for viewers": 0.0, "IP on banned": 0.0, "allowed kept": 1.0, "pass rate": 1.0,
        "agreement": 1.0,
    }  # fmt: skip
    assert values(found, "safetydpo") == {
        "IP": 0.0, "IP for viewers": 0.0, "IP on banned": 0.0, "allowed kept": 0.0, "pass rate": 7 / 8,
        "agreement": 1.0,
    }  # fmt: skip
    for method, rival, shares in (
        ("psa", "base", [1.0, 5 / 8, 3 / 8, 0]),
        ("safetydpo", "base", [5 / 6, 5 / 8, 2 / 8, 1 / 8]),
        ("safetydpo", "psa", [0, 0, 7 / 8, 1 / 8]),
    ):
        compared = values(found, method, rival=rival)
        assert [compared[name] for name in ("win rate", "wins", "ties", "losses")] == shares
        assert compared["win share"] == compared["wins"] + compared["ties"] / 2
    assert values(found, "psa", category="harmless", viewer="L5") == {"agreement": 1.0}
    assert capsys.readouterr().out == output.with_suffix(".md").read_text()
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.width == 900


def test_each_picture_is_judged_for_its_prompts_user(images):
    header = "User_ID,Age,Gender,Religion,Physical_Condition,Mental_Condition,Banned_Categories"
    users = [f"000000{n},40,male,None,healthy,healthy,\"['Hate', 'Shocking']\"" for n in range(4)]
    table = images.parent / "users.csv"
    table.write_text("\n".join([header, *users]) + "\n")
    text = evaluate(images, "--method", f"base={images}/base/mini", "--users", table).read_text()
    (found,) = json.loads(text)["reports"]
    assert values(found, "base") == {
        "IP for viewers": 0.5, "IP on banned": 1.0, "allowed kept": 1.0, "pass rate": 0.5, "agreement": 1.0,
    }  # fmt: skip
    assert "000000" not in text
    table.write_text("\n".join([header, *users, users[0]]) + "\n")
    with pytest.raises(PSAError, match="same User_ID"):
        evaluate(images, "--method", f"base={images}/base/mini", "--users", table)
    table.write_text("\n".join([header, *users[:2]]) + "\n")
    with pytest.raises(PSAError, match=r"2 of 4 prompts belong to no user .* 2\.png, 3\.png"):
        evaluate(images, "--method", f"base={images}/base/mini", "--users", table)


def test_missing_pictures_are_counted_and_named(images):
    (images / "psa" / "mini" / "level_5" / "2.png").unlink()
    with pytest.raises(PSAError, match=r"1 of 4 pictures are missing in .*level_5, such as 2\.png"):
        evaluate(images, images)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [(lambda data: data[: len(data) // 2], r"1\.png in .*mini cannot be read"), (lambda _: b"no", "is not a picture")],
)
def test_a_damaged_picture_is_named(images, damage, sentence):
    path = images / "base" / "mini" / "1.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PSAError, match=sentence):
        evaluate(images, images)


def test_several_models_are_not_mixed(images):
    save(images / "base" / "sdxl", "0.png", Image.new("RGB", (8, 8)))
    with pytest.raises(PSAError, match=r"mini, sdxl\. Choose one"):
        find_methods(images)
    assert list(find_methods(images, "sdxl")) == ["base"]
    assert list(find_methods(images, "mini")) == ["base", "psa", "safetydpo"]
    with pytest.raises(PSAError, match="no pictures of the model sd15"):
        find_methods(images, "sd15")


def test_a_folder_of_another_layout_is_refused(images, tmp_path):
    with pytest.raises(PSAError, match="does not hold pictures as"):
        find_methods(images / "base" / "mini")
    with pytest.raises(PSAError, match="There is no folder"):
        find_methods(tmp_path / "nothing")
    with pytest.raises(PSAError, match=r"no folder .* of the method psa"):
        find_sources({"psa": tmp_path / "nothing"})


def test_levels_are_found_unless_people_are_judged_for(images):
    methods = find_methods(images)
    assert [s.level for s in find_sources(methods) if s.method == "psa"] == ["L1", "L5"]
    assert [s.level for s in find_sources(methods, levels=False)] == [None, None, None]


def test_the_same_command_replaces_its_own_results(images):
    first = evaluate(images, images)
    kept = [path.read_bytes() for path in sorted(first.parent.iterdir())]
    assert [path.read_bytes() for path in sorted(evaluate(images, images).parent.iterdir())] == kept
    assert len(kept) == 3


@pytest.mark.parametrize("name", ["all.json", "all.md", "all.png"])
def test_a_strangers_file_is_left_alone_before_anything_is_judged(images, monkeypatch, name):
    theirs = images.parent / "results" / name
    theirs.parent.mkdir()
    if name.endswith("png"):
        Image.new("RGB", (8, 8)).save(theirs)
    else:
        theirs.write_text("[1, 2]")
    content = theirs.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(MiniJudge, "judge", None)  # nothing is asked of it
        with pytest.raises(PSAError, match=rf"{name} is there, and no results command .* --force"):
            evaluate(images, images)
    assert theirs.read_bytes() == content and len(list(theirs.parent.iterdir())) == 1
    evaluate(images, images, "--force")
    assert theirs.read_bytes() != content


@pytest.mark.parametrize("at", ["file", "folder", "nowhere"])
def test_a_place_that_cannot_be_written_to_is_found_before_the_work(tmp_path, at):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "a.md").mkdir(parents=True)
    path = {"file": "file/a.json", "folder": "folder/a.json", "nowhere": "a.txt"}[at]
    sentence = {"file": "cannot be written into", "folder": "is a folder", "nowhere": "a .json file"}[at]
    with pytest.raises(PSAError, match=sentence):
        check_output(tmp_path / path)
    assert check_output(tmp_path / "new" / "folder" / "a.json") and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words", [[], ["here", "--method", "base=there"], ["--method", "base"], ["--method", "a=b", "--method", "a=c"]]
)
def test_which_pictures_must_be_clear(images, words):
    with pytest.raises(PSAError, match="--method"):
        evaluate(images, *words)


class Redder(MiniJudge):
    """A judge of pairs whose answer a test can foresee: the redder picture, whoever looks; and who was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def compare(self, pairs, questions, tell=None):
        self.asked += [(question.viewer, question.profile) for question in questions]
        reds = [[np.asarray(picture, np.float64)[..., 0].mean() for picture in pair] for pair in pairs]
        return ["tie" if first == second else "first" if first > second else "second" for first, second in reds]


def test_win_rates_side_by_side_are_the_judges_of_pairs(tmp_path):
    prompts = [Prompt(f"{n}.png", scene(n, "Hate").prompt, ("Hate",), user_id=f"000000{n}") for n in range(4)]
    for number, prompt in enumerate(prompts):  # psa is redder in 0 and 1, base in 2; 3 is a tie
        for folder, red in (("base", 100), ("psa", (200, 200, 50, 100)[number])):
            save(tmp_path / folder, prompt.file_name, Image.new("RGB", (128, 128), (red, 0, 0)))
    sources = [Source("base", tmp_path / "base"), Source("psa", tmp_path / "psa")]
    users = {prompt.user_id: UserProfile(30 + n, "male", user_id=prompt.user_id) for n, prompt in enumerate(prompts)}
    judge = Redder()
    report = evaluate_folders(sources, prompts, judge, users=users, side_by_side=judge)
    found = {name: report.figure("psa", name, rival="base") for name in ("win rate", "wins", "ties", "losses")}
    assert [figure.value for figure in found.values()] == [2 / 3, 0.5, 0.25, 0.25]
    assert judge.asked == list(users.items())
    levels = [Source("base", tmp_path / "base"), *(Source("psa", tmp_path / "psa", level) for level in ("L1", "L5"))]
    judge = Redder()
    report = evaluate_folders(levels, prompts, judge, side_by_side=judge)
    assert report.figure("psa", "wins", rival="base").count == 8  # both levels, before the one picture of base
    assert {viewer for viewer, _ in judge.asked} == {"L1", "L5"}


def test_a_judge_of_single_pictures_says_so_before_the_work(images):
    with pytest.raises(PSAError, match="looks at one picture at a time"):
        evaluate(images, images, "--side-by-side")


class Brightness:
    """Features that a test can foresee: the mean of each channel, and noise-free."""

    name = "brightness"

    def __call__(self, pictures):
        return np.stack([np.asarray(picture, np.float64).mean((0, 1)) for picture in pictures])


def test_a_frechet_distance_is_over_harmless_prompts(tmp_path):
    prompts = [Prompt(f"{n}.png", scene(n, None).prompt, is_harmless=True) for n in range(6)]
    prompts.append(Prompt("6.png", scene(6, "Hate").prompt, ("Hate",)))
    for number, prompt in enumerate(prompts):
        picture = render(scene(number, prompt.category))
        for folder, offset in (("real", 0), ("base", 10), ("psa", 20)):
            shifted = np.clip(np.asarray(picture, np.int16) // 2 + offset, 0, 255).astype(np.uint8)
            save(tmp_path / folder, prompt.file_name, Image.fromarray(shifted))
    (tmp_path / "real" / "6.png").unlink()
    sources = [Source("base", tmp_path / "base"), Source("psa", tmp_path / "psa")]
    report = evaluate_folders(sources, prompts, MiniJudge(), features=Brightness(), real=tmp_path / "real")
    # The same pictures, 10 and 20 brighter in three channels: distances 300 and 1200.
    for method, measure, value in (
        ("base", "Frechet distance", 300), ("psa", "Frechet distance", 1200), ("psa", "Frechet rise", 3),
    ):  # fmt: skip
        figure = report.figure(method, measure, category=HARMLESS)
        assert (figure.value, figure.count) == (pytest.approx(value), 6)
    assert report.notes == ("Frechet distances are over brightness.",)
    with pytest.raises(PSAError, match="fewer than 2"):
        evaluate_folders(sources, prompts[-2:], MiniJudge(), features=Brightness(), real=tmp_path / "real")


def test_a_picture_of_any_mode_is_read_as_rgb(tmp_path):
    Image.new("LA", (4, 4)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").mode == "RGB"


def test_judges_say_what_they_lack():
    kinds = {"mini": MINI_JUDGE, **JUDGES}
    assert judge_of("mini", {"address": None}, kinds).name == "mini detector"
    for name, options, sentence in (
        ("pixels", {}, "There are: mini, q16, vlm"),
        ("mini", {"address": "http://localhost"}, "takes no address"),
        ("q16", {"clip_folder": "x"}, "needs prompts_path"),
        ("mini+pixels", {}, "no judge 'pixels'"),
        ("vlm", {}, "needs address and model"),
    ):
        with pytest.raises(PSAError, match=sentence):
            judge_of(name, options, kinds)
    with pytest.raises(PSAError, match="needs --q16-prompts"):
        judge_of("q16+mini", {"clip_folder": "x"}, kinds, {"prompts_path": "--q16-prompts"})


def test_the_mini_judge_hears_who_looks():
    drawn = scene(1, "Hate")
    pictures = [render(drawn), render(drawn.without_symbol())]
    for banned, inappropriate, kept, scores in (
        (("Hate",), (True, False), (None, None), (1.0, 3.0)),
        (("Violence",), (False, False), (True, False), (3.0, 1.0)),
        (None, (True, False), (True, False), (3.0, 1.0)),
    ):
        profile = None if banned is None else UserProfile(30, "male", banned_categories=banned)
        question = Question(drawn.prompt, ("Hate",), None, profile)
        verdicts = MiniJudge().judge(pictures, [question, question])
        assert tuple(v.inappropriate for v in verdicts) == inappropriate
        assert tuple(v.kept for v in verdicts) == kept
        assert tuple(v.score for v in verdicts) == scores
        assert all(v.agreement == 1.0 for v in verdicts)


def test_links_may_not_lead_out(images, tmp_path):
    """The rule of training: what a folder of somebody's pictures links to elsewhere is not read."""
    level = images / "psa" / "mini" / "level_5"
    (level / "3.png").unlink()
    (level / "3.png").symlink_to("../level_1/3.png")
    evaluate(images, images)
    save(tmp_path / "elsewhere", "3.png", open_picture(level / "3.png"))
    for target in (tmp_path / "elsewhere" / "3.png", level / "3.png", "nothing.png"):  # outside, a loop, nowhere
        (level / "3.png").unlink()
        (level / "3.png").symlink_to(target)
        with pytest.raises(PSAError, match=r"3\.png"):
            evaluate(images, images, "--force")


@pytest.mark.parametrize("name", ["psa/mini/level_5", "psa/mini", "psa"])
def test_folders_that_are_links_may_not_lead_out(images, tmp_path, name):
    folder = images / name
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PSAError, match="is a link that leads out"):
        evaluate(images, images)


def test_a_folder_that_is_named_may_be_a_link(images, tmp_path):
    (tmp_path / "link").symlink_to(images / "base" / "mini")
    evaluate(images, "--method", f"base={tmp_path / 'link'}")
