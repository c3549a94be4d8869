"""Whatever a file of any kind holds: what was meant, or a sentence; at once, nothing run, nothing written elsewhere."""

import copy
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import random_adapter
from hostile_files import JSON_VALUES, TEXTS, at_once, dicts_in, every_input_holds, hostile, reading_holds
from hypothesis import strategies as st
from pair_sets import write_pair_set
from permissions import permissions_bind
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_training import user, write_split

import psa_core
from psa_core import LEVELS, PSAError, StructuredEncoder, UserProfile, load_embedding, read_users_csv, save_embedding
from psa_core.adapter.effect import load_effect, save_effect, viewer_effect
from psa_core.build.drawing import finish_batches
from psa_core.build.imported import read_picture_list
from psa_core.build.plan import drawn_pairs
from psa_core.chat_server import TryAgainError, read_completion
from psa_core.commands.encode import given_profiles
from psa_core.commands.train import RunFile
from psa_core.concepts.answers import Answer as Written
from psa_core.concepts.answers import AnswerLog, read_answer
from psa_core.concepts.lists import Concept, read_concepts
from psa_core.concepts.pairs import PromptPair, read_prompt_pairs, write_prompt_pairs
from psa_core.concepts.requests import Request
from psa_core.concepts.scenes import Scene, TemplateScenes
from psa_core.concepts.words import ConceptNames
from psa_core.dataset.answers import Answer, each_answer, standing
from psa_core.dataset.archive import import_archive
from psa_core.dataset.check import _concept_leaks, _description
from psa_core.dataset.pair_files import PICTURES
from psa_core.dataset.scan import scan_scenes
from psa_core.encoders.cache import EmbeddingCache
from psa_core.encoders.embedding import UserEmbedding
from psa_core.encoders.prompt_templates import Templates
from psa_core.evaluate.output import check_output
from psa_core.generate import BaseModel, Record, Settings
from psa_core.generate.single_file import SingleFile
from psa_core.judges.judging import Question
from psa_core.judges.kept import Answers
from psa_core.judges.q16 import read_q16_prompts
from psa_core.judges.questions import read_pair_reply, read_reply
from psa_core.locks import locked_folder
from psa_core.mini import BASE_MODEL
from psa_core.mini.benchmark import Plan, Studio
from psa_core.mini.classifier import SHIPPED, load_classifier
from psa_core.mini.rivals.weights import load_weights, save_weights
from psa_core.model_folder import load_part
from psa_core.outputs import made_by_line
from psa_core.pictures import check_picture, open_picture
from psa_core.pretrained import weight_files
from psa_core.profile_store import ProfileStore
from psa_core.prompts import read_prompts
from psa_core.review import AnswerBook
from psa_core.tensor_files import save_file
from psa_core.training import TensorCache, TrainConfig, read_metrics, read_split
from psa_core.training.assembly import as_begun
from psa_core.training.folder import RunFolder
from psa_core.training.identity import difference
from psa_core.training.metrics import MetricsLog
from psa_core.training.run import StateError, check_state
from psa_core.users import read_users, write_users

TEMPLATES = Path(psa_core.__file__).parent / "encoders" / "templates"
PAIR = PromptPair("Shocking", "spider", "a room, a spider", "a room", "named", "templates")
VECTORS = torch.arange(12.0).view(2, 6)
RUN_FILE = """model = "model"
data = "data"
output = "run"
held_out = ["val"]
[training]
steps = 5
learning_rate = 1e-3
timestep_range = [0, 999]
"""
REPLY = {"banned_shown": ["Violence"], "allowed_kept": True, "quality": 80}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": json.dumps(REPLY)}]}}]}
ANSWERS_OF_SERVERS = ("judge_reply", "judge_answer", "writers_answer")  # in no file of their own
QUESTION = Question("a street", ("Violence",), LEVELS["L3"])
Case = tuple[Path, Callable[[Path], object]]
CASES: dict[str, Callable[[Path], Case]] = {}


def case(make: Callable[[Path], Case]) -> Callable[[Path], Case]:
    """`make(folder)` writes a good file and returns (its path, what reads it)."""
    CASES[make.__name__] = make
    return make


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@case
def embedding_npy(folder: Path) -> Case:
    np.save(folder / "e.npy", VECTORS.numpy())
    return folder / "e.npy", load_embedding


