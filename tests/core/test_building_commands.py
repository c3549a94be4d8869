"""`psa users` and `psa prompts`, and the picture of the user space."""

import json
import os
import stat
import subprocess
import sys
import threading
from datetime import timedelta

import numpy as np
import pytest
import torch
from chat_server import Server
from PIL import Image
from tiny_llm import make_tiny_llm
from torch import distributed

from psa_core import LEVELS, PSAError, load_embedding, read_users_csv
from psa_core.cli import main
from psa_core.concepts.answers import Answer, AnswerLog
from psa_core.concepts.pairs import read_prompt_pairs
from psa_core.encoders.structured import InferredEncoder
from psa_core.language_model import LanguageModel
from psa_core.mini import BASE_MODEL
from psa_core.plots.user_space import project, user_space
from psa_core.population import sample_users
from psa_core.processes import _others_there
from psa_core.users import read_users


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capsys, *arguments) -> str:
    assert main([*arguments]) == 2
    return capsys.readouterr().err


def test_users_as_csv_go_through_encode(here, capsys):
    assert main(["users", "u.csv", "--count", "40", "--seed", "3", "--rules", "protective", "--picture", "u.png"]) == 0
    said = capsys.readouterr().out
    assert "40 virtual users" in said and "None of them is real" in said
    assert read_users_csv("u.csv") == sample_users(40, 3, "protective")
    assert stat.S_IMODE((here / "u.csv").stat().st_mode) == 0o600
    assert main(["encode", "--users", "u.csv", "-o", "e.safetensors"]) == 0
    assert len(load_embedding("e.safetensors")) == 40
    with Image.open("u.png") as image:
        assert image.format == "PNG" and not image.info.get("parameters")


def test_users_as_jsonl_with_departures(here):
    assert main(["users", "u.jsonl", "--count", "40", "--departures", "0.3"]) == 0
    assert read_users("u.jsonl") == sample_users(40, 0, departures=0.3)
    assert main(["encode", "--users", "u.jsonl", "-o", "folder"]) == 0
    assert len([*(here / "folder").iterdir()]) == 40


def test_a_language_model_says_what_is_banned(here, monkeypatch):
    monkeypatch.setattr(LanguageModel, "reply", lambda *_: "They should not see Hate, nor self-harm.")
    llm = make_tiny_llm(here / "llm")
    assert main(["users", "u.csv", "--count", "5", "--llm", str(llm), "--device", "cpu"]) == 0
    assert {user.banned_categories for user in read_users("u.csv")} == {("Hate", "Self-Harm")}
    assert [user.age for user in read_users("u.csv")] == [user.age for user in sample_users(5, 0)]


def test_what_psa_users_cannot_do_is_said(here, capsys):
    assert ".jsonl" in fails(capsys, "users", "u.txt")
    assert "from 1 to" in fails(capsys, "users", "u.csv", "--count", "0")
    assert ".png" in fails(capsys, "users", "u.csv", "--picture", "u.jpg")
    assert "--llm" in fails(capsys, "users", "u.csv", "--templates", "t")
    assert "0 to 1" in fails(capsys, "users", "u.csv", "--departures", "2")
    assert [*here.iterdir()] == []


def test_a_place_that_cannot_be_written_to_is_said_before_a_model_is_asked(here, capsys):
    (here / "plain").write_text("a file, in which no other can be")
    for words in (["users", "plain/u.csv"], ["users", "u.csv", "--picture", "plain/u.png"]):
        assert "cannot be written into plain" in fails(capsys, *words, "--llm", "no model is there")
    asked = ["--writer", "model", "--llm", "no model is there"]
    assert "cannot be written into plain" in fails(capsys, "prompts", "mini", "plain/p.jsonl", *asked)


def test_prompts_from_a_list_are_the_same_each_time(here, capsys):
    (here / "list.txt").write_text("# Shocking\nspider = eight legs on a web\n")
    arguments = ["--pairs", "6", "--implied", "0.5", "--harmless", "2"]
    assert main(["prompts", "list.txt", "a.jsonl", *arguments]) == 0
    assert "8 pairs of prompts for 1 concepts: 3 named, 3 implied, 2 harmless" in capsys.readouterr().out
    assert main(["prompts", "list.txt", "b.jsonl", *arguments]) == 0
    assert (here / "a.jsonl").read_bytes() == (here / "b.jsonl").read_bytes()
    assert len(read_prompt_pairs("a.jsonl")) == 8
    assert len((here / "a.answers.jsonl").read_text().split()) > 8


