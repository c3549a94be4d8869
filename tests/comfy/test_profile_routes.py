"""The profile store's routes: they answer ComfyUI's own page in a sentence, whatever is sent, and tell nobody more."""

import gzip
import json
from urllib.parse import quote

import pytest
from graphs import Graph, profile_node, wait
from routes import JSON, Client, refused

from psa_core import LEVELS
from psa_core.comfy_server import ComfyServer
from psa_core.errors import PSAError
from psa_core.profile import CATEGORIES

PROFILE = LEVELS["L5"].to_dict()
OTHER = LEVELS["L0"].to_dict()


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    with ComfyServer(comfy, tmp_path_factory.mktemp("routes")) as running:
        yield running


class ProfileClient(Client):
    def save(self, name, profile=PROFILE, headers: dict[str, str] = JSON, **more):
        return self.send(
            "POST", "/psa/profiles", json.dumps({"name": name, "profile": profile, **more}).encode(), headers
        )

    def names(self) -> list[str]:
        return self.send("GET", "/psa/profiles")[1]["names"]


@pytest.fixture
def client(server):
    client = ProfileClient(server.url)
    for name in client.names():
        client.send("DELETE", f"/psa/profiles/{quote(name)}")
    return client


def stored(server, name: str = "anna") -> dict:
    return json.loads((server.base / "user" / "__psa_profiles" / "default" / f"{name}.json").read_text())


def test_saving_listing_deleting(server, client):
    assert client.save("zoe") == (200, {"names": ["zoe"]})
    assert client.save("Ana Ω (2)") == (200, {"names": ["Ana Ω (2)", "zoe"]})
    assert client.send("DELETE", f"/psa/profiles/{quote('Ana Ω (2)')}") == (200, {"names": ["zoe"]})
    refused(client.send("DELETE", "/psa/profiles/anna"), "anna")
    refused(client.send("GET", "/psa/profiles/anna"), "anna")
    assert client.names() == ["zoe"]


def test_a_taken_name_answers_the_same_to_every_guess(server, client):
    client.save("anna", PROFILE)
    answers = [client.save("anna", guess) for guess in (PROFILE, OTHER, LEVELS["L3"].to_dict())]
    refused(answers[0], "taken")
    assert answers == answers[:1] * 3
    assert stored(server) == PROFILE


def test_replacing_needs_the_version_that_was_read(server, client):
    client.save("anna", PROFILE)
    status, description = client.send("GET", "/psa/profiles/anna")
    assert status == 200 and set(description) == {"name", "version"}
    for guess in (True, 1, "true", "", [], {}, description["version"][:-1], description["version"].upper()):
        refused(client.save("anna", OTHER, overwrite=guess), "anna")
    assert stored(server) == PROFILE
    assert client.save("anna", OTHER, overwrite=description["version"]) == (200, {"names": ["anna"]})
    assert stored(server) == OTHER
    refused(client.save("anna", PROFILE, overwrite=description["version"]), "has changed since")
    refused(client.save("bert", PROFILE, overwrite=description["version"]), "bert")
    assert client.names() == ["anna"]


def post(client, path: str, body: object, headers: dict[str, str] = JSON):
    return client.send("POST", path, json.dumps(body).encode(), headers)


def test_the_page_reads_a_profile_and_the_rules_that_ban_the_same(server, client):
    chosen = {key: OTHER[key] for key in PERSON} | {"Banned_Categories": ["Hate"]}
    client.save(NAME, chosen)
    status, found = post(client, f"/psa/profiles/{quote(NAME, safe='')}/read", {})
    assert status == 200 and chosen.items() <= found["profile"].items() and found["rules"] is None
    client.save("child", {key: PROFILE[key] for key in PERSON} | {"Rules": "protective"})
    found = post(client, "/psa/profiles/child/read", {})[1]
    assert (
        found["rules"] == "protective" and found["version"] == client.send("GET", "/psa/profiles/child")[1]["version"]
    )
    refused(post(client, "/psa/profiles/nobody/read", {}), "nobody")


PERSON = ("Age", "Gender", "Religion", "Physical_Condition", "Mental_Condition")
NAME = "émile's"


