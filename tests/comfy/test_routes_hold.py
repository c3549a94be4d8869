"""Whatever is sent to the pack's routes: a sentence or what was asked for, at once, and nothing else on the disk."""

import gzip
import json
import time
from urllib.parse import quote

import pytest
from hostile_files import every_input_holds
from hypothesis import strategies as st
from pair_sets import write_pair_set
from routes import JSON, Client

from psa_core import LEVELS
from psa_core.comfy_server import ComfyServer
from psa_core.dataset import read_split
from psa_core.profile import CATEGORIES, GENDERS, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS
from psa_core.review import AnswerBook, Review

PROFILE = LEVELS["L5"].to_dict()
OTHER = LEVELS["L0"].to_dict()
ANSWERS = (
    {"names"},
    {"name", "version"},
    {"name", "version", "profile", "rules"},
    {"banned"},
    {"datasets"},
    {"answered", "total", "taken_out", "question", "undo", "seen"},
)


@pytest.fixture(scope="module")
def server(comfy, tmp_path_factory):
    base = tmp_path_factory.mktemp("routes hold")
    folder = base / "input" / "pairs"
    write_pair_set(folder, {"train": (range(3), 4)})
    review = Review(read_split(folder, "train"), AnswerBook(folder))
    tokens[:] = [review._token(number) for number in range(4)]
    with ComfyServer(comfy, base) as running:
        yield running


tokens: list[str] = []  # of the data set that is reviewed, once it is there
words = st.sampled_from([*GENDERS, *RELIGIONS, *PHYSICAL_CONDITIONS, *MENTAL_CONDITIONS, *CATEGORIES])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | words
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | words, inner, max_size=4),
    max_leaves=12,
)
profiles = st.builds(
    lambda base, changes, dropped: {key: value for key, value in (base | changes).items() if key not in dropped},
    st.sampled_from([PROFILE, OTHER]),
    st.dictionaries(
        st.sampled_from([*PROFILE, "Age_Group", "Allowed_Categories", "banned_categories"]), values, max_size=3
    ),
    st.sets(st.sampled_from(list(PROFILE)), max_size=1),
)
names = st.sampled_from(["anna", "bert"]) | st.text(max_size=120) | values
saves = st.builds(
    lambda name, profile, more: json.dumps({"name": name, "profile": profile, **more}),
    names,
    profiles | values,
    st.dictionaries(st.sampled_from(["overwrite", "name", "x"]), values, max_size=1),
)
reviews = st.builds(
    lambda number, token, answer, seen: json.dumps({"number": number, "token": token, "answer": answer, "seen": seen}),
    st.integers(-1, 9) | values,
    st.integers(0, 3).map(lambda number: tokens[number]) | values,
    st.sampled_from(["left", "right", "neither", "bad", "undo"]) | values,
    st.integers(0, 3) | values,
)
requests = saves | reviews | profiles.map(json.dumps) | names.map(lambda name: json.dumps({"to": name}))
bodies = (
    requests.map(str.encode)
    | values.map(json.dumps).map(str.encode)
    | st.binary(max_size=300)
    | st.builds(lambda text, cut: text.encode()[:cut], requests, st.integers(0, 400))
    | requests.map(str.encode).map(gzip.compress)
    | st.just(gzip.compress(b" " * 200_000_000))
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=30)
headers = st.fixed_dictionaries(
    {"Content-Type": st.sampled_from(["application/json", "application/zip"]) | header_values},
    optional={
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "br", "zstd", "identity", "none"]),
        "Origin": st.sampled_from(["", "null", "http://evil.example", "x"]),  # ComfyUI itself stumbles over some others
        "Sec-Fetch-Site": header_values,
        "comfy-user": header_values,
    },
)


def quoted(name: object) -> str:
    return quote(str(name).encode("utf-8", "surrogatepass"), safe="")


def joined(*parts: str | st.SearchStrategy) -> st.SearchStrategy[str]:
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map("".join)


paths = st.sampled_from(["/psa/profiles", "/psa/banned", "/psa/datasets", "/psa/review/pairs/train"]) | st.one_of(
    joined("/psa/upload?name=", names.map(quoted), st.sampled_from([".zip", ""]), st.sampled_from(["&size=9", ""])),
    joined("/psa/profiles/", names.map(quoted), st.sampled_from(["", "/read", "/copy", "/rename", "/x"])),
    joined("/psa/review/", (st.just("pairs") | names).map(quoted), "/", (st.just("train") | names).map(quoted)),
    st.integers(0, 3).map(lambda number: f"/psa/review/pairs/train/{number}/left?token={tokens[number]}"),
    joined("/psa/review/pairs/train?users=", names.map(quoted)),
    joined("/psa/review/pairs/train/", (st.integers(-1, 9) | names).map(quoted), st.sampled_from(["/left", "/up", ""])),
)
methods = st.sampled_from(["GET", "POST", "DELETE", "PUT"])


def routes_hold(server, examples: int) -> None:
    client, user = Client(server.url), server.base / "user"
    given = server.base / "input"

    def others() -> dict:
        """Every file but the stored profiles and the answers to the review."""
        files = [path for folder in (user, given) for path in folder.rglob("*") if path.is_file()]
        files = [path for path in files if "__psa_profiles" not in path.parts and path.name != "answers.jsonl"]
        return {path: path.stat().st_size for path in files if not path.name.startswith("comfyui.db")}

    def holds(request) -> None:
        began = time.monotonic()
        status, said = client.send(*request)
        client.send("GET", "/psa/datasets")  # a refused body is unpacked after the answer: it is waited for here
        assert time.monotonic() - began < 5, "a hang"
        assert status in (200, 400, 403, 404, 405, 409), (request, status, said)
        if said is not None and status in (400, 409):
            assert said["error"].endswith("."), said
        if status == 200 and said:  # a picture is no JSON, and an upload that may be is nothing
            assert set(said) in ANSWERS, (request, said)

    before = others()
    sent = st.tuples(methods, paths, st.just(b"") | bodies, st.just(JSON) | headers)
    every_input_holds(holds, sent, examples, server._process.pid)
    assert others() == before
    for path in (user / "__psa_profiles").rglob("*"):
        assert path.is_dir() or path.suffix == ".json"


@pytest.mark.parametrize("examples", [400, pytest.param(100_000, marks=pytest.mark.slow)])
def test_the_routes_hold(server, examples):
    routes_hold(server, examples)
