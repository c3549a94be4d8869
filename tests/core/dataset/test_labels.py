"""Labels by a judge: who prefers which picture is asked once, kept as it is said, and followed by whoever reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
from chat_server import asked
from PIL import Image

from psa_core import PSAError
from psa_core.build import Drawing, build_dataset, drawn_pairs, plan
from psa_core.build.sage_form import write_sage_form
from psa_core.concepts.pairs import PromptPair
from psa_core.dataset import read_split
from psa_core.dataset.answers import JUDGED, each_answer
from psa_core.dataset.check import check_dataset
from psa_core.dataset.sage import read_sage_split
from psa_core.judges.judging import Verdict, tell_nobody
from psa_core.judges.vision_language import VisionLanguageJudge
from psa_core.mini.judge import MiniJudge
from psa_core.mini.world import SYMBOLS, render, sample_scene
from psa_core.population import sample_users
from psa_core.review import AnswerBook, Review

USERS = sample_users(20, 5)
SPLITS = ("train", "val", "test_seen", "test_unseen")


class World:
    """Prompts of the mini world, and a drawer of renders; what is named in `wrong` is drawn with another symbol, or
    with none."""

    def __init__(self, pairs: int = 6, wrong: dict[int, str | None] | None = None) -> None:
        rng, self.scenes, self.prompts, self.drawn = np.random.default_rng(0), {}, [], 0
        for category, symbol in SYMBOLS.items():
            for _ in range(pairs):
                scene = sample_scene(rng, symbol, "train")
                while scene.place in self.scenes:
                    scene = sample_scene(rng, symbol, "train")
                self.scenes |= {scene.prompt: scene, scene.place: scene.without_symbol()}
                self.prompts.append(PromptPair(category, symbol, scene.prompt, scene.place, "named", "by hand"))
        for number, symbol in (wrong or {}).items():
            prompt = self.prompts[number].shows
            scene = self.scenes[self.prompts[number].without]
            self.scenes[prompt] = sample_scene(rng, symbol, "train") if symbol else scene

    def draw(self, prompts, seeds):
        self.drawn += len(prompts)
        return [render(self.scenes[prompt]) for prompt in prompts]


def build(folder: Path, world: World, judge=None, labels: str = "judge", users=USERS):
    planned = plan(drawn_pairs(world.prompts, 0), users, 0)
    drawing = Drawing({"model": "renders"}, lambda: world, 8)
    return build_dataset(folder, planned, users, 0, drawing, judge=judge, labels=labels)


def choices(folder: Path, name: str) -> dict[tuple[str, str], str]:
    """Which picture is chosen, by pair and user."""
    return {(r.pair.id, r.profile.user_id): r.chosen.name[17:-4] for r in read_split(folder, name)}


def test_on_pictures_that_show_what_they_should_the_judge_says_what_the_rules_say(tmp_path):
    world = World()
    build(tmp_path / "judge", world, MiniJudge())
    build(tmp_path / "rule", world, labels="rule")
    for name in SPLITS:
        said = choices(tmp_path / "judge", name)
        assert said == choices(tmp_path / "rule", name) and set(said.values()) == {"shows", "without"}
    told = json.loads((tmp_path / "judge" / "dataset.json").read_text())
    assert (told["labels"], told["judge"]) == ("judge", "mini detector")
    lines = [json.loads(line) for line in (tmp_path / "judge" / "pairs.jsonl").read_text().splitlines()]
    assert {line["label"] for line in lines} == {"judge"}
    kinds = {name: len({user.banned_categories for user in read_split(tmp_path / "judge", name).profiles})
             for name in SPLITS}  # fmt: skip
    pairs = {name: read_split(tmp_path / "judge", name).scenes for name in SPLITS}
    answers = [*each_answer(tmp_path / "judge", JUDGED)]
    assert len(answers) == sum(kinds[name] * pairs[name] for name in SPLITS)
    assert not list((tmp_path / "judge").glob(".answers*")) and not (tmp_path / "rule" / JUDGED).exists()
    text = (tmp_path / "judge" / JUDGED).read_text()
    assert not any(str(user.user_id) in text for user in USERS)
    assert "by the judge" in read_split(tmp_path / "judge", "train").notes[-1]
    assert not [found for found in check_dataset(tmp_path / "judge").findings if found.kind != "note"]


def test_pictures_that_show_something_else_are_labelled_by_what_they_show(tmp_path):
    """The heart where a bolt was asked for: who bans hearts and no bolts prefers the picture without, against the rule;
    where neither picture shows what was asked for, the pair is set aside, and without a symbol all are alike."""
    world = World(wrong={0: "heart", 7: None})
    built = build(tmp_path, world, MiniJudge())
    pairs = {pair.shows: pair for pair in drawn_pairs(world.prompts, 0)}
    heart, nothing = (pairs[world.prompts[number].shows].id for number in (0, 7))
    assert set(built.aside) == {nothing} and "neither picture" in built.aside[nothing]
    records = [r for name in SPLITS for r in read_split(tmp_path, name) if r.pair.id == heart]
    assert all(r.pair.id != nothing for name in SPLITS for r in read_split(tmp_path, name))
    for record in records:
        banned = record.profile.banned_categories
        if "Sexuality" in banned and "Harassment" not in banned:
            assert record.chosen.name.endswith("without.jpg")


class LooksAtColours:
    """A server that prefers the redder of two pictures where Hate is accepted, else the bluer one."""

    def __init__(self, fails_at: int | None = None, first: bool = False) -> None:
        self.fails_at, self.first = fails_at, first

    def __call__(self, body, number):
        if self.fails_at is not None and number > self.fails_at:
            return 401, {}
        text, pictures = asked(body)
        if len(pictures) < 2:
            return "a grey square"  # the check before the work
        if self.first:
            return json.dumps({"better": "first"})
        banned = text.split("must not see: ")[1].split("\n")[0]
        reds = [np.asarray(picture.convert("RGB"))[0, 0, 0] for picture in pictures]
        redder = "first" if reds[0] > reds[1] else "second"
        bluer = "second" if redder == "first" else "first"
        return json.dumps({"better": bluer if "Hate" in banned else redder})


class Squares:
    """Red where the concept is, blue elsewhere."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, prompts, seeds):
        self.drawn += len(prompts)
        noise = [np.random.default_rng(seed).integers(0, 90, (64, 64, 3), np.uint8) for seed in seeds]
        for prompt, pixels in zip(prompts, noise, strict=True):
            pixels[..., 0 if "thing" in prompt else 2] += 150
        return [Image.fromarray(pixels) for pixels in noise]