def test_prompts_of_the_mini_world_and_of_ones_own_scenes(here):
    assert main(["prompts", "mini", "m.jsonl", "--pairs", "3"]) == 0
    assert {pair.concept for pair in read_prompt_pairs("m.jsonl")} >= {"bolt", "star"}
    (here / "scenes.txt").write_text(
        "n = one; two; three\na room with {n} lamps and {a concept} | a room with {n} lamps\n"
    )
    assert main(["prompts", "placeholders", "p.jsonl", "--pairs", "2", "--scenes", "scenes.txt"]) == 0
    assert all(pair.shows.startswith("a room with ") for pair in read_prompt_pairs("p.jsonl"))


def test_prompts_by_a_server(here, capsys):
    def answer(body, _number):
        scene = body["messages"][0]["content"].split('Scene: "')[1].split('"\n')[0]
        return json.dumps({"shows": f"{scene}, a spider", "without": scene})

    server = Server(answer)
    (here / "list.txt").write_text("# Shocking\nspider\n")
    where = ["--writer", "server", "--address", server.address, "--server-model", "m", "--implied", "0"]
    assert main(["prompts", "list.txt", "s.jsonl", "--pairs", "2", *where]) == 0
    assert {pair.made_by for pair in read_prompt_pairs("s.jsonl")} == {"server m"}
    server.shutdown()
    server.server_close()


def test_what_psa_prompts_cannot_do_is_said(here, capsys):
    (here / "list.txt").write_text("# Shocking\nspider\n")
    assert ".jsonl" in fails(capsys, "prompts", "list.txt", "out.csv")
    assert "no list of concepts" in fails(capsys, "prompts", "absent.txt", "o.jsonl")
    assert "takes no --address" in fails(capsys, "prompts", "list.txt", "o.jsonl", "--address", "http://127.0.0.1/v1")
    assert "needs --llm" in fails(capsys, "prompts", "list.txt", "o.jsonl", "--writer", "model")
    assert "needs --address" in fails(capsys, "prompts", "list.txt", "o.jsonl", "--writer", "server")
    remote = ["--writer", "server", "--address", "http://192.0.2.1/v1", "--server-model", "m"]
    assert "--allow-remote" in fails(capsys, "prompts", "list.txt", "o.jsonl", *remote)
    assert "no language model at" in fails(capsys, "prompts", "list.txt", "o.jsonl", "--writer", "model", "--llm", "x")
    assert [path.name for path in here.iterdir()] == ["list.txt"]


def test_the_user_space_shows_who_bans_what():
    users = sample_users(60, 0)
    image = user_space(users)
    assert image.size == (1200, 644) and image.mode == "RGB"
    assert user_space(users).tobytes() == image.tobytes()
    none = [LEVELS["L0"]] * 3
    red = (180, 50, 70)
    reds = [colour == red for _, colour in user_space(none).getcolors(1 << 24)]
    assert not any(reds)  # nobody of these bans anything
    assert any(colour == red for _, colour in image.getcolors(1 << 24))
    assert user_space(users, InferredEncoder()).tobytes() != image.tobytes()


def test_projection_is_onto_the_directions_of_most_variance():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(500, 2)) * (3.0, 1.0) @ np.array([[0.0, 0, 1, 0], [1.0, 0, 0, 0]]) + 7
    places, share = project(people, people)
    assert share == pytest.approx(1)
    (first, between), (_, second) = np.cov(places.T)
    assert first > second and between == pytest.approx(0, abs=1e-9)
    assert places.var(axis=0).sum() == pytest.approx(people.var(axis=0).sum())
    same, share = project(people[:1].repeat(3, axis=0), people[:2])
    assert share == pytest.approx(0) and np.isfinite(same).all()


def test_a_user_space_of_nobody_or_too_small_is_refused():
    with pytest.raises(PSAError, match="no users"):
        user_space([])
    with pytest.raises(PSAError, match="600"):
        user_space(sample_users(2, 0), width=100)


