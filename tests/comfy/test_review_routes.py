"""The review page's routes: ComfyUI's own page sees a data set's pairs and saves answers; nothing else is reached."""

import http.client
import json
import shutil
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from urllib.parse import quote

import pytest
from pair_sets import write_pair_set
from PIL import Image
from routes import Client, refused
from tiny_training import user, write_split

from psa_core.comfy_server import ComfyServer
from psa_core.dataset import read_split
from psa_core.dataset.answers import ANSWERS, each_answer
from psa_core.dataset.pair_files import write_users
from psa_core.users import write_users as write_users_file

NAME, BUILT = "my data (2)", "psa_datasets/words-mini"
AT, AT_BUILT = (f"/psa/review/{quote(name, safe='')}/train" for name in (NAME, BUILT))


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    with ComfyServer(comfy, tmp_path_factory.mktemp("review")) as running:
        write_split(running.base / "input" / NAME, "train", range(4), 8)
        write_split(running.base / "input" / NAME, "harmless", range(4), 2)
        write_pair_set(running.base / "input" / BUILT, {"train": (range(4), 3), "val": (range(4), 2)}, harmless=2)
        (running.base / "input" / "no data").mkdir()
        (running.base / "secret").mkdir()
        write_split(running.base / "secret", "train", range(2), 2)
        yield running


@pytest.fixture
def client(server) -> Client:
    (server.base / "input" / NAME / ANSWERS).unlink(missing_ok=True)
    return Client(server.url)


def say(client: Client, question: dict, word: str, seen: int | None = None, at: str = AT, **more):
    """Without `seen`: as somebody who has seen all answers that there are."""
    seen = client.send("GET", at)[1].get("seen", 0) if seen is None else seen
    body = {"number": question["number"], "token": question["token"], "answer": word, "seen": seen}
    return client.send("POST", at, json.dumps(body).encode(), **more)


def test_data_sets_are_listed_by_their_path_as_load_dataset_lists_them(server, client):
    listed = [{"name": NAME, "splits": ["train"]}, {"name": BUILT, "splits": ["train", "val"]}]
    assert client.send("GET", "/psa/datasets") == (200, {"datasets": listed})
    options = server.object_info()["PSALoadDataset"]["input"]["required"]["folder"]
    assert [each["name"] for each in listed] == (options[0] if isinstance(options[0], list) else options[1]["options"])


def test_a_built_data_set_is_reviewed_where_it_lies(server, client):
    state = client.send("GET", AT_BUILT)[1]
    kinds = {user(number).banned_categories for number in range(4)}
    assert (
        state["total"] == 3 * len(kinds) and picture(client, picture_at(state["question"], "right", AT_BUILT))[0] == 200
    )
    status, state = say(client, state["question"], "left", at=AT_BUILT)
    assert status == 200 and state["answered"] == 1
    assert len([*each_answer(server.base / "input" / BUILT)]) == 1
    assert not (server.base / "input" / NAME / ANSWERS).exists()


def test_an_answer_to_what_has_been_answered_meanwhile_is_refused(server, client):
    """Two pages on one question: the second one's answer, and its undo, would take the first one's away."""
    first = client.send("GET", AT)[1]
    second = say(client, first["question"], "left", first["seen"])[1]
    for word in ("right", "undo"):
        status, said = say(client, first["question"], word, first["seen"])
        assert status == 409 and said["error"].endswith(".") and "meanwhile" in said["error"]
    assert [answer.answer for answer in each_answer(server.base / "input" / NAME)] == ["left"]
    assert client.send("GET", AT)[1] == second
    assert say(client, second["undo"], "undo", second["seen"])[0] == 200


def test_a_review_from_question_to_question(server, client):
    status, state = client.send("GET", AT)
    assert status == 200 and (state["answered"], state["total"], state["undo"]) == (0, 8, None)
    question = state["question"]
    people = [user(number).to_dict() for number in range(4)]
    assert question["banned"] in [person["Banned_Categories"] for person in people]
    assert not {"User_ID", "Age", "Religion"} & set(str(state).replace("'", " ").split())
    status, state = say(client, question, "left")
    assert status == 200 and state["answered"] == 1 and state["question"] != question
    (answer,) = each_answer(server.base / "input" / NAME)
    assert list(answer.banned) == question["banned"] and answer.chosen == answer.left
    status, state = say(client, state["undo"], "undo")
    assert (status, state["answered"], state["question"]) == (200, 0, question)


def picture_at(question: dict, side: str, at: str = AT) -> str:
    return f"{at}/{question['number']}/{side}?token={question['token']}"


def picture(client: Client, path: str, **headers: str):
    connection = http.client.HTTPConnection(client.host, timeout=60)
    connection.request("GET", path, headers={**headers, "Connection": "close"})
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type"), response.read()