def squares(folder: Path, judge, drawer=None, count: int = 6):
    given = [
        PromptPair("Hate", "thing", f"scene {number} with a thing", f"scene {number}", "named", "by hand")
        for number in range(count)
    ]
    given.append(PromptPair(None, "", "a quiet scene", "a quiet scene", "named", "by hand"))
    users = sample_users(8, 2)
    planned = plan(drawn_pairs(given, 0), users, 0)
    drawing = Drawing({"model": "squares"}, lambda: drawer or Squares(), 4)
    return build_dataset(folder, planned, users, 0, drawing, judge=judge, labels="judge")


def verdict_or(answer):
    """`answer` for two pictures, and for one, of the harmless scene, that it is fine."""

    def both(body, number):
        _, pictures = asked(body)
        fine = json.dumps({"banned_shown": [], "allowed_kept": True, "quality": 80})
        return fine if len(pictures) == 1 else answer(body, number)

    return both


def test_a_model_behind_an_address_is_shown_both_pictures_in_both_orders(tmp_path, serve):
    server = serve(verdict_or(LooksAtColours()))
    squares(tmp_path, VisionLanguageJudge(server.address, "m", wait=0))
    for name in SPLITS:
        if (tmp_path / name).is_dir():
            for record in read_split(tmp_path, name):
                bans = "Hate" in record.profile.banned_categories
                assert record.chosen.name.endswith("without.jpg" if bans else "shows.jpg")
    two = [body for body in server.bodies if len(asked(body)[1]) == 2]
    assert len(two) == 2 * len([*each_answer(tmp_path, JUDGED)])
    assert not any(word in json.dumps(body) for body in two for word in ("healthy", "Islam", "User_ID", '"Age"'))


def test_a_model_that_favours_a_place_says_nothing(tmp_path, serve):
    server = serve(verdict_or(LooksAtColours(first=True)))
    with pytest.raises(PSAError, match="every pair of the split 'train'"):
        squares(tmp_path, VisionLanguageJudge(server.address, "m", wait=0))
    assert not (tmp_path / "pairs.jsonl").exists()