@case
def embedding_safetensors(folder: Path) -> Case:
    save_embedding(UserEmbedding(VECTORS, "structured-v1"), folder / "e.safetensors")
    return folder / "e.safetensors", load_embedding


@case
def embedding_cache(folder: Path) -> Case:
    cache = EmbeddingCache(folder / "cache")
    saved = UserEmbedding(VECTORS[:1], "some encoder")
    cache.save(saved, "profile", LEVELS["L3"])

    def read(_path: Path) -> None:
        found = cache.load("some encoder", "profile", LEVELS["L3"])
        assert found is None or torch.equal(found.vectors, saved.vectors)

    return next((folder / "cache").glob("*.safetensors")), read


@case
def state(folder: Path) -> Case:
    weights = {"a": torch.ones(2, 2), "b": torch.zeros(3)}
    whole = {"key": "00", "step": 2, "best": 1.0, "worse": 0, "end": "", "trend": 0.0, "pending": {"loss": 1.0}}
    whole |= {"adapter": weights, "average": [torch.ones(2)], "optimizer": {"state": {0: {"m": torch.ones(2)}}}}
    RunFolder(folder).save({**whole, "identity": {"config": {"steps": 3}}})

    def read(_path: Path) -> None:
        check_state(again := RunFolder(folder).load())
        assert again["step"] == 2 and torch.equal(again["adapter"]["a"], weights["a"])

    return RunFolder(folder).state_path, read


@case
def old_state(folder: Path) -> Case:
    whole = {"step": 1, "best": 1.0, "worse": 0, "end": "", "trend": 0.0, "average": [], "optimizer": {}}
    whole |= {"format": 1, "config": {"steps": 3}, "adapter": {"a": torch.ones(2)}}
    torch.save(whole, folder / "state.pt")
    return folder / "state.pt", lambda _path: check_state(RunFolder(folder).load())


@case
def training_cache(folder: Path) -> Case:
    cache, key = TensorCache(folder), "0" * 32
    cache.put(key, {"latents": VECTORS})

    def read(_path: Path) -> None:
        assert torch.equal(cache.get(key, "latents")["latents"], VECTORS)

    return next(folder.rglob("*.safetensors")), read


