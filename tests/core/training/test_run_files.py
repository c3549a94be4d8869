"""A run's files: damage is noticed, another run is told from this one, and nobody else's file is touched."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import Touch
from PIL import Image
from tiny_training import QUICK, dataset, denoiser, trainer, write_split

from psa_core import PSAError, load_adapter
from psa_core.files import MACHINE
from psa_core.locks import locked_folder
from psa_core.tensor_files import save_file
from psa_core.training import DiffusersDenoiser, StopTraining, TrainConfig, Trainer, read_metrics
from psa_core.training.folder import RunFolder
from psa_core.training.sealed import SealError, read_sealed, write_sealed
from psa_core.training.state import load_state, save_state

SETTINGS = {"steps": 4, "ema_decay": 0.5, "evaluate_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sage")
    write_split(folder, "train", range(8), 12)
    write_split(folder, "val", range(8), 6)
    write_split(folder, "other", range(20, 28), 6)
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    run = tmp_path_factory.mktemp("run")
    trainer(data, run, ("val",), **SETTINGS).train()
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resume(data, run, **changes):
    return trainer(data, run, ("val",), **{**SETTINGS, **changes}).train()


def refused(data, run, match, **changes) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(PSAError, match=match):
        resume(data, run, **changes)
    for path, content in before.items():
        assert path.read_bytes() == content


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".safetensors"}


# Damage


def test_every_flipped_or_cut_state_is_refused(data, run):
    state = run / "state.safetensors"
    content, rng = state.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*rng.sample(range(header), 150), *rng.sample(range(header, len(content)), 150)]
    kept = 0
    for place in places:
        state.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            same = RunFolder(run).load()
        except PSAError as error:
            assert "cannot be used" in str(error)
        else:  # a blank of the header: what is read is what was written
            kept += 1
            assert same["step"] == 4
    assert kept < 5
    for size in (0, 7, 8, 100, header, len(content) - 1):
        state.write_bytes(content[:size])
        refused(data, run, "cannot be used")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("step", -5),
        ("step", 10**9),
        ("step", 2.5),
        ("step", None),
        ("key", "no hex"),
        ("trend", float("nan")),
        ("best", "low"),
        ("adapter", {}),
        ("average", [torch.zeros(1)]),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("identity", {}),
        ("pending", [1]),
    ],
)
def test_a_state_that_no_run_writes_is_refused(data, run, entry, value):
    state = RunFolder(run).load()
    RunFolder(run).save({**state, entry: value})
    refused(data, run, r"state in .* is damaged")
    RunFolder(run).save({name: part for name, part in state.items() if name != entry})
    refused(data, run, r"state in .* is damaged")


def test_nan_weights_of_a_finished_run_are_no_result(data, run):
    state = RunFolder(run).load()
    state["adapter"]["user_proj.norm.bias"][3] = float("nan")
    RunFolder(run).save(state)
    refused(data, run, "NaN or infinite")


def test_a_finished_run_mends_its_adapter_from_its_state(data, run, whole):
    (run / "last.safetensors").write_bytes(b"damaged")
    assert resume(data, run).finished
    assert contents(run) == contents(whole)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_run_whose_best_adapter_is_lost_says_so(data, run, spoil):
    spoil(run / "best.safetensors")
    with pytest.raises(PSAError, match=r"best\.safetensors"):
        resume(data, run)


def test_the_same_run_gives_the_same_bytes(data, tmp_path, whole):
    trainer(data, tmp_path, ("val",), **SETTINGS).train()
    assert contents(tmp_path) == contents(whole)
    assert set(contents(whole)) == {"state.safetensors", "last.safetensors", "best.safetensors"}


def test_sealed_files_know_what_they_stand_for(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True), "c": torch.ones(3, dtype=torch.bfloat16)}
    tensors |= {"view": tensors["a"][0], "empty": torch.empty(0, 2)}
    write_sealed(tmp_path / "x", "x", {"n": [1, None]}, tensors)
    data, read = read_sealed(tmp_path / "x", "x")
    assert data == {"n": [1, None]} and read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())
    assert read_sealed(tmp_path / "x", "x", "b")[1].keys() == {"b"}
    for stands_for, names in (("y", ()), ("x", ("z",))):
        with pytest.raises(SealError):
            read_sealed(tmp_path / "x", stands_for, *names)


@pytest.mark.parametrize("digests", [["a"], "a", 5, None, {"a": 1}, {"a": ""}, {"other": ""}])
@pytest.mark.parametrize("names", [(), ("a",)])
def test_a_seal_that_fits_a_crafted_head_lets_nothing_through(tmp_path, digests, names):
    """Whoever hands a cache out can seal in it what they like."""
    head = json.dumps({"stands_for": "x", "data": None, "digests": digests})
    seal = hashlib.blake2b(head.encode(), digest_size=16).hexdigest()
    save_file({"a": torch.ones(2)}, tmp_path / "x", metadata={"psa": seal + head})
    with pytest.raises(SealError, match="damaged"):
        read_sealed(tmp_path / "x", "x", *names)


def test_nested_states_come_back_as_they_were(tmp_path):
    state = {"a": {0: (1.5, [True, None]), "b": {}}, "t": [torch.ones(2), {"x": torch.zeros(1)}], "inf": float("inf")}
    save_state(tmp_path / "s", "kind", state)
    again = load_state(tmp_path / "s", "kind")
    assert again["a"] == state["a"] and again["inf"] == state["inf"] and torch.equal(again["t"][1]["x"], torch.zeros(1))
    with pytest.raises(PSAError, match="stands for something else"):
        load_state(tmp_path / "s", "another kind")


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_every_flipped_bit_of_an_adapter_is_refused_or_without_effect(run, name):
    path, rng = run / name, random.Random(4)
    content, whole = path.read_bytes(), load_adapter(path)
    header = 8 + int.from_bytes(content[:8], "little")
    for place in (*rng.sample(range(header), 150), *rng.sample(range(header, len(content)), 150)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            adapter = load_adapter(path)
        except PSAError:
            continue
        assert place < header and adapter.training_summary == whole.training_summary
        assert all(torch.equal(value, whole.state_dict()[key]) for key, value in adapter.state_dict().items())


@pytest.mark.parametrize(
    "data", [None, 3, [], {}, {"dict": 3}, {"tensor": "b"}, {"list": [1], "dict": []}, {"dict": [1]}]
)
def test_sealed_files_that_are_no_states_are_refused(tmp_path, data):
    write_sealed(tmp_path / "s", "kind", data, {"a": torch.ones(1)})
    with pytest.raises(PSAError, match="holds no state"):
        load_state(tmp_path / "s", "kind")


def entries(pairs) -> list[Path]:
    return sorted((pairs.cache.folder).rglob("*.safetensors"))


def test_a_cache_entry_is_the_one_that_was_put_there(data, tmp_path):
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    pairs = dataset(copy, "train", TrainConfig.from_dict({**QUICK, "flip": False, "caption_dropout": 0.0}))
    first, second = (
        next(path for path in entries(pairs) if path.stem == pairs.picture_keys[i].decode()) for i in (0, 1)
    )
    good = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(PSAError, match="stands for something else"):
        pairs[0, 0, 0]
    rng, item = random.Random(1), None
    for _ in range(150):
        place = rng.randrange(len(good))
        first.write_bytes(good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1 :])
        try:
            item = pairs[0, 0, 0]
        except PSAError:
            continue
        first.write_bytes(good)
        assert torch.equal(item["latents"], pairs[0, 0, 0]["latents"])


@pytest.mark.parametrize("times", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_run_with_a_damaged_byte_is_refused_or_ends_the_same(data, tmp_path, times):
    """One of its files, cached ones too, has a bit flipped or its end cut off when the run goes on."""
    seed, base, place = random.randrange(2**32), denoiser(), tmp_path / "place"
    print(f"seed {seed}, {times} damages")  # pytest shows it where the test fails, or with -rP

    def goes_on(stop=None) -> None:
        run = trainer(place / "data", place / "run", ("val",), base, **SETTINGS, reference_draws=1)
        run.train(stop)

    shutil.copytree(data, place / "data", ignore=shutil.ignore_patterns("cache"))
    goes_on(lambda progress: progress.step == 2)
    pristine = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.suffix != ".png"}
    kinds = {path.name: [path] for path in pristine if path.parent.name == "run" and path.name != ".lock"}
    kinds["cached"] = [path for path in pristine if path.is_relative_to(place / "data" / "cache")]
    assert kinds.keys() == {"state.safetensors", "last.safetensors", "best.safetensors", "metrics.jsonl", "cached"}
    goes_on()
    whole, rng, same = outcome(place / "run"), random.Random(seed), Counter()
    for number in range(times):
        shutil.rmtree(place / "run")
        for path, content in pristine.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        kind = list(kinds)[number % len(kinds)]
        path = rng.choice(kinds[kind])
        content, at = pristine[path], rng.randrange(len(pristine[path]))
        flipped = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        path.write_bytes(content[:at] if rng.random() < 0.2 else flipped)
        try:
            goes_on()
        except PSAError as error:
            assert str(error).endswith(".")
        else:
            assert outcome(place / "run") == whole, f"{path.name} damaged at {at} changes the result"
            same[kind] += 1
    print(f"{times - same.total()} refused, and without effect: {dict(same)}")
    assert same["state.safetensors"] < times / len(kinds)


def outcome(run: Path) -> tuple:
    timing = ("examples_per_second", "eta_seconds")
    return contents(run), [{k: v for k, v in row.items() if k not in timing} for row in read_metrics(run)]


# Metrics


def test_every_damaged_byte_of_the_metrics_is_refused_or_dropped_with_its_line(data, run):
    path = run / "metrics.jsonl"
    content, rows, rng = path.read_bytes(), read_metrics(run), random.Random(2)
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and "check" not in rows[0]
    for _ in range(400):
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            assert read_metrics(run) == rows[:3]  # the last line's end is gone: as if a kill had cut it
        except PSAError as error:
            assert "damaged" in str(error)
    first = content[: content.index(b"\n") + 1]  # of which no other line says whether lines have checks
    for place in range(len(first)):
        for bit in range(8):
            path.write_bytes(first[:place] + bytes([first[place] ^ 1 << bit]) + first[place + 1 :])
            try:
                assert read_metrics(run) == rows[:1] or not read_metrics(run)
            except PSAError as error:
                assert "damaged" in str(error)
    path.write_bytes(content)
    for size in (len(content) - 1, len(content) // 2, 1):
        path.write_bytes(content[:size])
        found = read_metrics(run)
        assert found == rows[: len(found)]
    refused(data, run, "ends before step 4")
    path.unlink()
    assert resume(data, run).finished


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '"a"',
        "null",
        "{}",
        "{",
        '{"step": "1"}',
        '{"step": 1, "loss": "low"}',
        '{"step": 1, "loss": {}}',
        '{"step": true}',
        '{"step": -1}',
        '{"step": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        "\udcff",
    ],
)
def test_lines_that_are_no_figures_are_refused(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(PSAError, match=r"Line 1 of .* damaged"):
        read_metrics(tmp_path)


def test_metrics_of_earlier_versions_are_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_full_disk_under_the_metrics_loses_nothing(data, tmp_path, monkeypatch):
    from psa_core.training import metrics

    whole = trainer(data, tmp_path / "whole", ("val",), **SETTINGS, save_every=100).train()
    line, full = metrics._line, iter([False, True, False, False, False])

    def write(self, entry):
        if next(full):
            raise PSAError("metrics.jsonl cannot be written")
        self._file.write(line(entry))
        self._file.flush()

    monkeypatch.setattr(metrics.MetricsLog, "write", write)
    with pytest.raises(PSAError, match="cannot be written"):
        trainer(data, tmp_path / "full", ("val",), **SETTINGS, save_every=100).train()
    assert RunFolder(tmp_path / "full").load()["step"] == 2
    result = trainer(data, tmp_path / "full", ("val",), **SETTINGS, save_every=100).train()
    assert contents(tmp_path / "full") == contents(tmp_path / "whole") and result.step == whole.step
    timing = ("examples_per_second", "eta_seconds")
    one, other = (
        [{k: v for k, v in row.items() if k not in timing} for row in read_metrics(tmp_path / name)]
        for name in ("full", "whole")
    )
    assert one == other


# What a run is


def halved(base: DiffusersDenoiser) -> DiffusersDenoiser:
    return DiffusersDenoiser(base.unet, base.alphas_cumprod, id="halved")


def test_another_run_is_told_with_what_differs(data, run, tmp_path):
    refused(data, run, r"other settings \(beta, winner_weight\)", beta=10.0, winner_weight=1.0)
    with pytest.raises(PSAError, match="another base model"):
        trainer(data, run, ("val",), base=halved(denoiser()), **SETTINGS).train()
    with pytest.raises(PSAError, match="other held-out pairs"):
        trainer(data, run, ("other",), **SETTINGS).train()


def test_a_picture_replaced_with_same_size_and_time_is_another(data, tmp_path):
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    picture, rng = next((copy / "train").glob("*_s.png")), np.random.default_rng(0)

    def paint() -> os.stat_result:
        pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(picture, compress_level=0)  # so that the size is that of every such picture
        return picture.stat()

    first = paint()
    trainer(copy, tmp_path / "run", ("val",), **SETTINGS).train()
    second = paint()
    os.utime(picture, ns=(first.st_atime_ns, first.st_mtime_ns))
    assert second.st_size == first.st_size and picture.stat().st_mtime_ns == first.st_mtime_ns
    with pytest.raises(PSAError, match="holds a run with another dataset"):
        trainer(copy, tmp_path / "run", ("val",), **SETTINGS).train()


def test_harmless_pictures_are_part_of_a_run(data, tmp_path):
    config = TrainConfig.from_dict({**QUICK, "steps": 1, "anchor_weight": 1.0})

    def train(name: str | None) -> None:
        harmless = dataset(data, name, config, held_out=True) if name else None
        Trainer(config, denoiser(), dataset(data, "train", config, harmless=harmless), tmp_path).train()

    train("val")
    for other in ("other", None):
        with pytest.raises(PSAError, match="other harmless pictures"):
            train(other)
    train("val")


def test_what_changes_no_result_may_change(data, run, whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for picture in copy.rglob("*.png"):
        os.utime(picture)
    changes = {"workers": 1, "gradient_checkpointing": True, "save_every": 2, "evaluate_every": 1, "steps": 6}
    assert trainer(copy, run, ("val",), **{**SETTINGS, **changes}).train().step == 6
    steps = [row["step"] for row in read_metrics(run) if "val/loss" in row]
    assert steps == [2, 4, 5, 6]


def test_early_stop_makes_the_interval_count(data, tmp_path):
    settings = {**SETTINGS, "early_stop": 5}
    trainer(data, tmp_path, ("val",), **settings).train()
    with pytest.raises(PSAError, match=r"evaluate_every"):
        trainer(data, tmp_path, ("val",), **{**settings, "evaluate_every": 1}).train()


def test_a_state_of_an_earlier_version_goes_on(data, tmp_path, caplog):
    settings = {**SETTINGS, "standardise": True, "optimizer": "adafactor", "num_tokens": 2}
    trainer(data, tmp_path / "whole", ("val",), **settings, key=b"").train()
    trainer(data, tmp_path / "old", ("val",), **{**settings, "steps": 2}, key=b"").train()
    state = RunFolder(tmp_path / "old").load()
    config = TrainConfig.from_dict({**QUICK, **settings, "steps": 2})
    old = {name: state[name] for name in ("step", "best", "worse", "end", "trend", "adapter", "average", "optimizer")}
    torch.save({"format": 1, "config": config.to_dict(), "data": "0" * 32, **old}, tmp_path / "old" / "state.pt")
    (tmp_path / "old" / "state.safetensors").unlink()
    with pytest.raises(PSAError, match=r"other settings \(beta\)"):
        trainer(data, tmp_path / "old", ("val",), **settings, beta=1.0).train()
    trainer(data, tmp_path / "old", ("val",), **settings).train()
    assert contents(tmp_path / "old") == contents(tmp_path / "whole")
    assert not (tmp_path / "old" / "state.pt").exists()
    assert any("begun by an earlier version" in record.message for record in caplog.records)


def test_an_old_state_runs_no_code(data, run):
    (run / "state.safetensors").unlink()
    torch.save({"format": 1, "step": Touch(run / "ran")}, run / "state.pt")
    refused(data, run, "nothing of it was run")
    assert not (run / "ran").exists()


# Whose folder it is


def test_the_best_adapter_of_another_run_is_not_taken_for_this_ones(data, run, tmp_path):
    other = trainer(data, tmp_path / "other", ("val",), **SETTINGS, seed=1)
    other.train()
    shutil.copy(tmp_path / "other" / "best.safetensors", run)
    refused(data, run, "is not the best adapter of this run")
    state = RunFolder(run).load()
    state.pop("best_file")  # as an earlier version has it, which did not note it
    RunFolder(run).save(state)
    assert resume(data, run).finished


def test_a_best_adapter_that_is_later_than_the_state_is_a_killed_runs(data, tmp_path):
    """Between the two files a kill may come: the run goes on, and measures that step again."""
    trainer(data, tmp_path, ("val",), **SETTINGS).train(lambda progress: progress.step == 2)
    state = RunFolder(tmp_path).load()
    resume(data, tmp_path)
    shutil.copy(tmp_path / "last.safetensors", tmp_path / "best.safetensors")  # of step 4
    RunFolder(tmp_path).save(state)
    assert resume(data, tmp_path).finished


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "metrics.jsonl"])
def test_files_that_the_run_did_not_make_stay(data, tmp_path, name):
    (tmp_path / name).write_bytes(b"somebody's")
    refused(data, tmp_path, f"holds {name}, but no state of a run")
    assert (tmp_path / name).read_bytes() == b"somebody's"


HOLDER = """
import sys, time
from pathlib import Path
from psa_core.locks import locked_folder
with locked_folder(Path(sys.argv[1]), "training in"):
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_second_run_in_the_folder_is_told_who_is_first(data, run):
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(PSAError, match=rf"Another process is training in .*process {first.pid} on .* since"):
            resume(data, run)
        with pytest.raises(PSAError, match="Another process"):
            RunFolder(run).check()
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert resume(data, run).finished
    finally:
        first.kill()


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": gone.pid, "host": os.uname().nodename, "since": "long ago"}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    for _ in range(2):
        with (
            locked_folder(tmp_path, "testing in"),
            pytest.raises(PSAError, match=f"process {os.getpid()} on"),
            locked_folder(tmp_path, "testing in"),
        ):
            pass
    for text in ("", "no JSON", "[]", '{"pid": "x"}', "\udcff"):
        (tmp_path / ".lock").write_bytes(text.encode(errors="surrogateescape"))
        with locked_folder(tmp_path, "testing in"):
            pass