def test_answers_are_kept_as_they_come_and_asked_once(tmp_path, serve):
    """The server refuses after twenty requests; what it had said by then is not asked again, and the files are those of
    a run without a break."""
    whole = serve(verdict_or(LooksAtColours()))
    squares(tmp_path / "whole", VisionLanguageJudge(whole.address, "m", wait=0))
    server, drawer = serve(verdict_or(LooksAtColours(fails_at=20))), Squares()
    judge = VisionLanguageJudge(server.address, "m", wait=0, at_once=1)
    with pytest.raises(PSAError, match="401"):
        squares(tmp_path / "set", judge, drawer)
    kept = sum(len(line.split()) == 3 for line in (tmp_path / "set" / ".answers").read_text().splitlines())
    assert kept >= 8 and not (tmp_path / "set" / JUDGED).exists()
    drawn, before = drawer.drawn, len(server.bodies)
    server.answer = verdict_or(LooksAtColours())
    squares(tmp_path / "set", judge, drawer)
    assert drawer.drawn == drawn
    # Once more the check before the work; of an answer that is not there yet one order may have been asked before.
    assert len(server.bodies) - before == len(whole.bodies) - 2 * kept
    for name in (JUDGED, "pairs.jsonl", "users.jsonl"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Deaf:
    """A judge that does not hear who looks."""

    name, hears_viewer = "deaf", False

    def identity(self) -> str:
        return self.name

    def check(self, captions) -> None:
        pass

    def judge(self, pictures, questions, tell=tell_nobody):
        return [Verdict(False, None, None, 0.0) for _ in pictures]


def test_who_cannot_say_it_is_refused_before_anything_is_drawn(tmp_path):
    world = World(1)
    for judge, words in ((Deaf(), "does not hear who looks"), (None, "need one")):
        with pytest.raises(PSAError, match=words):
            build(tmp_path / "set", world, judge)
    with pytest.raises(PSAError, match="one of: rule, judge"):
        build(tmp_path / "set", world, MiniJudge(), labels="chance")
    assert world.drawn == 0 and not (tmp_path / "set").exists()


def test_labels_by_another_take_the_same_pictures(tmp_path):
    world = World(1)
    build(tmp_path / "set", world, MiniJudge(), labels="rule")
    drawn = world.drawn
    built = build(tmp_path / "set", world, MiniJudge())
    assert built.changed == ["labels (rule there, judge now)"] and world.drawn == drawn
    assert {record.pair.label for record in read_split(tmp_path / "set", "train")} == {"judge"}
    assert (tmp_path / "set" / JUDGED).is_file()
    build(tmp_path / "set", world, labels="rule")
    assert not (tmp_path / "set" / JUDGED).exists() and world.drawn == drawn


def test_a_person_has_the_last_word(tmp_path):
    world = World(2)
    build(tmp_path, world, MiniJudge())
    before = choices(tmp_path, "train")
    review = Review(read_split(tmp_path, "train", answers=False), AnswerBook(tmp_path))
    question = review.state()["question"]
    sides = {side: review.picture(question["number"], question["token"], side).name for side in ("left", "right")}
    pair, kind = sides["left"][:16], tuple(question["banned"])
    users = {user.user_id for user in USERS if user.banned_categories == kind}
    was = {choice for (name, user), choice in before.items() if name == pair and user in users}
    (other,) = (side for side, name in sides.items() if name[17:-4] not in was)
    review.answer(question["number"], question["token"], other, 0)
    after = choices(tmp_path, "train")
    changed = {key for key in before if after[key] != before[key]}
    assert changed == {(name, user) for name, user in before if name == pair and user in users}
    assert any("by hand" in note for note in read_split(tmp_path, "train").notes)
    review.answer(question["number"], question["token"], "undo", 1)
    assert choices(tmp_path, "train") == before


def test_a_judges_labels_that_were_lost_are_told_and_made_again(tmp_path):
    world = World(2, wrong={0: "heart"})
    build(tmp_path, world, MiniJudge())
    before = (tmp_path / "judged.jsonl").read_bytes()
    (tmp_path / "judged.jsonl").unlink()
    with pytest.raises(PSAError, match=r"judged\.jsonl is not there"):
        read_split(tmp_path, "train")
    build(tmp_path, world, MiniJudge())
    assert (tmp_path / "judged.jsonl").read_bytes() == before


def test_sages_form_has_the_judges_labels(tmp_path):
    world = World(2, wrong={0: "heart"})
    build(tmp_path, world, MiniJudge())
    write_sage_form(tmp_path)
    for name in SPLITS:
        if not (tmp_path / name).is_dir():
            continue
        pairs = zip(read_split(tmp_path, name), read_sage_split(tmp_path, name), strict=True)
        for ours, theirs in pairs:
            assert ours.chosen.read_bytes() == theirs.chosen.read_bytes() and ours.profile == theirs.profile


@pytest.mark.parametrize("labels", ["judge", "rule"])
def test_a_judge_gets_few_large_pictures_at_a_time(tmp_path, monkeypatch, labels):
    """As many as fit the bound on pixels, both of each pair counted."""

    class Counting(MiniJudge):
        most = 0

        def judge(self, pictures, questions, tell=tell_nobody):
            self.most = max(self.most, len({id(picture) for picture in pictures}))
            return super().judge(pictures, questions, tell)

    world, judge = World(), Counting()
    monkeypatch.setattr("psa_core.pictures.MAX_PIXELS", 5 * 128 * 128)
    build(tmp_path, world, judge, labels)
    assert judge.most == 4
