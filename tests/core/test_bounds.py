"""Texts, lists and numbers of any size from strangers: work grows as they do and no faster, sentences are short."""

import importlib.util
import json
import os
import threading
import time
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import random_adapter
from hypothesis import given
from hypothesis import strategies as st
from pair_sets import write_pair_set
from tiny_training import user, write_split

from psa_core import LEVELS, PSAError, load_adapter, load_embedding, read_users_csv
from psa_core.adapter.files import _metadata
from psa_core.commands.train import RunFile
from psa_core.concepts import words
from psa_core.concepts.scenes import TemplateScenes
from psa_core.concepts.words import ConceptNames, names_concept
from psa_core.dataset import compact, read_split
from psa_core.dataset.answers import Answer
from psa_core.dataset.check_result import SplitCounts
from psa_core.dataset.every_user import EveryUserSplit
from psa_core.dataset.sage import SageRecord, _Seen
from psa_core.encoders.embedding import UserEmbedding
from psa_core.evaluate.folders import find_methods
from psa_core.evaluate.output import check_output
from psa_core.files import some
from psa_core.generate import Record, Settings
from psa_core.json_lines import numbered
from psa_core.judges.kept import Answers
from psa_core.plots import fonts
from psa_core.plots.canvas import wrap_lines
from psa_core.plots.comparison import Comparison
from psa_core.plots.grid import labelled_grid
from psa_core.pretrained import weight_files
from psa_core.profile_store import ProfileStore
from psa_core.prompts import read_prompts
from psa_core.review import AnswerBook, Review
from psa_core.settings import read_toml
from psa_core.tensor_files import save_file
from psa_core.training import TrainConfig, read_metrics

LONG = 700  # characters, at most, of a sentence
SIZES = (1_000, 2_000)


def sentence(act, *arguments) -> str:
    with pytest.raises(PSAError) as caught:
        act(*arguments)
    said = str(caught.value)
    assert len(said) < LONG and said.endswith("."), said[:2000]
    return said


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_of_many_names_the_first_are_told():
    assert some(["a", "b"]) == "a, b" and some([]) == ""
    assert some(map(str, range(1002)), 2) == "0, 1, 1,000 more"
    assert len(some(["x" * 5000] * 5000)) < 20 * 130


# TOML


@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 100_000 + " = 1", "[a" + ".a" * 100_000 + "]", "b = {a" + ".a" * 100_000 + " = 1}", "#" * 300_000],
    ids=["key", "table", "inline", "size"],
)
def test_a_config_that_takes_the_square_of_its_size_is_not_parsed(tmp_path, monkeypatch, text):
    """Python's reader keeps each beginning of a dotted key: 100,000 parts are 40 GB."""
    toml = pytest.importorskip("tomllib")
    monkeypatch.setattr(toml, "loads", lambda _: pytest.fail("it was parsed"))
    sentence(read_toml, written(tmp_path / "a.toml", text))


def test_what_is_wrong_with_a_config_is_said_without_all_of_it(tmp_path):
    name = "x" * 5000
    for text in (f"a = {{{name} = 1, {name} = 2}}", f"{name} = 1\n{name} = 2", f"[{name}]\n[{name}]", f"{name} = 1"):
        sentence(RunFile.read, written(tmp_path / "a.toml", text))


@pytest.mark.parametrize("name", ["resolution", "bucket_step", "num_tokens", "workers", "reference_draws"])
def test_a_number_that_fills_the_memory_is_refused(name):
    assert f"'{name}' must be" in sentence(TrainConfig.from_dict, {name: 2_000_000_000})


# Scenes and concepts


def test_a_scene_costs_what_it_uses(monkeypatch):
    """Not what all choices before it hold."""
    looked = Counter()

    class Counting(dict):
        def __getitem__(self, key):
            looked["one"] += 1
            return super().__getitem__(key)

        def items(self):
            looked["all"] += 1
            return super().items()

    names = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    scenes = TemplateScenes("\n".join([*(f"{name} = x" for name in names), "{a concept} by {aa} | {aa}"]))
    scenes._choices, scenes._longest = Counting(scenes._choices), Counting(scenes._longest)
    for _ in range(100):
        scenes._add_scene("{a concept} by {ab}", "{ab}")
    assert not looked["all"] and looked["one"] == 100