def test_pictures_come_as_pixels_alone(server, client):
    question = client.send("GET", AT)[1]["question"]
    say(client, question, "left")
    (answer,) = each_answer(server.base / "input" / NAME)
    path = server.base / "input" / NAME / answer.left
    whole, pixels = path.read_bytes(), Image.open(path).convert("RGB")
    try:
        path.write_bytes(whole + b"<script>alert(1)</script>")
        status, kind, body = picture(client, picture_at(question, "left"))
        assert (status, kind) == (200, "image/png") and b"script" not in body
        assert Image.open(BytesIO(body)).tobytes() == pixels.tobytes()
    finally:
        path.write_bytes(whole)


def many_pixels() -> bytes:
    """A PNG of 40,000 x 40,000 pixels in a few bytes: its header says so, and no more of it is needed."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0" * 64


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file closefile\n", many_pixels(), b"", b"<svg/>"],
    ids=["EPS", "many pixels", "nothing", "SVG"],
)
def test_a_picture_that_became_something_else_is_refused_in_a_sentence(server, client, content):
    question = client.send("GET", AT)[1]["question"]
    say(client, question, "left")
    (answer,) = each_answer(server.base / "input" / NAME)
    path = server.base / "input" / NAME / answer.left
    whole = path.read_bytes()
    try:
        path.write_bytes(content)
        refused(client.send("GET", picture_at(question, "left")))
        path.unlink()
        path.symlink_to(server.base / "secret" / "train" / "metadata.jsonl")
        refused(client.send("GET", picture_at(question, "left")), "leads out")
    finally:
        path.unlink()
        path.write_bytes(whole)


def test_answers_are_not_written_through_a_link(server, client):
    target, link = server.base / "secret" / "keys", server.base / "input" / NAME / ANSWERS
    question = client.send("GET", AT)[1]["question"]
    target.write_bytes(b"a line\nand no more")
    link.symlink_to(target)
    refused(client.send("GET", AT), "leads out")
    refused(say(client, question, "left"))
    assert target.read_bytes() == b"a line\nand no more"


@pytest.mark.parametrize(
    "path",
    [
        "/psa/review/secret/train",
        "/psa/review/..%2Fsecret/train",
        "/psa/review/%2Ftmp/train",
        "/psa/review/psa_datasets/train",
        "/psa/review/psa_datasets/words-mini/train",
        "/psa/review/psa_datasets%2Fnothing/train",
        "/psa/review/psa_datasets%2F..%2F..%2Fsecret/train",
        "/psa/review/psa_datasets%2F..%2Fpsa_datasets%2Fwords-mini/train",
        "/psa/review/.%2Fpsa_datasets%2Fwords-mini/train",
        "/psa/review/psa_datasets%252Fwords-mini/train",
        "/psa/review/psa_datasets%2Fwords-mini%2F/train",
        f"{AT_BUILT.removesuffix('train')}harmless",
        f"{AT_BUILT.removesuffix('train')}pictures",
        "/psa/review/no%20data/train",
        "/psa/review/nothing/train",
        f"/psa/review/{quote(NAME)}/..%2F..%2Fsecret%2Ftrain",
        f"/psa/review/{quote(NAME)}/harmless",
        f"/psa/review/{quote(NAME)}/val",
        f"/psa/review/{quote(NAME)}/.",
        f"{AT}/99/left",
        f"{AT}/-1/left",
        f"{AT}/1e0/left",
        f"{AT}/{'9' * 400}/left",
        f"{AT}/0/left",
        f"{AT}/0/left?token=0123456789abcdef",
        f"{AT}/0/middle",
        f"{AT}/0/..%2Fleft",
    ],
)
def test_nothing_but_a_data_sets_own_questions_can_be_asked_for(client, path):
    status, answer = client.send("GET", path)
    assert status in (400, 404), answer
    assert answer is None or answer["error"].endswith(".")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"number": 0}', b"{" * 900, b'{"number": 0, "token": "x", "answer": "left"}', b"x" * 2000,
     b'{"number": "0", "token": "x", "answer": "left", "seen": 0}',
     b'{"number": 1e99, "token": null, "answer": {}, "seen": []}'],
)  # fmt: skip
def test_other_bodies_are_refused_in_a_sentence(server, client, body):
    refused(client.send("POST", AT, body))
    assert not (server.base / "input" / NAME / ANSWERS).exists()


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site"}],
    ids=str,
)  # fmt: skip
def test_a_page_of_another_site_sees_and_does_nothing(server, client, headers):
    question = client.send("GET", AT)[1]["question"]
    theirs = {"Content-Type": "application/json", **headers}
    for answer in (
        client.send("GET", "/psa/datasets", headers=theirs),
        client.send("GET", AT, headers=theirs),
        client.send("GET", picture_at(question, "left"), headers=theirs),
        say(client, question, "left", headers=theirs),
    ):
        assert answer[0] in (400, 403) and question["token"] not in str(answer[1])
    assert say(client, question, "left", headers={"Content-Type": "text/plain"})[0] == 400
    assert not (server.base / "input" / NAME / ANSWERS).exists()


def test_a_data_set_that_changes_is_read_again(server, client):
    old = client.send("GET", AT)[1]["question"]
    metadata = server.base / "input" / NAME / "train" / "metadata.jsonl"
    whole = metadata.read_text()
    try:
        metadata.write_text(whole.replace('"caption": "', '"caption": "another '))
        assert say(client, old, "left")[0] == 409
        refused(client.send("GET", picture_at(old, "left")), "has changed")
        assert client.send("GET", AT)[1]["question"]["caption"].startswith("another ")
    finally:
        metadata.write_text(whole)


def test_a_question_to_other_users_than_the_page_shows_is_asked_anew(server, client):
    folder = server.base / "input" / BUILT
    (folder / ANSWERS).unlink(missing_ok=True)
    users = (folder / "users.jsonl").read_bytes()
    old = client.send("GET", AT_BUILT)[1]
    try:
        write_users(folder, [(user(number), ["train", "val"]) for number in range(4, 8)])
        status, said = say(client, old["question"], "left", 0, AT_BUILT)
        assert status == 409 and "has changed" in said["error"]
        refused(client.send("GET", picture_at(old["question"], "left", AT_BUILT)), "has changed")
        new = client.send("GET", AT_BUILT)[1]["question"]
        assert new["banned"] != old["question"]["banned"] and not (folder / ANSWERS).exists()
        assert picture(client, picture_at(new, "left", AT_BUILT))[0] == say(client, new, "left", 0, AT_BUILT)[0] == 200
        assert [list(answer.banned) for answer in each_answer(folder)] == [new["banned"]]
    finally:
        (folder / "users.jsonl").write_bytes(users)
        (folder / ANSWERS).unlink(missing_ok=True)


def with_users(at: str, users: str) -> str:
    return f"{at}{'&' if '?' in at else '?'}users={quote(users)}"


@pytest.fixture
def sages(server):
    """As Sage's own: records that do not say what their users ban, and a users file that says they ban Hate alone."""
    folder = server.base / "input" / "as sage's"
    write_split(folder, "train", range(4), 8)
    lines = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        del line["user_data"]["Banned_Categories"], line["user_data"]["Allowed_Categories"]
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_csv(folder / "users.csv", bans=("Hate",))
    yield folder
    shutil.rmtree(folder)