def test_a_language_models_answers_are_kept_as_they_come(here, monkeypatch, capsys):
    """Ctrl-C after two of five people: the same command asks about the other three, and once more about nobody."""
    asked = []

    def reply(self, messages):
        if len(asked) == 2:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(messages)
        return ("Hate", "Violence, and Shocking", "nothing")[len(asked) % 3]

    monkeypatch.setattr(LanguageModel, "reply", reply)
    command = ["users", "u.csv", "--count", "5", "--llm", str(make_tiny_llm(here / "llm")), "--device", "cpu"]
    assert main(command) != 0
    kept = here / "u.answers.jsonl"
    assert not (here / "u.csv").exists() and stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len([line for line in kept.read_text().splitlines() if line]) == 2
    assert not any(word in kept.read_text() for word in ("healthy", "male", "Islam", "Age"))
    assert main(command) == 0
    assert len(asked) == 6
    users = read_users("u.csv")
    assert {user.banned_categories for user in users[:2]} == {("Shocking", "Violence"), ()}
    assert main(command) == 0 and len(asked) == 6 and read_users("u.csv") == users
    (here / "u.csv").unlink()
    assert main(command) == 0 and len(asked) == 6 and read_users("u.csv") == users
    entry = json.loads(kept.read_text().splitlines()[1])
    with open(kept, "a") as file:
        file.write("\n" + json.dumps(entry | {"answer": "[]"}))  # not what its seal stands for
    assert main([*command, "--force"]) == 0 and len(asked) == 6 and read_users("u.csv") == users
    for useless in ("[" * 50_000, '["Hate"', "7", '[["Hate"]]', "9" * 5_000):  # it is asked about again
        AnswerLog(kept, private=True).keep(entry["key"], Answer(useless), {})
        before = len(asked)
        assert main([*command, "--force"]) == 0 and len(asked) == before + 1
    capsys.readouterr()


def test_thoughts_are_no_bans_and_thoughts_without_end_no_answer(here, monkeypatch, capsys):
    command = ["users", "u.csv", "--count", "2", "--llm", str(make_tiny_llm(here / "llm")), "--device", "cpu"]
    monkeypatch.setattr(LanguageModel, "reply", lambda *_: "<think>Hate? Violence? Sexuality? no.</think>Only Hate.")
    assert main(command) == 0 and {user.banned_categories for user in read_users("u.csv")} == {("Hate",)}
    monkeypatch.setattr(LanguageModel, "reply", lambda *_: "<think>Hate? Violence? Sexuality?")
    assert "came to no answer" in fails(capsys, "users", "v.csv", *command[2:])


def test_what_somebody_wrote_by_hand_is_not_overwritten(here, capsys):
    (here / "list.txt").write_text("# Shocking\nspider\n")
    commands = {
        "p.jsonl": ["prompts", "list.txt", "p.jsonl", "--pairs", "3"],
        "u.jsonl": ["users", "u.jsonl", "--count", "9"],
        "u.png": ["users", "u.jsonl", "--count", "9", "--picture", "u.png"],
    }
    for name, command in commands.items():
        assert main(command) == 0
        made = (here / name).read_bytes()
        before = (here / name).stat().st_mtime_ns
        assert main(command) == 0  # the same again is no change
        assert (here / name).stat().st_mtime_ns == before
        mine = made.replace(b"by hand", b"") + made[-200:]
        (here / name).write_bytes(mine)
        assert "--force" in fails(capsys, *command)
        assert (here / name).read_bytes() == mine
        assert main([*command, "--force"]) == 0 and (here / name).read_bytes() == made
    assert "nothing is asked again" in fails(capsys, *commands["p.jsonl"], "--harmless", "2")
    capsys.readouterr()


def test_set_aside_pairs_are_all_in_a_file(here, capsys):
    (here / "list.txt").write_text("# Shocking\nspider\n")
    (here / "scenes.txt").write_text("a room with {a concept} | a room\n")
    command = ["prompts", "list.txt", "p.jsonl", "--pairs", "30", "--scenes", "scenes.txt", "--implied", "0"]
    assert main(command) == 0
    assert "29 set aside, all of them listed in p.set-aside.jsonl" in capsys.readouterr().out
    assert len((here / "p.set-aside.jsonl").read_text().splitlines()) == 29


