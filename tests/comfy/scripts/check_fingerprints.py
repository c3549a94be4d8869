"""Inside ComfyUI: whether a node runs again once a file has changed that its result depends on. Argument: a folder."""

import sys
from pathlib import Path

from in_comfyui import pack_module, run_checks, start_comfyui

base = Path(sys.argv[1])
start_comfyui("--base-directory", str(base))

import folder_paths

build, concepts, dataset, embedding, evaluate, guard, user_space = (
    pack_module(f"nodes.{name}")
    for name in ("build", "concepts", "dataset", "embedding", "evaluate", "guard", "user_space")
)
adapter = pack_module("nodes.adapter")
pack_module("nodes.comfy.folders").register()
inputs, models = Path(folder_paths.get_input_directory()), Path(folder_paths.models_dir)


def changes(node, given: dict, *paths: Path) -> None:
    """Each of the files, once it is written, and once it is gone, gives another fingerprint; time alone does not."""
    for path in paths:
        before = node.fingerprint_inputs(**given)
        assert node.fingerprint_inputs(**given) == before, "it would run each time"
        whole = path.read_bytes() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((whole or b"") + b"\n")
        written = node.fingerprint_inputs(**given)
        assert written != before, f"{node.__name__} does not see {path.relative_to(base)}"
        path.unlink()
        assert node.fingerprint_inputs(**given) not in (before, written) or whole is None
        if whole is not None:
            path.write_bytes(whole)


def always(node, **given) -> None:
    assert node.fingerprint_inputs(**given) != node.fingerprint_inputs(**given)


def data_set(folder: Path) -> list[Path]:
    """A data set's files, whatever is in them, and those of answers, which are not there yet."""
    there = ["users.jsonl", "pairs.jsonl", "pictures/a.jpg"]
    for split in ("train", "val", "harmless"):
        there += [f"{split}/pairs.jsonl", f"{split}/metadata.jsonl", f"{split}/b.jpg", f"{split}/images/c.jpg"]
    for name in there:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [folder / name for name in (*there, "answers.jsonl", "judged.jsonl")]


def check_a_built_data_set():
    files = data_set(inputs / "psa_datasets" / "built")
    changes(build.BuildDataset, {"name": "built"}, *files)
    given = inputs / "people.csv", inputs / "prompts.jsonl"
    changes(build.BuildDataset, {"name": "built", "users_file": "people.csv", "prompts_file": "prompts.jsonl"}, *given)
    changes(build.BuildDataset, {"name": "built", "judge_location": str(base / "judge")}, base / "judge" / "prompts.p")
    for linked in ("name", "users_file", "prompts_file", "judge_location"):
        always(build.BuildDataset, **{"name": "built", linked: None})


def check_a_data_set_that_is_read():
    files = data_set(inputs / "read")
    changes(dataset.LoadDataset, {"folder": "read", "split": "train", "skip_bad": False}, *files)
    elsewhere = {"folder": "none", "split": "train", "skip_bad": False, "elsewhere": f" {inputs / 'read'} "}
    changes(dataset.LoadDataset, elsewhere, *files)
    (inputs / "read" / "users.csv").write_text("User_ID")
    with_users = {"folder": "read", "split": "train", "skip_bad": False, "users": "users.csv"}
    before = dataset.LoadDataset.fingerprint_inputs(**with_users)
    (inputs / "read" / "users.csv").write_text("User_ID,Age")
    assert dataset.LoadDataset.fingerprint_inputs(**with_users) != before
    for linked in ("folder", "users", "elsewhere"):
        always(dataset.LoadDataset, **{"folder": "read", "split": "train", "skip_bad": False, linked: None})


def check_users():
    changes(user_space.UserSpace, {"users": "people.csv"}, inputs / "people.csv")
    assert user_space.UserSpace.fingerprint_inputs() == user_space.UserSpace.fingerprint_inputs(users="")
    always(user_space.UserSpace, users=None)


def check_judges():
    for node in (evaluate.Evaluate, guard.PictureGuard):
        changes(node, {"judge_location": str(base / "judge")}, base / "judge" / "model.safetensors")
        same = {"judge_location": "http://127.0.0.1:8000/v1"}
        assert node.fingerprint_inputs(**same) == node.fingerprint_inputs(**same)
        always(node, judge_location=None)


def check_language_models():
    model, templates = models / "LLM" / "tiny", models / "psa_templates" / "theirs"
    (templates / "get_embeds.txt").parent.mkdir(parents=True)
    named = {"encoder_name": "tiny", "templates": "theirs"}
    changes(embedding.LoadEncoder, named, model / "config.json", templates / "get_embeds.txt")
    always(embedding.LoadEncoder, encoder_name=None, templates="ours")
    plain = {"encoder_name": "structured", "templates": None}
    assert embedding.LoadEncoder.fingerprint_inputs(**plain) == embedding.LoadEncoder.fingerprint_inputs(**plain)
    changes(concepts.Concepts, {"writer": "tiny"}, model / "model.safetensors")


def check_answers_of_a_writer():
    kept = Path(folder_paths.get_user_directory()) / "__psa_prompts" / "default" / "0123.answers.jsonl"
    for writer in ("server", "tiny"):
        before = concepts.Concepts.fingerprint_inputs(writer=writer)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("")
        assert concepts.Concepts.fingerprint_inputs(writer=writer) != before
        kept.unlink()
    always(concepts.Concepts, writer=None)
    same = concepts.Concepts.fingerprint_inputs(writer="templates")
    assert concepts.Concepts.fingerprint_inputs(writer="templates") == same


def check_a_file_whose_name_comes_from_another_node():
    folder = models / "psa_adapters"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "one.safetensors"
    path.write_bytes(b"1")
    before = adapter.LoadAdapter.fingerprint_inputs(adapter_name=None)
    assert adapter.LoadAdapter.fingerprint_inputs(adapter_name=None) == before
    path.write_bytes(b"12")
    assert adapter.LoadAdapter.fingerprint_inputs(adapter_name=None) != before


run_checks(globals())