def test_a_full_disk_leaves_no_lock_behind(tmp_path, monkeypatch):
    def full(*_) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("psa_core.locks.os.write", full)
        with pytest.raises(PSAError, match="No space left"), locked_folder(tmp_path, "testing in"):
            pass
    with locked_folder(tmp_path, "testing in"):  # in this very process, which would have the handle still
        pass


def test_of_two_that_meet_a_dead_ones_lock_one_holds_the_folder(tmp_path):
    """A killed process's children have its lock for a moment: whoever waits for it takes turns with all others."""
    fcntl = pytest.importorskip("fcntl")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": gone.pid, "host": os.uname().nodename, "machine": MACHINE, "since": "long ago"}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    child = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(child, fcntl.LOCK_EX)
    inside, most = [], []

    def take() -> bool:
        try:
            with locked_folder(tmp_path, "testing in"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.3)
                inside.pop()
        except PSAError as error:
            assert f"process {os.getpid()} on" in str(error) or "has not said yet" in str(error)
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        took = [pool.submit(take) for _ in range(3)]
        time.sleep(0.3)
        assert not most
        os.close(child)
        assert any(each.result() for each in took)
    assert max(most) == 1


def test_a_living_holder_in_a_container_of_the_same_name_keeps_the_lock(tmp_path):
    """Its number is another's here, or nobody's."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with locked_folder(tmp_path, "testing in"):
        holder = json.loads((tmp_path / ".lock").read_text())
        (tmp_path / ".lock").write_text(json.dumps(holder | {"pid": gone.pid, "machine": "00000000"}))
        with pytest.raises(PSAError, match=f"process {gone.pid} on"), locked_folder(tmp_path, "testing in"):
            pass


def test_an_output_that_cannot_be_written_is_a_sentence(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(PSAError, match=r"cannot be made|cannot be written"):
            RunFolder(folder).check()


# Stopping


def test_the_pass_over_the_reference_stops_within_a_batch(data, tmp_path):
    settings = {"steps": 2, "reference_draws": 2}
    whole = trainer(data, tmp_path / "whole", **settings).train()
    shutil.rmtree(data / "cache")
    asked = []

    def stop_at_two(done: int, count: int) -> bool:
        asked.append((done, count))
        return done == 2

    result = trainer(data, tmp_path / "cut", **settings).train(preparing=stop_at_two)
    assert asked == [(0, 6), (1, 6), (2, 6)]
    assert (result.step, result.finished) == (0, False) and "start again" in result.reason

    def cancel(done: int, _count: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(data, tmp_path / "cut", **settings).train(preparing=cancel)
    result = trainer(data, tmp_path / "cut", **settings).train()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole") and result.step == whole.step


def test_cancelled_while_it_measures_loses_no_step(data, tmp_path):
    """The step is made, its figures are not: they are measured when the run goes on."""
    whole = trainer(data, tmp_path / "whole", ("val",), **SETTINGS, save_every=100).train()
    base, calls = denoiser(), [0]

    class Cancelled:
        def __getattr__(self, name):
            return getattr(base, name)

        def __call__(self, *arguments):
            calls[0] += 1
            if calls[0] == 2 * 4 + 2:  # two steps of two passes each, reference and policy, then the second to measure
                raise KeyboardInterrupt
            return base(*arguments)

    with pytest.raises(KeyboardInterrupt):
        trainer(data, tmp_path / "cut", ("val",), base=Cancelled(), **SETTINGS, save_every=100).train()
    assert RunFolder(tmp_path / "cut").load()["step"] == 2
    result = trainer(data, tmp_path / "cut", ("val",), **SETTINGS, save_every=100).train()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole") and result.step == whole.step
    assert [row["step"] for row in read_metrics(tmp_path / "cut")] == [1, 2, 3, 4]


@pytest.mark.parametrize("raises", [None, StopTraining, KeyboardInterrupt])
def test_measuring_stops_between_batches_of_pairs(data, tmp_path, raises):
    whole = trainer(data, tmp_path / "whole", ("val",), **SETTINGS, save_every=100).train()
    asked = []

    def stop_at_one(done: int, count: int) -> bool:
        asked.append((done, count))
        if done == 1 and raises:
            raise raises
        return done == 1

    cut = trainer(data, tmp_path / "cut", ("val",), **SETTINGS, save_every=100)
    if raises is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            cut.train(measuring=stop_at_one)
    else:
        result = cut.train(measuring=stop_at_one)
        assert (result.step, result.finished) == (2, False) and "start again" in result.reason
    assert asked == [(0, 3), (1, 3)]
    assert RunFolder(tmp_path / "cut").load()["step"] == 2
    result = trainer(data, tmp_path / "cut", ("val",), **SETTINGS, save_every=100).train()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole") and result.step == whole.step
    assert [row["step"] for row in read_metrics(tmp_path / "cut") if "val/loss" in row] == [2, 4]


def test_a_killed_run_leaves_its_folder_free(data, tmp_path):
    (tmp_path / "data").symlink_to(data)
    child = os.fork()
    if child == 0:
        trainer(data, tmp_path / "run", steps=10_000, workers=1).train()
        os._exit(0)
    deadline = time.monotonic() + 60
    saved = RunFolder(tmp_path / "run")  # the adapter is written before the state that knows the step
    while ((state := saved.load()) is None or not state["step"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert trainer(data, tmp_path / "run", steps=10_000, workers=0).train(lambda _: True).step > 1