def test_of_the_choices_that_there_are_some_are_told():
    names = (f"{a}{b}{c}" for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij")
    text = "\n".join([*(f"{name} = x" for name in names), "{a concept} by {zz} | y"])
    assert "982 more" in sentence(TemplateScenes, text)


@given(
    st.lists(st.text(st.sampled_from("ab y山田ก!\u0301Sse"), min_size=1, max_size=9), max_size=6),
    st.text(st.sampled_from("ab y山田ก!\u0301Sse"), max_size=30),
)
def test_many_concepts_are_found_as_each_is(names, prompt):
    names = [name.strip() for name in names if name.strip()]
    assert ConceptNames(names).any_in(prompt) == any(names_concept(prompt, name) for name in names)


@pytest.mark.parametrize("kind", ["thing{0}", "red thing{0} of {0}", "{1}図"])
def test_a_prompt_is_not_held_against_every_concept(monkeypatch, kind):
    names = [kind.format(number, chr(0x4E00 + number)) for number in range(5000)]
    found, asked = ConceptNames(names), []
    monkeypatch.setattr(words, "names_concept", lambda prompt, name: asked.append(name) or names_concept(prompt, name))
    for prompt in ("a red house by the sea, thing4998 and a thing4999 of wood", "赤い家", "!"):
        found.any_in(prompt)
    assert len(asked) < 10


# Labels


def test_a_font_is_chosen_by_the_first_letters_of_very_many(monkeypatch):
    looked = []
    monkeypatch.setattr(fonts, "_has", lambda path, letter: looked.append(letter) or False)
    monkeypatch.setattr(fonts, "_paths", lambda: iter(["", ""]))
    fonts.font_for("".join(map(chr, range(0x4E00, 0x9FFF))), 12)
    assert len(looked) == 2 * 1000


def test_a_label_of_very_many_lines_is_not_higher_than_a_few():
    assert len(wrap_lines("a\n" * 100_000, 50).splitlines()) == 8


def test_labels_of_any_letters_are_drawn():
    from PIL import Image

    label = "".join(map(chr, range(0x3000, 0x3000 + 5000)))
    assert labelled_grid([Image.new("RGB", (64, 64))], [label], 1).height < 300


def test_very_many_strengths_are_not_all_told():
    comparison = Comparison(("a",), ("L0",), tuple(number / 1000 for number in range(1, 5000)))
    assert "4,979 more" in sentence(comparison.check_count, (64, 64))


def graph_labels():
    file = Path(__file__).parents[2] / "nodes" / "comfy" / "graph_labels.py"
    spec = importlib.util.spec_from_file_location("graph_labels", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_graph_is_walked_once_whatever_is_linked_to_what():
    """Every node to all before it: each is looked at once, and each link."""
    links: Counter[str] = Counter()

    class Inputs(dict):
        def values(self):
            links["walked"] += len(self)
            return super().values()

    module, count = graph_labels(), 300
    graph: dict[str, Mapping] = {
        str(number): {"inputs": Inputs({f"i{other}": [str(other), 0] for other in range(number)})}
        for number in range(count)
    }
    assert set(module._upstream(graph, str(count - 1), tuple(f"i{n}" for n in range(count)))) == {
        str(number) for number in range(count - 1)
    }
    assert links["walked"] <= count * (count - 1) // 2
    named = {"a": {"inputs": {"profile_name": "x\n" * 5000}}, "b": {"inputs": {"profile": ["a", 0]}}}
    (name,) = module.viewer_names(named, "b", 1)
    assert len(name) <= 100 and "\n" not in name


# Data sets


def test_a_record_that_is_there_twice_is_found_at_once(monkeypatch):
    class Searched(array):
        def index(self, *_):
            pytest.fail("all were looked at")

    seen = _Seen()
    seen._hashes = Searched("Q")
    records = [SageRecord(1, Path("a"), Path("b"), f"scene {number}", user(1)) for number in range(3000)]
    assert [seen.first(record) for record in records] == [None] * 3000
    assert [seen.first(record) for record in records] == list(range(3000))


def test_a_line_of_any_length_is_read_no_further_than_a_record_takes(tmp_path):
    split = write_split(tmp_path, "train", range(2), 2)
    path = split / "metadata.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b" " * 3_000_000 + b"{}\n" + b"".join(others))
    with open(path, "rb") as file:
        lines = list(numbered(file, 100))
    assert [number for number, _, _ in lines] == list(range(1, len(others) + 3))
    assert max(len(line) for _, _, line in lines) == 101
    assert path.read_bytes()[lines[2][1] :] == b"".join(others)
    assert "line 2: the line is longer than 64 KiB" in sentence(read_split, tmp_path, "train")
    whole = read_split(tmp_path, "train", skip_bad=True)
    assert len(whole.skipped) == 1 and [record.line for record in whole] == [1, *range(3, len(others) + 3)]


def test_pairs_times_users_are_bounded(tmp_path, monkeypatch):
    write_pair_set(tmp_path, {"train": (range(4), 3)})
    monkeypatch.setattr(compact, "MOST_RECORDS", 11)
    assert "12 records" in sentence(read_split, tmp_path, "train")
    monkeypatch.setattr(compact, "MOST_RECORDS", 12)
    split = read_split(tmp_path, "train")
    monkeypatch.setattr("psa_core.dataset.every_user.MOST_RECORDS", 47)
    assert "48 records" in sentence(EveryUserSplit, split)


def test_what_is_said_of_a_split_is_counted_once_whatever_its_categories(monkeypatch):
    passes = Counter()

    class Counts(dict):
        def items(self):
            passes["all"] += 1
            return super().items()

    counts = Counts({(f"word {number}", f"thing {number}", True): 1 for number in range(1000)})
    split = SplitCounts("train", 1000, 1000, 1, {1000: 1}, counts)
    assert len(split.to_dict()["categories"]) == 1000 and passes["all"] <= 2
    assert split.categories()["word 7"] == 1 and split.chosen("word 7") == {"safe": 1, "unsafe": 0, "unknown": 0}


def test_the_last_answer_is_found_among_very_many_of_other_data(tmp_path, monkeypatch):
    write_pair_set(tmp_path, {"train": (range(4), 3)})
    review = Review(read_split(tmp_path, "train", answers=False), AnswerBook(tmp_path))
    question = review.state()["question"]
    review.answer(question["number"], question["token"], "left", 0)
    banned = tuple(question["banned"])
    others = (Answer(f"{number:016x}", banned, "a", "b", "left") for number in range(1 << 40, (1 << 40) + 5000))
    with open(tmp_path / "answers.jsonl", "ab") as file:
        file.writelines(answer.to_line() for answer in others)
    looked, number = [], Review._number
    monkeypatch.setattr(Review, "_number", lambda self, *of: looked.append(of) or number(self, *of))
    assert review.state()["undo"] == {"number": question["number"], "token": question["token"]}
    assert len(looked) == 1


def test_very_many_stored_profiles_are_listed_without_a_search_for_each(tmp_path, monkeypatch):
    """ComfyUI lists them in its event loop, whenever any page asks for its nodes."""

    class Files(list):
        def __contains__(self, name: object) -> bool:
            raise AssertionError("it is looked for among all others")

    store, listed = ProfileStore(tmp_path), os.listdir
    for name in ("anna & bob", "someone"):
        store.save(name, LEVELS["L1"])
    (tmp_path / "anna%20bob.json").touch()  # no name of a profile's is written so
    monkeypatch.setattr(os, "listdir", lambda folder: Files(listed(folder)))
    assert store.names() == ["anna & bob", "someone"]


def test_a_huge_file_in_the_place_of_figures_or_a_profile_is_not_read_whole(tmp_path):
    store = ProfileStore(tmp_path)
    for name, read in (("metrics.jsonl", lambda: read_metrics(tmp_path)), ("me.json", lambda: store.load("me"))):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 30)
        tracemalloc.start()
        try:
            sentence(read)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("form", ["sage", "compact"])
def test_few_pictures_are_whole_at_a_time_while_a_data_set_is_read(tmp_path, monkeypatch, form):
    if form == "sage":
        write_split(tmp_path, "train", range(8), 24)
    else:
        write_pair_set(tmp_path, {"train": (range(2), 24)})
    lock, now, most = threading.Lock(), [], []

    def decoding(_path) -> None:
        with lock:
            now.append(1)
            most.append(len(now))
        time.sleep(0.005)
        with lock:
            now.pop()

    monkeypatch.setattr("psa_core.pictures.check_picture", decoding)
    read_split(tmp_path, "train")
    assert len(most) == 48 and max(most) <= 4


# Tables, and what else is read


def test_a_table_with_an_endless_line_is_refused(tmp_path):
    header = "User_ID,Age,Gender,Religion,Physical_Condition,Mental_Condition\n"
    sentence(read_users_csv, written(tmp_path / "users.csv", header + " " * (2 << 20)))


def test_a_prompt_of_very_many_categories_is_refused(tmp_path):
    rows = "file_name,caption,categories\na.png,a sea," + '"' + "crime," * 5000 + '"\n'
    assert "more than 100 categories" in sentence(read_prompts, written(tmp_path / "p.csv", rows))


def test_names_of_very_many_folders_are_not_all_told(tmp_path):
    for number in range(300):
        (tmp_path / "base" / f"model with a long name {number}").mkdir(parents=True)
    with pytest.raises(PSAError) as caught:
        find_methods(tmp_path)
    assert len(str(caught.value)) < 1500 and "280 more" in str(caught.value)


def test_an_adapters_own_names_are_cut(tmp_path):
    path, adapter = tmp_path / "a.safetensors", random_adapter(embedding_dim=6)
    state = {key: value.detach() for key, value in adapter.state_dict().items()}
    save_file({**state, "x" * 5000: torch.ones(1)}, path)
    sentence(load_adapter, path)
    save_file({**state, "x" * 5000: torch.ones(1, dtype=torch.int8)}, path)
    sentence(load_adapter, path)
    adapter.encoder_id = "x" * 5000
    save_file(state, path, _metadata(adapter))
    loaded = load_adapter(path)
    sentence(loaded.user_tokens, UserEmbedding(torch.ones(1, 6), "y" * 5000))
    sentence(loaded.user_tokens, torch.ones(1, 5))


def test_the_kind_of_an_arrays_values_is_cut(tmp_path):
    np.save(tmp_path / "e.npy", np.zeros(2, [(f"field {number}", "f4") for number in range(200)]))
    sentence(load_embedding, tmp_path / "e.npy")


def test_what_another_run_was_told_is_cut(tmp_path):
    record = Record("mini", "0" * 32, None, None, "1" * 32, Settings(size=64))
    record.claim(tmp_path, [])
    path = tmp_path / "generation.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"kind": "x" * 5000, "settings": data["settings"] | {"steps": "9" * 5000}}))
    sentence(record.claim, tmp_path, [])
    path.write_text(json.dumps(data) + " " * (2 << 20))
    record.claim(tmp_path, [])


def test_weights_that_are_missing_are_not_all_named(tmp_path):
    written(tmp_path / "config.json", "{}")
    index = {"weight_map": {str(number): f"{number}{'x' * 200}.safetensors" for number in range(500)}}
    written(tmp_path / "model.safetensors.index.json", json.dumps(index))
    sentence(weight_files, tmp_path, "language model")


def test_a_huge_file_in_the_place_of_results_is_somebody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr("psa_core.outputs._LARGEST", 1000)
    path = written(tmp_path / "r.json", '{"made_by": "Made by `psa evaluate`."}')
    assert check_output(path) == path
    path.write_text(path.read_text() + " " * 1000)
    assert "no results command of this pack made it" in sentence(check_output, path)


def test_kept_answers_with_an_endless_line_lose_that_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    answers = Answers(tmp_path / "r.answers")
    answers.keep(answers.name(["one"]), True)
    with open(tmp_path / "r.answers", "a") as file:
        file.write("x" * 600_000 + "\n")
    answers = Answers(tmp_path / "r.answers")
    answers.keep(answers.name(["two"]), False)
    again = Answers(tmp_path / "r.answers")
    assert again.get(again.name(["one"])) is True and again.get(again.name(["two"])) is False
