"""The command `psa`: what it writes, and what it says when it cannot."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import published_layout, random_adapter
from damage import hostile_pickle
from safetensors.torch import load_file

from psa_core import LEVELS, StructuredEncoder, UserProfile, load_adapter, load_embedding, read_users_csv, save_adapter
from psa_core.cli import main
from psa_core.signals import stop_signals

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")

SECRET = {
    "User_ID": "7654321",
    "Age": 47,
    "Gender": "female",
    "Religion": "Buddhism",
    "Physical_Condition": "hearing impairment",
    "Mental_Condition": "sexual assault",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> Path:
    pytest.importorskip("transformers")
    from tiny_llm import make_tiny_llm

    return make_tiny_llm(tmp_path_factory.mktemp("models") / "Tiny", reply="violence, HATE")


def structured(*profiles: UserProfile) -> torch.Tensor:
    return StructuredEncoder().encode(profiles).vectors


def write_users(path: Path, profiles: list[UserProfile], with_ids: bool = False) -> None:
    rows = [profile.to_dict() for profile in profiles]
    for row in rows:
        if not with_ids:
            row.pop("User_ID", None)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(capsys, here: Path, *arguments: str) -> str:
    """Run `psa` where it should refuse: one line on stderr, exit code 2, nothing changed on disk."""
    before = files(here)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("psa: ") and said.err.count("\n") == 1
    assert files(here) == before
    for word in ("7654321", "47", "female", "Buddhism", "hearing impairment"):
        assert word not in said.err.replace("hearing impairment, intellectual", "").replace("Islam, Buddhism", "")
    return said.err


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_as_ours(level, capsys):
    assert main(["encode", "--level", level, "-o", "out.safetensors"]) == 0
    embedding = load_embedding("out.safetensors")
    assert torch.equal(embedding.vectors, structured(LEVELS[level]))
    assert embedding.encoder_id == StructuredEncoder.id
    assert "out.safetensors" in capsys.readouterr().out


def test_a_level_as_the_published_kind():
    assert main(["encode", "--level", "L3", "--encoder", "structured", "-o", "new/out.npy"]) == 0
    array = np.load("new/out.npy")
    assert (array.shape, array.dtype) == ((35,), np.float32)
    assert torch.equal(load_embedding("new/out.npy").vectors, structured(LEVELS["L3"]))


def test_an_encoder_that_does_not_see_the_bans():
    assert main(["encode", "--level", "L3", "--encoder", "structured-inferred", "-o", "out.safetensors"]) == 0
    embedding = load_embedding("out.safetensors")
    assert embedding.encoder_id == "structured-inferred-v1"
    assert torch.equal(embedding.vectors, structured(LEVELS["L3"])[:, :28])


def test_a_full_disk_leaves_no_file_of_a_folder(here, capsys, monkeypatch):
    write_users(here / "users.csv", [*LEVELS.values()])
    (here / "folder").mkdir()
    np.save(here / "folder" / "0000002.npy", np.ones(35, np.float32))
    written, save = [], np.save

    def fill(file, array):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(file)
        save(file, array)

    monkeypatch.setattr(np, "save", fill)
    assert "No space left" in fails(capsys, here, "encode", "--users", "users.csv", "-o", "folder")
    assert len(written) == 3 and [path.name for path in (here / "folder").iterdir()] == ["0000002.npy"]


def test_a_place_that_cannot_be_written_is_found_before_the_work(here, capsys, monkeypatch):
    write_users(here / "users.csv", [*LEVELS.values()])
    (here / "folder" / "0000003.npy").mkdir(parents=True)
    monkeypatch.setattr(StructuredEncoder, "encode", lambda *_: pytest.fail("encoded"))
    assert "0000003.npy" in fails(capsys, here, "encode", "--users", "users.csv", "-o", "folder")
    if os.path.isdir("/proc/self"):  # where nobody may make a file
        assert "written" in fails(capsys, here, "encode", "--level", "L1", "-o", "/proc/out.npy")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize("name", ["out.safetensors", "out.npy", "folder/"])
def test_what_is_written_is_its_owners_alone(here, name):
    assert main(["encode", "--level", "L3", "-o", name]) == 0
    (path,) = (path for path in here.rglob("*") if path.is_file())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_profile_of_a_file(here, capsys):
    (here / "me.json").write_text(json.dumps(SECRET))
    assert main(["encode", "--profile", "me.json", "-o", "out.safetensors"]) == 0
    assert torch.equal(load_embedding("out.safetensors").vectors, structured(UserProfile.from_dict(SECRET)))
    said = capsys.readouterr()
    assert not any(str(value) in said.out + said.err for value in SECRET.values())


def test_users_as_a_batch_and_as_a_folder(here):
    users = [*LEVELS.values()]
    write_users(here / "users.csv", users)
    assert main(["encode", "--users", "users.csv", "-o", "out.safetensors"]) == 0
    assert main(["encode", "--users", "users.csv", "-o", "folder"]) == 0
    assert torch.equal(load_embedding("out.safetensors").vectors, structured(*users))
    written = sorted((here / "folder").iterdir())
    assert [path.name for path in written] == [f"{number:07d}.npy" for number in range(1, 7)]
    assert torch.equal(torch.cat([load_embedding(path).vectors for path in written]), structured(*users))


def test_the_folders_files_are_named_by_user_id(here):
    write_users(here / "users.csv", [LEVELS["L2"], LEVELS["L5"]], with_ids=True)
    assert main(["encode", "--users", "users.csv", "-o", "folder/"]) == 0
    assert {path.name for path in (here / "folder").iterdir()} == {"0000697.npy", "0000501.npy"}


def test_published_users(published):
    assert main(["encode", "--users", str(published / "users.csv"), "-o", "out.safetensors"]) == 0
    assert torch.equal(load_embedding("out.safetensors").vectors, structured(*read_users_csv(published / "users.csv")))


def test_a_language_model(llm, here):
    from tiny_llm import TEMPLATES

    from psa_core.encoders.language_model import LanguageModelEncoder

    common = ["--device", "cpu", "--cache", "cache", "--llm", str(llm)]
    assert main(["encode", "--level", "L3", *common, "-o", "told.safetensors"]) == 0
    assert main(["encode", "--level", "L3", *common, "--banned-by", "language-model", "-o", "asked.npy"]) == 0
    told, asked = load_embedding("told.safetensors"), load_embedding("asked.npy")
    encoder = LanguageModelEncoder(llm, templates=TEMPLATES)
    assert told.encoder_id == encoder.id
    assert torch.equal(told.vectors, encoder.encode([LEVELS["L3"]]).vectors)
    assert not torch.equal(told.vectors, asked.vectors)
    assert len(list((here / "cache").glob("*.safetensors"))) == 2
    write_users(here / "users.csv", [LEVELS["L3"], LEVELS["L4"]])
    templates = ["--templates", str(TEMPLATES), "--banned-by", "profile"]
    assert main(["encode", "--users", "users.csv", *common, *templates, "-o", "both.safetensors"]) == 0
    assert torch.equal(load_embedding("both.safetensors").vectors[:1], told.vectors)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--llm", "nowhere"], "hf download"),
        (["--cache", "cache"], "--llm"),
        (["--banned-by", "profile"], "--llm"),
        (["--device", "cpu"], "--llm"),
        (["--templates", "t"], "--llm"),
    ],
)
def test_encoders_that_cannot_be(capsys, here, arguments, words):
    assert words in fails(capsys, here, "encode", "--level", "L1", *arguments, "-o", "out.npy")


def test_a_device_that_is_not_here(capsys, here, llm):
    said = fails(capsys, here, "encode", "--level", "L1", "--llm", str(llm), "--device", "nonsense", "-o", "out.npy")
    assert "--device" in said


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "empty"),
        ("{", "JSON"),
        (json.dumps(SECRET)[:-9], "JSON"),
        ("[" * 100_000, "JSON"),
        (json.dumps(SECRET)[:-1] + ', "Age": 35}', "has a name twice"),
        ("[]", "object"),
        (json.dumps(SECRET | {"Age": 200}), "Age"),
        (json.dumps(SECRET | {"Age": -1}), "Age"),
        (json.dumps(SECRET | {"Religion": "Pastafarian"}), "Religion"),
        (json.dumps(SECRET | {"Banned_Categories": "spiders"}), "category"),
        (json.dumps(SECRET | {"Banned_Categories": ["spiders"]}), "Banned_Categories"),
        (json.dumps({key: SECRET[key] for key in ("Age", "Gender")}), "lacks"),
    ],
)
def test_profiles_that_cannot_be(capsys, here, content, words):
    (here / "me.json").write_text(content)
    assert words in fails(capsys, here, "encode", "--profile", "me.json", "-o", "out.npy")


def test_files_that_are_not_there(capsys, here):
    assert "there.json" in fails(capsys, here, "encode", "--profile", "there.json", "-o", "out.npy")
    assert "there.csv" in fails(capsys, here, "encode", "--users", "there.csv", "-o", "out.npy")
    assert "names no file" in fails(capsys, here, "encode", "--users", "", "-o", "out.npy")
    assert "there.bin" in fails(capsys, here, "convert", "there.bin", "out.safetensors")


def test_outputs_that_cannot_be(capsys, here):
    write_users(here / "users.csv", [LEVELS["L1"], LEVELS["L1"]])
    write_users(here / "same.csv", [LEVELS["L1"], LEVELS["L1"]], with_ids=True)
    (here / "me.json").write_text(json.dumps({**SECRET, "User_ID": None}))
    assert ".safetensors" in fails(capsys, here, "encode", "--users", "users.csv", "-o", "out.npy")
    assert "User_ID" in fails(capsys, here, "encode", "--users", "same.csv", "-o", "folder")
    assert "User_ID" in fails(capsys, here, "encode", "--profile", "me.json", "-o", "folder")
    assert "-o" in fails(capsys, here, "encode", "--level", "L1", "-o", "out.bin")
    assert "NUL" in fails(capsys, here, "encode", "--level", "L1", "-o", "o\0ut.npy")
    assert "written" in fails(capsys, here, "encode", "--level", "L1", "-o", "me.json/out.npy")


@pytest.fixture
def adapter(here):
    """An adapter with numbers that half precision holds, in both published formats."""
    adapter = random_adapter((32, 64), 48, 35).half().float()
    torch.save(published_layout(adapter), here / "in.bin")
    save_adapter(adapter, here / "in.safetensors")
    return adapter


@pytest.mark.parametrize("name", ["in.bin", "in.safetensors"])
def test_convert(adapter, here, name):
    before = (here / name).read_bytes()
    assert main(["convert", name, "out.safetensors", "--encoder-id", "some-encoder"]) == 0
    converted = load_adapter("out.safetensors")
    assert converted.encoder_id == "some-encoder"
    assert all(torch.equal(value, adapter.state_dict()[key]) for key, value in converted.state_dict().items())
    assert (here / name).read_bytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_convert_changes_the_precision_only_where_it_is_told_to(adapter, dtype):
    assert main(["convert", "in.bin", "out.safetensors", "--dtype", dtype]) == 0
    assert {value.dtype for value in load_file("out.safetensors").values()} == {getattr(torch, dtype)}
    assert main(["convert", "out.safetensors", "again.safetensors"]) == 0
    first, again = load_file("out.safetensors"), load_file("again.safetensors")
    assert all(torch.equal(first[key], again[key]) and first[key].dtype == again[key].dtype for key in first)


def test_convert_replaces_only_where_it_is_told_to(adapter, capsys, here):
    (here / "out.safetensors").write_text("precious")
    assert "--force" in fails(capsys, here, "convert", "in.bin", "out.safetensors")
    assert main(["convert", "in.bin", "out.safetensors", "--force"]) == 0
    assert load_adapter("out.safetensors").layer_widths == (32, 64)


def test_convert_never_replaces_its_input(adapter, capsys, here):
    (here / "link.safetensors").symlink_to("in.safetensors")
    for output in ("in.safetensors", "./in.safetensors", str(here / "in.safetensors"), "link.safetensors"):
        assert "input" in fails(capsys, here, "convert", "in.safetensors", output, "--force")


def test_convert_refuses_what_is_no_adapter(adapter, capsys, here):
    (here / "evil.bin").write_bytes(hostile_pickle(here / "ran"))
    (here / "cut.bin").write_bytes((here / "in.bin").read_bytes()[:-100])
    assert ".safetensors" in fails(capsys, here, "convert", "in.bin", "out.bin")
    assert "code" in fails(capsys, here, "convert", "evil.bin", "out.safetensors")
    assert "cut.bin" in fails(capsys, here, "convert", "cut.bin", "out.safetensors")
    assert not (here / "ran").exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["encode"], ["encode", "--level", "L9", "-o", "x.npy"]])
def test_a_command_line_that_cannot_be_is_explained(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: psa" in capsys.readouterr().err


COMMANDS = {"module": [sys.executable, "-m", "psa_core.cli"], "script": [str(Path(sys.executable).parent / "psa")]}


@pytest.mark.parametrize("way", COMMANDS)
def test_as_a_process(way, here):
    command = COMMANDS[way]
    if way == "script" and not Path(command[0]).exists():
        pytest.skip("the package is not installed in this environment, so there is no command psa")

    def run(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=here)

    shown = run("--help")
    assert shown.returncode == 0 and "encode" in shown.stdout and "convert" in shown.stdout
    assert run("encode", "--level", "L5", "-o", "out.npy").returncode == 0
    (here / "me.json").write_text(json.dumps(SECRET | {"Age": 200}))
    (here / "evil.bin").write_bytes(hostile_pickle(here / "ran"))
    before = files(here)
    for arguments in (("encode", "--profile", "me.json", "-o", "out.npy"), ("convert", "evil.bin", "out.safetensors")):
        failed = run(*arguments)
        assert failed.returncode == 2
        assert failed.stdout == "" and failed.stderr.startswith("psa: ") and failed.stderr.count("\n") == 1
        assert "200" not in failed.stderr
    assert files(here) == before and not (here / "ran").exists()


def test_an_unforeseen_error_is_ours_and_tells_nothing_that_was_read(monkeypatch, capsys, here):
    def broken(_args):
        raise RuntimeError(f"in {SECRET}")

    monkeypatch.setattr("psa_core.commands.encode.run", broken)
    monkeypatch.setattr("tempfile.tempdir", str(here))
    assert main(["encode", "--level", "L3", "-o", "out.npy"]) == 70
    said = capsys.readouterr().err
    (report,) = here.glob("psa-bug-*.txt")
    assert str(report) in said and "bug of ours (RuntimeError)" in said and said.count("\n") == 1
    told = said + report.read_text(encoding="utf-8")
    assert "in broken" in told and "test_cli.py" in told
    assert not any(str(value) in told.replace(str(here), "") for name, value in SECRET.items() if name != "Age")


# What a shell starts in the background ignores Ctrl-C, and so would what it starts. "started" is said by the first
# thing that `main` does where it minds a Ctrl-C: one before it is Python's own.
STARTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from psa_core.cli import main
real = signal.signal
def told(*given):
    before = real(*given)
    signal.signal = real
    print("started", flush=True)
    return before
signal.signal = told
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single process")
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6, 1.0, 1.5])
def test_ctrl_c_at_any_moment_is_one_line(delay, here):
    process = started("mini", "dataset", "data")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # a library's import may swallow one; a person presses again
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("psa: interrupted. Unfinished") and said.count("\n") == 1


TOLD_IN_NUMPY = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Told(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.lib":
            sys.meta_path.remove(self)  # once
            try:
                signal.raise_signal(int(sys.argv[1]))
            except BaseException:
                if sys.argv[2] == "raised":
                    raise
                raise ImportError("numpy is damaged")

sys.meta_path.insert(0, Told())
from psa_core.cli import main
sys.exit(main(["convert", "in.bin", "out.safetensors"]))
"""