@case
def metrics(folder: Path) -> Case:
    log = MetricsLog(folder, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
    log.close()
    return folder / "metrics.jsonl", lambda path: read_metrics(path.parent)


@case
def run_file(folder: Path) -> Case:
    return written(folder / "run.toml", RUN_FILE), RunFile.read


@case
def records(folder: Path) -> Case:
    split = write_split(folder, "train", range(2), 2)
    return split / "metadata.jsonl", lambda path: read_split(path.parents[1], "train")


@case
def users(folder: Path) -> Case:
    rows = [user(number).to_dict() for number in (1, 2)]
    text = ",".join(rows[0]) + "\n" + "".join(",".join(f'"{value}"' for value in row.values()) + "\n" for row in rows)
    return written(folder / "users.csv", text), read_users_csv


@case
def prompts(folder: Path) -> Case:
    text = 'file_name,caption,categories,user_id\na.png,"a street, at night",violence,1\nb.png,a sea,,2\n'
    return written(folder / "prompts.csv", text), read_prompts


def configuration(folder: Path, name: str, read: Callable[[Path], object]) -> Case:
    shutil.copytree(BASE_MODEL, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder / "model" / name, lambda _path: read(folder / "model")


@case
def model_index(folder: Path) -> Case:
    return configuration(folder, "model_index.json", BaseModel.read)


@case
def unet_config(folder: Path) -> Case:
    return configuration(folder, "unet/config.json", BaseModel.read)


@case
def vae_config(folder: Path) -> Case:
    return configuration(folder, "vae/config.json", BaseModel.read)


@case
def scheduler_config(folder: Path) -> Case:
    pytest.importorskip("diffusers")
    name = "scheduler/scheduler_config.json"
    return configuration(folder, name, lambda model: load_part(model, "scheduler", torch.float32))


def picture(folder: Path, kind: str) -> Case:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)

    def read(path: Path) -> None:
        try:
            check_picture(path)
        finally:
            open_picture(path)

    return written(folder / "a.png", buffer.getvalue()), read


for _kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
    CASES[f"picture_{_kind.lower()}"] = lambda folder, kind=_kind: picture(folder, kind)


@case
def q16_pickle(folder: Path) -> Case:
    return written(folder / "prompts.p", pickle.dumps(VECTORS.numpy().copy(), protocol=3)), read_q16_prompts


@case
def q16_npy(folder: Path) -> Case:
    np.save(folder / "q.npy", VECTORS.numpy())
    return folder / "q.npy", read_q16_prompts


@case
def judge_reply(folder: Path) -> Case:
    def read(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        read_reply(text, QUESTION)
        read_pair_reply(text)

    return written(folder / "reply.json", json.dumps(REPLY)), read


@case
def judge_answer(folder: Path) -> Case:
    return written(folder / "answer.json", json.dumps(ANSWER)), lambda path: read_completion(
        path.read_bytes(), "judging"
    )


@case
def prompt_pairs(folder: Path) -> Case:
    write_prompt_pairs(folder / "p.jsonl", [PAIR, replace(PAIR, category=None, concept="", shows="a room")])
    return folder / "p.jsonl", read_prompt_pairs


@case
def users_jsonl(folder: Path) -> Case:
    write_users(folder / "users.jsonl", [LEVELS["L1"], LEVELS["L3"]])
    return folder / "users.jsonl", read_users


@case
def list_of_concepts(folder: Path) -> Case:
    return written(
        folder / "c.txt", "\ufeff# Shocking\r\nspider = eight legs; a web\r\n# hate\r\nfence\r\n"
    ), read_concepts


@case
def scenes(folder: Path) -> Case:
    text = "place = a room; a park\n{place} with {a concept} | {place}\n# no more\n"

    def read(path: Path) -> None:
        TemplateScenes.read(path).draw(np.random.default_rng(0)).name("spider")

    return written(folder / "s.txt", text), read


@case
def writers_answer(folder: Path) -> Case:
    asked = Request(Concept("Shocking", "spider"), "named", Scene("a room, {a concept}", "a room"), 0)
    text = 'Here: {"shows": "a room, and a spider", "without": "a room"}'

    def read(path: Path) -> None:
        pair = read_answer(path.read_bytes().decode(errors="surrogateescape"), asked, "server m", ConceptNames([]))
        assert (pair.category, pair.concept, pair.made_by) == ("Shocking", "spider", "server m")

    return written(folder / "a.txt", text), read


@case
def writers_answers(folder: Path) -> Case:
    log = AnswerLog(folder / "a.jsonl")
    log.keep("one", Written("yes"), {})
    log.keep("two", Written("no"), {})

    def read(path: Path) -> None:
        found = AnswerLog(path)
        if b'{"key": ' not in path.read_bytes():  # as lines of earlier versions begin, which hold no digest
            assert found.get("one") in (Written("yes"), None) and found.get("two") in (Written("no"), None)

    return folder / "a.jsonl", read


@case
def kept_answers(folder: Path) -> Case:
    answers = Answers(folder / "results.answers")
    name = answers.name(["question"])
    answers.keep(name, [True, None, 0.5])

    def read(path: Path) -> None:
        assert Answers(path).get(name) in ([True, None, 0.5], None)

    return folder / "results.answers", read


@case
def generation(folder: Path) -> Case:
    record = Record("mini", "0" * 32, None, None, "1" * 32, Settings(size=64))
    record.claim(folder, [])
    return folder / "generation.json", lambda path: record.claim(path.parent, [])


@case
def results(folder: Path) -> Case:
    return written(folder / "r.json", '{"made_by": "Made by `psa evaluate`."}'), check_output


@case
def results_picture(folder: Path) -> Case:
    marks = PngInfo()
    marks.add_text("Software", made_by_line("psa evaluate"))
    Image.new("RGB", (4, 4)).save(folder / "r.png", pnginfo=marks)
    return folder / "r.png", lambda path: check_output(path.with_suffix(".json"))


@case
def lock(folder: Path) -> Case:
    def read(path: Path) -> None:
        with locked_folder(path.parent, "testing in"):
            pass

    return written(folder / ".lock", '{"pid": 999999999, "host": "here", "since": "today"}'), read


@case
def held_lock(folder: Path) -> Case:
    """What it says of its holder is read where another holds it."""
    fcntl = pytest.importorskip("fcntl")
    path = written(folder / ".lock", '{"pid": 1, "host": "here", "since": "today"}')
    handle = os.open(path, os.O_RDWR)  # as long as this process lives
    fcntl.flock(handle, fcntl.LOCK_EX)

    def read(path: Path) -> None:
        with pytest.raises(PSAError) as caught, locked_folder(path.parent, "testing in"):
            pass
        str(caught.value).encode()

    return path, read


@case
def stored_profile(folder: Path) -> Case:
    store = ProfileStore(folder)
    store.save("me", UserProfile(47, "female", "Buddhism", "hearing impairment", user_id="7654321"))

    def read(_path: Path) -> None:
        try:
            store.load("me")
        except PSAError as error:
            assert "7654321" not in str(error) and "47" not in str(error)
            raise

    return folder / "me.json", read


@case
def effect(folder: Path) -> Case:
    adapter = random_adapter(embedding_dim=StructuredEncoder().dim)
    save_effect(viewer_effect(adapter, StructuredEncoder(), ["Hate"]), folder / "e.safetensors")
    return folder / "e.safetensors", load_effect


@case
def classifier(folder: Path) -> Case:
    return Path(shutil.copy(SHIPPED, folder)), load_classifier


@case
def changed_weights(folder: Path) -> Case:
    save_weights(folder / "w.safetensors", {"a": torch.ones(2), "b": torch.zeros(1, 2)}, {"method": "UCE"})
    return folder / "w.safetensors", load_weights


@case
def checkpoint(folder: Path) -> Case:
    save_file({"a": torch.ones(2)}, folder / "c.safetensors")
    return folder / "c.safetensors", lambda path: SingleFile.open(path, BASE_MODEL)


@case
def hand_answers(folder: Path) -> Case:
    book = AnswerBook(folder)
    for side in ("left", "neither"):
        book.add(Answer("0" * 16, ("Violence",), "train/a.png", "train/b.png", side))

    def read(path: Path) -> None:
        standing(each_answer(path.parent))
        AnswerBook(path.parent).answers()

    return folder / "answers.jsonl", read


@case
def profile_json(folder: Path) -> Case:
    def read(path: Path) -> None:
        given_profiles(Namespace(level=None, users=None, profile=str(path)))

    return written(folder / "me.json", json.dumps(LEVELS["L3"].to_dict())), read


@case
def prompt_template(folder: Path) -> Case:
    for name in ("get_embeds.txt", "get_banned.txt"):
        shutil.copy(TEMPLATES / name, folder)
    return folder / "get_embeds.txt", lambda path: Templates.read(path.parent).statement(LEVELS["L3"])


@case
def weights_index(folder: Path) -> Case:
    written(folder / "config.json", "{}")
    written(folder / "a.safetensors", b"x")
    text = '{"weight_map": {"a.weight": "a.safetensors", "b.weight": "a.safetensors"}}'
    return written(folder / "model.safetensors.index.json", text), lambda path: weight_files(path.parent, "model")


@case
def description(folder: Path) -> Case:
    text = '{"licence": "CC0-1.0", "held_out_concepts": {"Violence": ["square"]}}'
    write_pair_set(folder / "set", {"train": (range(2), 1)})
    scans = [scan_scenes(read_split(folder / "set", "train"))]

    def read(path: Path) -> None:
        list(_concept_leaks(scans, _description(path.parent, [])))

    return written(folder / "dataset.json", text), read


def pair_set(folder: Path, name: str) -> Case:
    write_pair_set(folder / "set", {"train": (range(2), 2)}, harmless=2)

    own, _, _ = name.rpartition("/")

    def read(_path: Path) -> None:
        for split in (own,) if own else ("train", "harmless"):  # a split's own list is none of the other's
            records = read_split(folder / "set", split, skip_bad=True)
            assert all(record.chosen.is_file() for record in records)

    return folder / "set" / name, read


for _name in ("dataset.json", "users.jsonl", "pairs.jsonl", "train/pairs.jsonl", "harmless/pairs.jsonl"):
    CASES[f"pair_set_{_name}"] = lambda folder, name=_name: pair_set(folder, name)


@case
def drawn_batch(folder: Path) -> Case:
    """A batch whose process was killed on the way into its files."""
    (pair,) = pairs = drawn_pairs([PAIR], 0)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    (folder / PICTURES).mkdir()
    with zipfile.ZipFile(folder / PICTURES / ".drawn-batch", "w") as packed:
        for name in pair.pictures:
            packed.writestr(zipfile.ZipInfo(Path(name).name), buffer.getvalue())

    def read(path: Path) -> None:
        finish_batches(folder, pairs)
        assert not path.exists()
        for name in pair.pictures:
            (folder / name).unlink(missing_ok=True)
        assert not [*path.parent.iterdir()]

    return folder / PICTURES / ".drawn-batch", read


@case
def archive(folder: Path) -> Case:
    write_split(folder / "set", "train", range(2), 1)
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (folder / "set" / "train").iterdir():
            packed.write(path, f"set/train/{path.name}")
    place = folder / "input"
    place.mkdir()

    def read(path: Path) -> None:
        try:
            shutil.rmtree(import_archive(path, place, "set.zip").folder)
        finally:
            assert not [*place.iterdir()]

    return folder / "set.zip", read


@case
def what_was_seen(folder: Path) -> Case:
    """As the first version kept it; of the seal that newer ones have every byte is tried in mini/test_benchmark.py."""
    studio, seen = Studio(Plan(), folder), {"seen": [{"shown": "Hate", "size": None, "agrees": True}]}
    studio.keep(["method"], lambda: seen)
    (path,) = folder.iterdir()
    return written(path, json.dumps(seen)), lambda _path: studio.keep(["method"], lambda: seen)


@case
def picture_list(folder: Path) -> Case:
    for number in range(3):
        Image.new("RGB", (4, 4), (90 * number, 0, 0)).save(folder / f"{number}.png")
    rows = 'shows,without,category,concept,prompt\n0.png,1.png,hate,fence,"a fence, at night"\n,2.png,harmless,,a sea\n'
    return written(folder / "list.csv", rows), read_picture_list


MANY = 100_000 // len(CASES) + 1
"""Of each kind in the slow tier: 100,000 inputs in all."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [60, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", CASES)
def test_reading_holds(tmp_path, monkeypatch, kind, examples):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path, read = CASES[kind](tmp_path)
    content = path.read_bytes()  # what is read may be gone then
    read(path)
    files = hostile(content, path.suffix)
    reading_holds(path, files, read, examples, also=(StateError, TryAgainError))


DEPTHS = (450, 850, 930, 1000)


def nested(content: bytes, ending: str) -> Iterator[bytes]:
    """JSON as deep as Python can follow, or a little deeper: the whole file, or any entry of its first object."""
    for depth in DEPTHS:
        deep = "[" * depth + "]" * depth
        yield from (deep.encode(), b"[" * depth, b'{"a":' * depth)
        if ending in (".json", ".jsonl"):
            line = content.strip().splitlines()[0] if ending == ".jsonl" else content
            data = json.loads(line)
            for key in (*data, "x"):
                yield content.replace(line, json.dumps({**data, key: "@"}).replace('"@"', deep).encode())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CASES)
def test_nesting_is_a_sentence(tmp_path, monkeypatch, kind):
    """With the stack that a command has: while it draws, Hypothesis gives more room."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path, read = CASES[kind](tmp_path)
    content = path.read_bytes()
    for damaged in nested(content, path.suffix):
        path.write_bytes(damaged)
        with suppress(PSAError, StateError, TryAgainError):
            read(path)


@st.composite
def other_states(draw, state: dict) -> dict:
    """A state with some entry, at any depth, replaced, added or taken out: by plain values, tensors or containers."""
    tensors = st.sampled_from([torch.ones(2), torch.tensor(3), torch.zeros(0), torch.ones(2, 2, dtype=torch.int64)])
    values = JSON_VALUES | tensors | st.tuples(JSON_VALUES, tensors) | st.dictionaries(TEXTS, tensors, max_size=2)
    state = copy.deepcopy(state)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(dicts_in(state)))
        key = draw((st.sampled_from(sorted(place, key=str)) if place else st.nothing()) | TEXTS)
        if draw(st.booleans()):
            place[key] = draw(values)
        else:
            place.pop(key, None)
    return state


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [300, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", ["old", "new"])
def test_whatever_a_whole_state_says_a_run_is_begun_or_refused_in_a_sentence(tmp_path, version, examples):
    """Sealed, or of an earlier version: whoever makes one says in it what they like."""
    config = TrainConfig.from_dict({"preset": "recommended"})
    told = json.loads(json.dumps(config.to_dict()))
    state = {"key": "", "step": 2, "best": 1.0, "worse": 0, "end": "", "trend": 0.0, "pending": {"loss": 1.0},
             "timestep_range": (0, 900), "adapter": {"a": torch.ones(2)}, "average": [torch.ones(2)],
             "optimizer": {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}}  # fmt: skip
    folder = RunFolder(tmp_path)
    if version == "new":
        state |= {"identity": {"config": told, "base": "b", "data": "d", "harmless": None, "held_out": ["h"]}}
        write = folder.save
    else:
        state |= {"format": 1, "config": config.to_dict()}

        def write(state: dict) -> None:
            torch.save(state, tmp_path / "state.pt")

    def begun(state: dict) -> None:
        write(state)
        with suppress(PSAError):
            as_begun(config, tmp_path)
        with suppress(PSAError, StateError):
            found = folder.load()
            check_state(found)
            difference(found["identity"], {"config": told, "base": "b", "data": "d", "harmless": None, "held_out": []})

    begun(state)
    every_input_holds(begun, other_states(state), examples)


@pytest.mark.parametrize(
    "changes",
    [{"identity": "text"}, {"identity": ["config"]}, {"identity": {"config": {"steps": torch.ones(2)}}},
     {"identity": 5}, {"trend": 10**400}, {"best": 10**400}, {"pending": {"loss": torch.ones(2)}},
     {"step": 10**4000, "identity": {"config": {"steps": 10**4000}}}],
)  # fmt: skip
def test_states_that_leaked_are_refused(tmp_path, changes):
    path, read = CASES["state"](tmp_path)
    read(path)
    RunFolder(tmp_path).save({**RunFolder(tmp_path).load(), **changes})
    with pytest.raises((PSAError, StateError)) as caught:
        as_begun(TrainConfig.from_dict({}), tmp_path)
        read(path)
    assert len(str(caught.value)) < 600


def test_a_deeply_nested_state_is_refused(tmp_path):
    for depth in range(50, 3000, 50):
        identity = '{"list": [' * depth + "]}" * depth
        head = (
            f'{{"data": {{"dict": [["identity", {identity}]]}}, "digests": {{}}, "stands_for": "psa training run, 2"}}'
        )
        sealed = hashlib.blake2b(head.encode(), digest_size=16).hexdigest() + head
        save_file({"a": torch.ones(1)}, RunFolder(tmp_path).state_path, metadata={"psa": sealed})
        with pytest.raises(PSAError, match=r"cannot be used|does not say of which run"):
            as_begun(TrainConfig.from_dict({}), tmp_path)


def test_an_old_state_whose_settings_hold_a_tensor_is_refused(tmp_path):
    for state in ({"config": {"steps": torch.ones(2)}}, {"config": "text"}, {"config": {"a": {1.5: ()}, (1, 2): 3}}):
        torch.save({"format": 1, **state}, tmp_path / "state.pt")
        with pytest.raises(PSAError, match=r"does not say of which run|cannot be read"):
            as_begun(TrainConfig.from_dict({}), tmp_path)
    torch.save({"format": torch.ones(2)}, tmp_path / "state.pt")
    with pytest.raises(PSAError, match="not a training state"):
        as_begun(TrainConfig.from_dict({}), tmp_path)


NO_FILES = {
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": os.mkdir,
    "a link in a circle": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "not" / "there"),
    "a link to what never ends": lambda path: path.symlink_to("/dev/zero"),
}
# Where no state is, no run is, and a lock that is held is not what lies there; an archive is written by its route, and
# what may lie in a batch's place is tried in dataset/test_build.py.
NOT_HERE = (*ANSWERS_OF_SERVERS, "state", "old_state", "held_lock", "archive", "drawn_batch")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind not in NOT_HERE])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for what, put in NO_FILES.items():
        folder = tmp_path / what
        folder.mkdir()
        path, read = CASES[kind](folder)
        path.unlink()
        put(path)
        with at_once(), suppress(PSAError):
            read(path)


@permissions_bind
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind not in ANSWERS_OF_SERVERS])
def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path, read = CASES[kind](tmp_path)
    path.chmod(0)
    with suppress(PSAError):  # what may be missing counts as missing
        read(path)
