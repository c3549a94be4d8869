"""Nothing of a stored profile but its name leaves the store."""

import json
import os
import re
from io import BytesIO
from pathlib import Path

import pytest
from checkpoints import small_adapter, small_unet
from graphs import apply, call, draw, encode, psa_stored, queue_as, save, txt2img, wait
from PIL import Image
from small_models import add_models

from psa_core import save_adapter
from psa_core.comfy_server import ComfyServer
from psa_core.errors import PSAError

PERSON = {
    "Age": 67,
    "Gender": "female",
    "Religion": "Buddhism",
    "Physical_Condition": "hearing impairment",
    "Mental_Condition": "natural disasters",
    "Banned_Categories": ["Propaganda", "Shocking"],
}
# Words of the profile and of its form in the store; a number and a gender are no words to look for.
SECRETS = re.compile(
    "Buddhism|hearing.impairment|natural.disasters|young.elderly|Propaganda|Shocking|Age_Group|Banned_Categories"
    r"|Physical_Condition|Mental_Condition|[\"']Age[\"']",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    """A server where nobody types a profile into a node: its words can come from the store alone."""
    base = tmp_path_factory.mktemp("privacy")
    add_models(base, sd15_checkpoint)
    adapter = small_adapter(small_unet("sd15"))
    adapter.encoder_id = "some-language-model"
    save_adapter(adapter, base / "models" / "psa_adapters" / "other-encoder.safetensors")
    with ComfyServer(comfy, base) as running:
        yield running


@pytest.fixture(scope="module")
def stored(server):
    status, answer = call(server, "/psa/profiles", {"name": "viewer", "profile": PERSON})
    assert (status, json.loads(answer)) == (200, {"names": ["viewer"]})
    return server.base / "user" / "__psa_profiles" / "default" / "viewer.json"


def check_silence(text: str | bytes, where: str) -> None:
    found = SECRETS.search(text if isinstance(text, str) else text.decode("utf-8", "replace"))
    assert found is None, f"{where} holds {found[0]!r}"


def check_server(server) -> None:
    for path in ("/history", "/queue", "/internal/logs", "/internal/logs/raw", "/psa/profiles", "/userdata?dir="):
        check_silence(call(server, path)[1], path)
    check_silence(server.log, "the log")


def watched(graph):
    """A graph with stock nodes that print what comes out of our sockets."""
    for node in ("PSALoadProfile", "PSAEncode", "PSALoadAdapter", "PSAApply"):
        (number,) = (n for n, entry in graph.prompt.items() if entry["class_type"] == node)
        graph.add("PreviewAny", source=[number, 0])
    return graph


def run_to_history(server, graph):
    """Run a graph that may fail, and return or raise once that is in the history."""
    save(graph)
    return wait(server, queue_as(server, graph, "default"))


def test_a_picture_for_a_stored_profile_tells_only_its_name(server, stored):
    graph = watched(txt2img(psa_stored("viewer")))
    save(graph)
    workflow = {
        "nodes": [{"id": int(n), "type": e["class_type"], "widgets_values": []} for n, e in graph.prompt.items()],
        "links": [],
        "version": 0.4,
    }
    queued = []
    prompt_id = server.run(
        graph.prompt,
        on_progress=lambda *_: queued.append(call(server, "/queue")[1]),
        extra_data={"extra_pnginfo": {"workflow": workflow}},
    )
    assert any(prompt_id.encode() in entry for entry in queued), "the queue was never seen at work"
    for entry in queued:
        check_silence(entry, "/queue at work")
    outputs = server.history(prompt_id)["outputs"]
    previews = [text for entry in outputs.values() for text in entry.get("text", ())]
    assert len(previews) == 4
    (picture,) = (image for entry in outputs.values() for image in entry.get("images", ()))
    chunks = Image.open(BytesIO(server.image(**picture))).text
    assert '"profile_name": "viewer"' in chunks["prompt"] and "workflow" in chunks
    for name, text in chunks.items():
        check_silence(text, f"the picture's {name}")
        assert str(server.base) not in text  # nor where the server keeps its models
    fingerprints = {node["class_type"]: node.get("is_changed") for node in json.loads(chunks["prompt"]).values()}
    for name in ("PSALoadProfile", "PSALoadAdapter"):
        (fingerprint,) = fingerprints[name]
        assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    check_server(server)


def test_a_failing_run_tells_only_the_name(server, stored):
    with pytest.raises(PSAError, match="some-language-model") as refusal:
        run_to_history(server, watched(txt2img(psa_stored("viewer", adapter="other-encoder.safetensors"))))
    check_silence(str(refusal.value), "the error")
    assert b"some-language-model" in call(server, "/history")[1]
    check_server(server)


def test_a_damaged_stored_profile_is_not_quoted(server, stored):
    folder = stored.parent
    (folder / "damaged.json").write_text(stored.read_text()[:-20])
    (folder / "wrong.json").write_text(json.dumps(PERSON | {"Religion": "Buddhism, lapsed"}))
    for name in ("damaged", "wrong"):
        with pytest.raises(PSAError, match=f"stored profile '{name}'") as refusal:
            run_to_history(server, txt2img(psa_stored(name)))
        # A refusal may list the words that a field takes; it must not single out one that was given.
        assert "lapsed" not in str(refusal.value)
        assert "hearing" not in str(refusal.value)
    for text in (server.log, call(server, "/history")[1].decode()):
        assert "lapsed" not in text and "hearing" not in text


def test_copying_a_stored_profile_in_a_graph_tells_nothing(server, stored):
    graph = txt2img(psa_stored("viewer"))
    (number,) = (n for n, entry in graph.prompt.items() if entry["class_type"] == "PSALoadProfile")
    graph.add("PSASaveProfile", profile=[number, 0], name="copy", overwrite=False)
    draw(server, graph)
    assert json.loads((stored.parent / "copy.json").read_text()) == json.loads(stored.read_text())
    assert "hearing" not in server.log and "hearing" not in call(server, "/history")[1].decode()


def test_a_refused_profile_is_not_repeated(server, stored):
    for change in ({"Religion": "zoroastrian"}, {"Age": "zoroastrian"}, {"Gender": ["zoroastrian"]}):
        status, answer = call(server, "/psa/profiles", {"name": "refused", "profile": PERSON | change})
        assert status == 400 and answer
        assert "zoroastrian" not in answer.decode() + server.log
    assert not (stored.parent / "refused.json").exists()


def test_the_store_is_closed_to_others(server, stored):
    assert json.loads(stored.read_text())["Religion"] == PERSON["Religion"]
    if os.name != "nt":
        for path in (stored, stored.parent):
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    "path",
    [
        "/userdata/..%2F__psa_profiles%2Fdefault%2Fviewer.json",
        "/userdata/%2E%2E%2F__psa_profiles%2Fdefault%2Fviewer.json",
        "/userdata/__psa_profiles%2Fdefault%2Fviewer.json",
        "/userdata?dir=..%2F__psa_profiles&recurse=true&full_info=true",
        "/userdata?dir=__psa_profiles&recurse=true",
        "/userdata?dir=.&recurse=true",
        "/v2/userdata?path=..%2F__psa_profiles%2Fdefault",
        "/view?filename=viewer.json&type=output&subfolder=..%2Fuser%2F__psa_profiles%2Fdefault",
        "/view?filename=..%2Fuser%2F__psa_profiles%2Fdefault%2Fviewer.json&type=output",
        "/view?filename=viewer.json&type=temp&subfolder=..%2Fuser%2F__psa_profiles%2Fdefault",
        "/psa/profiles/viewer",
        "/extensions/comfyui-psa/../../user/__psa_profiles/default/viewer.json",
    ],
)
@pytest.mark.parametrize("user", [None, "__psa_profiles"])
def test_the_store_is_not_served(path, user, server, stored):
    status, body = call(server, path, user=user)
    check_silence(body, path)
    assert b"viewer.json" not in body or status >= 400


def test_no_other_file_tells_of_a_stored_profile(server, stored):
    """After all of the above: pictures, latents, previews, the database, the log and every file name."""
    draw(server, txt2img(lambda graph, model: apply(graph, model, encode(graph, load(graph), load(graph)))))
    seen = 0
    for folder, _, files in os.walk(server.base):
        if Path(folder).is_relative_to(stored.parent) or Path(folder).is_relative_to(server.base / "models"):
            continue
        for path in (Path(folder, file) for file in files):
            check_silence(str(path.relative_to(server.base)), "a file name")
            content = path.read_bytes()
            for secret in (b"hearing impairment", b"natural disasters", b"Banned_Categories", b"young elderly"):
                assert secret not in content, f"{path} holds {secret!r}"
            seen += 1
    assert seen > 3


def load(graph):
    return graph.add("PSALoadProfile", profile_name="viewer")