@POSIX
@pytest.mark.parametrize("way", ["raised", "turned into another error"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_numpy_is_imported_is_not_lost(here, number, way):
    """In torch, which goes on without numpy; or in numpy, some of whose imports make another error of any."""
    command = [sys.executable, "-c", TOLD_IN_NUMPY, str(int(number)), way]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 128 + number
    said = "interrupted" if number == signal.SIGINT else "told to stop"
    assert done.stderr.startswith(f"psa: {said}. Unfinished") and done.stderr.count("\n") == 1


@POSIX
@pytest.mark.parametrize("number", stop_signals())
def test_a_signal_ends_it_and_leaves_nothing_half_written(here, number):
    process = started("mini", "dataset", "data")
    while not (here / "data" / "train").is_dir():
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.startswith("psa: told to stop. Unfinished") and said.count("\n") == 1
    assert not list(here.rglob(".part-*"))


@POSIX
def test_nohup_shields_it_from_the_end_of_its_terminal(here):
    process = started("mini", "dataset", "data", within=("nohup",))
    process.send_signal(signal.SIGHUP)
    while not (here / "data" / "train").is_dir():
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENTS = {"at the end": BUFFERED, "at once": {**BUFFERED, "PYTHONUNBUFFERED": "1"}}


@POSIX
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
@pytest.mark.parametrize(("where", "code"), [("nobody", 141), ("/dev/full", 2)])
def test_what_cannot_be_printed_is_no_traceback(here, where, code, environment):
    if where != "nobody" and not os.path.exists(where):
        pytest.skip("this system has no device that is always full")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody, open(where if code == 2 else os.devnull, "wb") as full:
        command = [*COMMANDS["module"], "encode", "--level", "L3", "-o", "out.npy"]
        stdout = nobody if code == 141 else full
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == code
    assert "Exception" not in done.stderr and "Traceback" not in done.stderr
    assert done.stderr == "" or (done.stderr.startswith("psa: ") and done.stderr.count("\n") == 1)
    assert load_embedding("out.npy").dim == StructuredEncoder.dim


OPENS_A_FILE = """
import os, sys
from psa_core import cli
from psa_core.commands import encode
def run(_args):
    with open("out.txt", "w") as file:
        print("an error")
        print("an error", file=sys.stderr)
        os.write(2, b"an error")
        file.write("whole")
    return 0
encode.run = run
sys.exit(cli.main(["encode", "--level", "L3", "-o", "out.npy"]))
"""


@POSIX
def test_a_file_does_not_take_the_place_of_a_closed_stream(here):
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    assert subprocess.run([*shell, sys.executable, "-c", OPENS_A_FILE]).returncode == 0
    assert (here / "out.txt").read_text() == "whole"


BLOCKED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from psa_core import cli
from psa_core.commands import encode
def run(_args):
    stream = getattr(sys, sys.argv[1])
    while True:
        print("x" * 3000, file=stream, flush=True)
encode.run = run
sys.exit(cli.main(["encode", "--level", "L3", "-o", "out.npy"]))
"""


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_signal_ends_it_while_a_pipe_that_nobody_reads_is_full(stream, number, here):
    process = subprocess.Popen([sys.executable, "-c", BLOCKED, stream], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        full = 0  # the pipe takes a while to fill
        while full < 3:
            before = _in_pipe(getattr(process, stream))
            time.sleep(0.3)
            full = full + 1 if before and before == _in_pipe(getattr(process, stream)) else 0
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    finally:
        process.kill()
        process.communicate()


def _in_pipe(pipe) -> int:
    """Bytes that wait there."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def started(*arguments: str, within: tuple[str, ...] = ()) -> subprocess.Popen:
    """`psa`, once Python itself and the few lines before `main` are there."""
    command = [*within, sys.executable, "-c", STARTED, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    return process


def test_a_terminal_without_the_letters_is_no_reason_to_fail(here):
    name = "\u65e5\u672c"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "psa_core.cli", "convert", f"{name}.bin", "out.safetensors"]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith(b"psa: There is no adapter file at \\u65e5")