@pytest.mark.parametrize("pairs", ["3", "30"], ids=["nothing is set aside", "pairs are set aside"])
def test_a_list_of_what_was_set_aside_takes_nobody_elses_place(here, capsys, pairs):
    (here / "list.txt").write_text("# Shocking\nspider\n")
    (here / "scenes.txt").write_text("a room with {a concept} | a room\n" * 2)
    command = ["prompts", "list.txt", "p.jsonl", "--pairs", pairs, "--implied", "0"]
    command += ["--scenes", "scenes.txt"] if pairs == "30" else []
    aside = here / "p.set-aside.jsonl"
    aside.write_text('{"mine": "by hand"}\n')
    assert "--force" in fails(capsys, *command)
    assert aside.read_text() == '{"mine": "by hand"}\n' and not (here / "p.jsonl").exists()
    assert main([*command, "--force"]) == 0
    assert ("spider" in aside.read_text()) == (pairs == "30"), "where there is no list, nothing is taken away"
    if pairs == "30":
        assert main(command) == 0  # its own
        assert main([*command[:3], "--pairs", "1", "--implied", "0", "--force"]) == 0 and not aside.exists()


def test_no_command_writes_over_what_it_reads(here, capsys):
    (here / "list.jsonl").write_text("# Shocking\nspider\n")
    (here / "link.jsonl").symlink_to("list.jsonl")
    for output in ("list.jsonl", "link.jsonl", str(here / "list.jsonl")):
        assert "input" in fails(capsys, "prompts", "list.jsonl", output, "--force")
    assert (here / "list.jsonl").read_text() == "# Shocking\nspider\n"


def gloo_group(timeout: float) -> list:
    """Both ends of a group of two processes, in this one."""
    store, ends = distributed.HashStore(), [None, None]

    def join(rank: int) -> None:
        ends[rank] = distributed.ProcessGroupGloo(store, rank, 2, timedelta(seconds=timeout))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "silent"])
def test_waiting_for_a_process_that_is_gone_is_a_sentence(gone):
    ends = gloo_group(timeout=20 if gone else 0.5)
    if gone:
        ends.pop()
    for _ in range(2):  # of a connection that broke before, too
        with pytest.raises(PSAError, match="Another process of this launch has ended"), _others_there():
            ends[0].barrier().wait()


@pytest.mark.parametrize("kind", ["DistBackendError", "DistNetworkError", "DistStoreError"])
def test_a_broken_connection_of_another_kind_is_a_sentence(kind):
    with pytest.raises(PSAError, match="Another process of this launch has ended"), _others_there():
        raise getattr(distributed, kind)("NCCL error: remote process exited or there was a network error")


OWN_ERRORS = [
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: an illegal memory access was encountered"),
    torch.OutOfMemoryError("CUDA out of memory"),
    distributed.DistBackendError("NCCL error in: x.cpp:1\nncclUnhandledCudaError: Call to CUDA function failed."),
    distributed.DistBackendError("NCCL error in: x.cpp:1\nncclInvalidUsage: ...\nDuplicate GPU detected"),
]


@pytest.mark.parametrize("error", OWN_ERRORS, ids=str)
def test_what_goes_wrong_in_this_process_is_not_told_of_another(error):
    """A GPU's errors come late: where results are next waited for."""
    with pytest.raises(type(error)) as caught, _others_there():
        raise error
    assert caught.value is error


def test_a_process_whose_peer_was_refused_calls_it_no_bug(here):
    """Under torchrun the main process claims the folder, and the other one waits for it."""
    assert main(["prompts", "mini", "p.jsonl", "--pairs", "2", "--harmless", "0"]) == 0
    (here / "set").mkdir()
    (here / "set" / "mine.txt").write_text("a note")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["build-dataset", "p.jsonl", "set", "--model", str(BASE_MODEL), "--count", "4"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.run(
        [*launcher, "-m", "psa_core.cli", *command], env=env, capture_output=True, text=True, timeout=300
    )
    said = process.stdout + process.stderr
    assert process.returncode != 0 and "holds mine.txt" in said
    assert "bug of ours" not in said  # what it says depends on which comes first, the broken wait or torchrun's signal