def test_reading_takes_what_no_link_and_no_form_sends(client):
    client.save("anna", PROFILE)
    assert client.send("GET", "/psa/profiles/anna/read")[0] in (404, 405)
    refused(client.send("POST", "/psa/profiles/anna/read", b"{}", {"Content-Type": "text/plain"}))
    refused(client.send("POST", "/psa/profiles/anna/read", b""))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8188", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_name_that_leads_here_reads_nothing(host, client):
    """DNS rebinding: a page under somebody's name that resolves to this server counts as its own."""
    client.save("anna", PROFILE)
    status, said = post(client, "/psa/profiles/anna/read", {}, JSON | {"Host": host, "Origin": f"http://{host}"})
    assert status in (400, 403) and (said is None or "profile" not in said)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:8188", "192.168.0.9", "localhost", "comfy.localhost:8188"])
def test_an_address_reads(host, client):
    client.save("anna", PROFILE)
    headers = JSON | {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    status, said = post(client, "/psa/profiles/anna/read", {}, headers)
    assert status == 200 or said is None, said  # ComfyUI itself may refuse another loopback address


def test_copy_and_rename_keep_what_is_there(server, client):
    client.save("anna", PROFILE)
    client.save("bert", OTHER)
    assert post(client, "/psa/profiles/anna/copy", {"to": "anna & bob"}) == (
        200,
        {"names": ["anna", "anna & bob", "bert"]},
    )
    refused(post(client, "/psa/profiles/anna/copy", {"to": "bert"}), "taken")
    refused(post(client, "/psa/profiles/anna/rename", {"to": "bert"}), "taken")
    assert post(client, "/psa/profiles/anna/rename", {"to": "zoe"}) == (200, {"names": ["anna & bob", "bert", "zoe"]})
    for name in ("anna & bob", "zoe"):
        assert post(client, f"/psa/profiles/{quote(name)}/read", {})[1]["profile"] == PROFILE
    for action in ("copy", "rename"):
        refused(post(client, f"/psa/profiles/nobody/{action}", {"to": "x"}), "nobody")
        for body in ({}, [], {"to": None}, {"to": "../x"}, {"to": 7}, {"to": ""}):
            refused(post(client, f"/psa/profiles/zoe/{action}", body))
    assert client.names() == ["anna & bob", "bert", "zoe"]


def test_what_is_banned_is_said_for_rules_choices_and_levels(client):
    person = {key: OTHER[key] for key in PERSON} | {"Age": 12}
    assert post(client, "/psa/banned", person | {"Rules": "protective"})[1] == {
        "banned": ["Hate", "Self-Harm", "Sexuality", "Shocking", "Violence"]
    }
    assert post(client, "/psa/banned", person | {"Banned_Categories": []})[1] == {"banned": []}
    assert post(client, "/psa/banned", {"Level": "L5"})[1] == {"banned": list(CATEGORIES)}
    for body in ({"Level": "L9"}, {"Level": []}, [], "L5", person | {"Age": 470}):
        refused(post(client, "/psa/banned", body))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://evil.{host}"},
        {"Origin": ""},
        {"Origin": "http://evil.example", "Host": "comfy.example"},
        {"Origin": "null", "Host": "192.168.1.2:8188"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "none", "Origin": "null", "Host": "comfy.example"},
    ],
    ids=str,
)
def test_a_page_of_another_site_gets_nothing_and_does_nothing(headers, server, client):
    client.save("anna", PROFILE)
    version = client.send("GET", "/psa/profiles/anna")[1]["version"]
    theirs = JSON | {key: value.format(host=client.host) for key, value in headers.items()}
    for answer in (
        client.save("anna", OTHER, theirs, overwrite=version),
        client.save("bert", OTHER, theirs),
        client.send("DELETE", "/psa/profiles/anna", headers=theirs),
        client.send("GET", "/psa/profiles", headers=theirs),
        client.send("GET", "/psa/profiles/anna", headers=theirs),
        post(client, "/psa/profiles/anna/read", {}, theirs),
        post(client, "/psa/profiles/anna/copy", {"to": "bert"}, theirs),
        post(client, "/psa/profiles/anna/rename", {"to": "bert"}, theirs),
        post(client, "/psa/banned", {"Level": "L5"}, theirs),
    ):
        assert answer[0] in (400, 403), answer
        assert "anna" not in str(answer[1]) and version not in str(answer[1])
    assert client.names() == ["anna"]
    assert stored(server) == PROFILE


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://{host}"},
        {"Origin": "https://Comfy.example", "Host": "comfy.example"},
        {},
    ],
    ids=str,
)
def test_comfyuis_own_page_is_served(headers, client):
    ours = JSON | {key: value.format(host=client.host) for key, value in headers.items()}
    assert client.save("anna", headers=ours) == (200, {"names": ["anna"]})
    assert client.send("DELETE", "/psa/profiles/anna", headers=ours) == (200, {"names": []})


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonp",
        "",
        "application/json; charset=utf-16",
        "application/json; charset=rot13",
        "application/json; charset=nonsense",
        "application/json; charset=\xff",
    ],
)
def test_what_a_form_can_send_is_refused(content_type, client):
    refused(client.save("anna", headers={"Content-Type": content_type}))
    assert client.names() == []


