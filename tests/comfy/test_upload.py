"""The routes behind Upload a data set: an archive becomes a folder that nodes list; anything else leaves nothing."""

import http.client
import io
import json
import os
import stat
import threading
import time
import zipfile
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from graphs import Graph, call
from routes import Client, refused
from tiny_training import write_split

from psa_core.comfy_server import ComfyServer
from psa_core.files import MACHINE

ZIP = {"Content-Type": "application/zip"}
MOST = 1.0  # MB that the server takes
ELSEWHERE = ".part-00000000-12-345-0123456789abcdef"  # an upload of another machine, which may be going on
DEAD = f".part-{MACHINE}-{os.getpid()}-1-0123456789abcdef"  # of a process that began at another time than any


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    base = tmp_path_factory.mktemp("upload")
    for name in (ELSEWHERE, DEAD):
        write_split(base / "input" / name / "half", "train", range(2), 1)
    arguments = ["--multi-user", "--max-upload-size", str(MOST)]
    with ComfyServer(comfy, base, arguments=arguments) as running:
        yield running


@pytest.fixture
def client(server) -> Client:
    return Client(server.url)


@pytest.fixture(autouse=True)
def _nothing_is_left(server):
    def hidden() -> list[str]:
        return sorted(path.name for path in (server.base / "input").iterdir() if path.name.startswith("."))

    before = hidden()
    yield
    assert hidden() == before