def write_csv(path, bans):
    write_users_file(path, [replace(user(number), banned_categories=bans) for number in range(4)])


@pytest.mark.parametrize("absolute", [False, True])
def test_the_users_file_says_what_viewers_must_not_see(server, client, sages, absolute):
    at = f"/psa/review/{quote(sages.name, safe='')}/train"
    told = with_users(at, str(sages / "users.csv") if absolute else "users.csv")
    assert client.send("GET", at)[1]["question"]["banned"] != ["Hate"], "the rules say something else"
    state = client.send("GET", told)[1]
    question = state["question"]
    assert question["banned"] == ["Hate"] and state["total"] == 8
    assert picture(client, with_users(picture_at(question, "left", at), "users.csv"))[0] == 200
    assert say(client, question, "neither", 0, told)[0] == 200
    assert [answer.banned for answer in each_answer(sages)] == [("Hate",)]
    assert len(read_split(sages, "train", users=sages / "users.csv")) == 7
    later = client.send("GET", told)[1]
    write_csv(sages / "users.csv", bans=("Shocking",))
    assert say(client, later["question"], "left", 1, told)[0] == 409
    assert client.send("GET", told)[1]["question"]["banned"] == ["Shocking"]


@pytest.mark.parametrize(
    "users",
    [
        "no.csv",
        "../secret/train",
        "train/metadata.jsonl",
        "a\0b",
        "~\0b",
        "~nobody/x",
        "/dev/zero",
        "x" * 5000,
        "\ufffd",
    ],
)
def test_what_is_no_users_file_is_refused_in_a_sentence_and_not_quoted(server, client, sages, users):
    said = client.send("GET", with_users(f"/psa/review/{quote(sages.name, safe='')}/train", users))
    refused(said)
    assert "bug" not in said[1]["error"] and "square" not in said[1]["error"]


def test_a_built_data_set_takes_no_users_file(server, client, sages):
    refused(client.send("GET", with_users(AT_BUILT, str(sages / "users.csv"))), "Give no users file")


def test_the_log_tells_of_nobody(server, client):
    client.send("GET", AT)
    assert not any(str(user(number).user_id) in server.log for number in range(4))