LONG = json.dumps(
    {"name": "anna", "profile": PROFILE | {"Banned_Categories": "[" + "'Hate', " * 600_000 + "]"}}
).encode()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (LONG, None),
        (gzip.compress(LONG), "gzip"),
        (gzip.compress(b" " * 50_000_000), "gzip"),
        (b" " * 9000, None),
        (b"no gzip", "gzip"),
        (gzip.compress(b"{}")[:-9], "gzip"),
    ],
    ids=["5 MB", "gzip", "bomb", "blanks", "no gzip", "half of one"],
)
def test_what_is_longer_than_a_profile_or_cannot_be_decoded_is_refused(body, encoding, client):
    headers = JSON | ({"Content-Encoding": encoding} if encoding else {})
    status, said = client.send("POST", "/psa/profiles", body, headers)
    assert status == 400 and (said is None or said["error"].endswith("."))  # aiohttp itself refuses a broken encoding
    assert client.names() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"name"',
        b"[" * 8000,
        b'{"a":' * 1300 + b"1" + b"}" * 1300,
        b'{"name": "anna", "profile": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"name": "anna"}',
        b'{"name": "anna", "profile": ' + json.dumps(PROFILE)[:-1].encode() + b', "Banned_Categories": []}}',
        b'{"name": "anna", "profile": ' + b"9" * 5000 + b"}",
        b'{"name": "\\ud800", "profile": {}}',
        json.dumps({"name": "anna", "profile": PROFILE}).encode("utf-16"),
        b"\xff\xfe",
        b"\0" * 100,
    ],
    ids=lambda body: ascii(body[:12]),
)
def test_what_is_no_profile_is_a_sentence(body, client):
    refused(client.send("POST", "/psa/profiles", body))
    assert client.names() == []


def test_what_a_page_sees_never_holds_a_field(server, client):
    client.save("anna", PROFILE)
    for method, path in (("GET", "/psa/profiles"), ("GET", "/psa/profiles/anna"), ("DELETE", "/psa/profiles/anna")):
        _, said = client.send(method, path)
        assert not any(str(value) in str(said) for key, value in PROFILE.items() if len(str(value)) > 3), said


def queued(client, graph: Graph, headers: dict[str, str]) -> tuple[int, dict]:
    """What ComfyUI's own route says; it takes a graph as any kind of text."""
    body = json.dumps({"prompt": graph.prompt}).encode()
    return client.send("POST", "/prompt", body, {"Content-Type": "text/plain", **headers})


def saving_l0(name: str) -> Graph:
    graph = Graph()
    graph.add("PSASaveProfile", profile=profile_node(graph, preset="L0"), name=name, overwrite=True)
    return graph


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "null", "Host": "192.168.1.2:8188"},
        {"Origin": "http://evil.example", "Host": "192.168.1.2:8188"},
        {"Origin": "http://{host}", "Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_a_job_of_a_page_of_another_site_neither_saves_nor_reads_a_profile(headers, server, client):
    """ComfyUI queues a graph that a sandboxed form sends, or any page where its own is opened by a LAN's address."""
    client.save("child", PROFILE)
    theirs = {key: value.format(host=client.host) for key, value in headers.items()}
    for name in ("child", "new"):
        status, said = queued(client, saving_l0(name), theirs)
        if status == 200:  # else ComfyUI itself has refused it
            with pytest.raises(PSAError, match="page of another site"):
                wait(server, said["prompt_id"])
    copying = Graph()
    copying.add("PSASaveProfile", profile=copying.add("PSALoadProfile", profile_name="child"), name="x", overwrite=True)
    status, said = queued(client, copying, theirs)
    assert status in (400, 403) and (said is None or "page of another site" in json.dumps(said))
    assert client.names() == ["child"] and stored(server, "child") == PROFILE


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}], ids=str)
def test_jobs_of_programs_and_of_comfyuis_own_page_save(headers, server, client):
    client.save("child", PROFILE)
    ours = {key: value.format(host=client.host) for key, value in headers.items()}
    status, said = queued(client, saving_l0("child"), ours)
    assert status == 200
    wait(server, said["prompt_id"])
    assert stored(server, "child") == OTHER