@pytest.fixture(scope="module")
def practice(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_split(folder / "practice", "train", range(2), 2)
    return folder


def packed(folder: Path, *more: tuple) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
            opened.write(path, path.relative_to(folder).as_posix())
        for member, content in more:
            opened.writestr(member, content)
    return buffer.getvalue()


def upload(client: Client, body: bytes, name: str = "practice.zip", headers: dict[str, str] = ZIP):
    return client.send("POST", f"/psa/upload?name={quote(name.encode(), safe='')}", body, headers)


def inputs(server) -> dict[str, int]:
    """All under `input` and its size, while the server may be removing some of it."""
    root = server.base / "input"
    sizes = {}
    for folder, folders, files in os.walk(root):  # takes a folder that goes; rglob does not
        for path in (Path(folder, name) for name in folders + files):
            with suppress(FileNotFoundError):
                sizes[path.relative_to(root).as_posix()] = path.stat().st_size
    return sizes


def test_an_uploaded_data_set_is_listed_and_loaded(server, client, practice):
    status, said = upload(client, packed(practice), "my set.zip")
    assert status == 200 and said["name"] == "my set", said
    assert said["said"].startswith("train: 2 pairs, 2 users")
    options = server.object_info()["PSALoadDataset"]["input"]["required"]["folder"]
    assert (options[0] if isinstance(options[0], list) else options[1]["options"]) == ["my set"]
    graph = Graph()
    graph.add("PSALoadDataset", folder="my set", split="train", skip_bad=False)
    user = json.loads(call(server, "/users", {"username": "loader"})[1])
    status, queued = call(server, "/prompt", {"prompt": graph.prompt}, user=user)
    assert status == 200, queued
    for _ in range(600):
        if found := server.history(json.loads(queued)["prompt_id"]):
            break
        time.sleep(0.2)
    assert found["outputs"]["1"]["text"][0].startswith("train: 2 pairs")


def test_two_users_with_one_name_have_a_folder_each(server, practice):
    names = []
    for person in ("anna", "bert"):
        user = json.loads(call(server, "/users", {"username": person})[1])
        body = packed(practice, (f"practice/{person}.txt", person))
        status, said = upload(Client(server.url), body, "same.zip", {**ZIP, "comfy-user": user})
        assert status == 200, said
        names.append(said["name"])
    assert names == ["same", "same (1)"]
    assert (server.base / "input" / "same" / "anna.txt").read_text() == "anna"
    assert not (server.base / "input" / "same" / "bert.txt").exists()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("../../evil.png", b"x"), "under its name"),
        ((f"{'/'}evil.png", b"x"), "under its name"),
        (("practice/CON.txt", b"x"), "under its name"),
        (("practice/Train/metadata.jsonl", b"x"), "Two of its files"),
        ((link("practice/train/a.png"), b"/etc/passwd"), "is a link"),
        (("practice/bomb.txt", bytes(70_000_000)), "100 times"),
        (("practice/inner.zip", b"PK"), "another archive"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_hostile_archives_leave_nothing(server, client, practice, more, words):
    before = inputs(server)
    refused(upload(client, packed(practice, more)), words)
    assert inputs(server) == before and not list(server.base.rglob("evil*"))


@pytest.mark.parametrize("body", [b"", b"PK\3\4", b"{}", b"x" * 5000])
def test_what_is_no_archive_leaves_nothing(server, client, body):
    before = inputs(server)
    refused(upload(client, body), "damaged")
    assert inputs(server) == before


def test_what_is_no_data_set_leaves_nothing(server, client, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    before = inputs(server)
    refused(upload(client, packed(tmp_path)), "no data set")
    assert inputs(server) == before


@pytest.mark.parametrize("name", ["", "a", "a.tar", "../a.exe", "a.zip/b"])
def test_other_names_are_refused(server, client, practice, name):
    before = inputs(server)
    refused(upload(client, packed(practice), name), ".zip")
    assert inputs(server) == before


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site"}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json"},
     {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Encoding": "gzip"}],
    ids=str,
)  # fmt: skip
def test_a_page_of_another_site_uploads_nothing(server, client, practice, headers):
    before = inputs(server)
    status, said = upload(client, packed(practice), headers={**ZIP, **headers})
    assert status in (400, 403), said
    assert inputs(server) == before


def test_the_servers_limit_is_named(server, client):
    size = int(MOST * 1024**2)
    assert client.send("GET", f"/psa/upload?name=a.zip&size={size}") == (200, {})
    refused(client.send("GET", f"/psa/upload?name=a.zip&size={size + 1}"), "1 MB", "--max-upload-size")
    refused(client.send("GET", f"/psa/upload?name=a.zip&size={10**17}"), "--max-upload-size")
    for query in ("name=a.zip", "name=a.zip&size=-1", "name=a.zip&size=1e9", f"name=a.zip&size={'9' * 40}", "size=1"):
        refused(client.send("GET", f"/psa/upload?{query}"))
    before = inputs(server)
    refused(upload(client, bytes(size + 1)), "--max-upload-size")
    assert inputs(server) == before


def test_a_body_that_does_not_say_how_long_it_is_is_held_to_the_limit(server, client, practice):
    assert send_in_pieces(server, [packed(practice)])[0] == 200
    before = inputs(server)
    status, said = send_in_pieces(server, [bytes(1 << 16)] * 20)
    assert status == 400 and "--max-upload-size" in said["error"]
    assert inputs(server) == before


def send_in_pieces(server, pieces: list[bytes]):
    connection = http.client.HTTPConnection(Client(server.url).host, timeout=60)
    with closing(connection):
        connection.request("POST", "/psa/upload?name=pieces.zip", iter(pieces), ZIP, encode_chunked=True)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def half_sent(server, body: bytes) -> http.client.HTTPConnection:
    """A connection over which half of the archive has come."""
    connection = http.client.HTTPConnection(Client(server.url).host, timeout=60)
    connection.putrequest("POST", "/psa/upload?name=half.zip")
    for name, value in {**ZIP, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body[: len(body) // 2])
    wait(lambda: any(path.stat().st_size for path in (server.base / "input").glob(".part-*/archive.zip")))
    return connection


def wait(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("nothing has come of it within a minute")


def test_an_upload_that_breaks_off_leaves_nothing(server, practice):
    before, logged = inputs(server), len(server.log)
    half_sent(server, packed(practice)).close()
    wait(lambda: inputs(server) == before)
    assert "Traceback" not in server.log[logged:]


def test_what_a_killed_server_left_goes_when_one_starts(server):
    (left,) = (path.name for path in (server.base / "input").glob(".part-*"))
    assert left == ELSEWHERE


def test_uploads_at_once_are_all_there(server, practice):
    body, answers = packed(practice), []
    threads = [
        threading.Thread(target=lambda: answers.append(upload(Client(server.url), body, "at once.zip")))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}, answers
    assert {said["name"] for _, said in answers} == {"at once", *(f"at once ({number})" for number in range(1, 5))}


def test_the_log_names_nobody(server):
    assert "0000001" not in server.log
