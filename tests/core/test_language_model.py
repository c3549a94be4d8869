"""The language-model encoder, on small real models made on the spot."""

import gc
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from damage import hostile_pickle
from safetensors.torch import load_file, save_file
from tiny_llm import TEMPLATES, make_tiny_llm

from psa_core import LEVELS, PSAError, UserProfile
from psa_core.encoders.cache import EmbeddingCache
from psa_core.encoders.language_model import LanguageModelEncoder
from psa_core.profile import CATEGORIES

SIX = list(LEVELS.values())
SECRET = UserProfile(47, "female", "Buddhism", "hearing impairment", "sexual assault", user_id="7654321")
SECRET_WORDS = ("7654321", "female", "Buddhism", "hearing", "assault", "Propaganda", "47,", ": 47")


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("models") / "Tiny")


@pytest.fixture(scope="module")
def teller(tmp_path_factory) -> Path:
    """A model that bans Hate and Violence, whoever asks."""
    return make_tiny_llm(tmp_path_factory.mktemp("models") / "Teller", reply="violence, HATE")


@pytest.fixture
def copy(llm, tmp_path) -> Path:
    return shutil.copytree(llm, tmp_path / "copy")


@pytest.fixture
def templates(tmp_path) -> Path:
    return shutil.copytree(TEMPLATES, tmp_path / "templates")


class Spy:
    """A placement that counts its calls and sees the model."""

    def __init__(self) -> None:
        self.calls = self.releases = 0
        self.model = lambda: None

    def __call__(self, model):
        self.calls += 1
        self.model = weakref.ref(model)
        return torch.device("cpu")

    def release(self):
        self.releases += 1


def by_hand(folder: Path, profile: UserProfile, template: str) -> torch.Tensor:
    """The recipe written out: output_hidden_states of the whole model, mean over the prompt's tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    values = {
        "<<AGE>>": profile.age,
        "<<AGE_GROUP>>": profile.age_group,
        "<<GENDER>>": profile.gender,
        "<<RELIGION>>": profile.religion,
        "<<MENTAL>>": profile.mental_condition,
        "<<PHYSICAL>>": profile.physical_condition,
        "<<BANNED>>": sorted(profile.banned_categories),
        "<<ALLOWED>>": sorted(set(CATEGORIES) - set(profile.banned_categories)),
    }
    for placeholder, value in values.items():
        template = template.replace(placeholder, str(value))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": template}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n")
    with torch.no_grad():
        hidden = model(**tokenizer([text], return_tensors="pt"), output_hidden_states=True).hidden_states[-1]
    assert hidden.shape[1] > 50
    return hidden[0].sum(dim=0) / hidden.shape[1]


def test_the_embedding_is_the_mean_of_the_last_hidden_states(llm):
    template = (TEMPLATES / "get_embeds.txt").read_text(encoding="utf-8")
    encoder = LanguageModelEncoder(llm)
    embedding = encoder.encode(SIX)
    assert embedding.vectors.shape == (6, 64)
    assert embedding.vectors.dtype == torch.float32
    assert (embedding.encoder_id, embedding.dim) == (encoder.id, encoder.dim)
    for row, profile in zip(embedding.vectors, SIX, strict=True):
        torch.testing.assert_close(row, by_hand(llm, profile, template), rtol=1e-5, atol=1e-6)


def test_half_precision_models_are_averaged_in_float32(tmp_path):
    folder = make_tiny_llm(tmp_path / "half")
    weights = {key: value.bfloat16() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["dtype" if "dtype" in config else "torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    spy = Spy()
    encoder = LanguageModelEncoder(folder, placement=spy)
    vectors = encoder.encode(SIX[:1]).vectors
    assert next(spy.model().parameters()).dtype == torch.bfloat16
    assert not torch.equal(vectors, vectors.bfloat16().float())  # a mean taken in bfloat16 would be exact in it


def test_a_batch_and_single_profiles_give_the_same_bits(llm):
    encoder = LanguageModelEncoder(llm)
    batch = encoder.encode(SIX).vectors
    alone = torch.cat([LanguageModelEncoder(llm).encode([profile]).vectors for profile in SIX])
    assert torch.equal(batch, alone)
    assert torch.equal(encoder.encode(SIX[::-1]).vectors, batch.flip(0))
    assert len({tuple(row.tolist()) for row in batch}) == 6


def test_the_embedding_is_the_same_in_every_process(llm):
    """Sets of strings have another order in every process: nothing may depend on it."""
    script = (
        "import sys; from psa_core import LEVELS; from psa_core.encoders.language_model import LanguageModelEncoder; "
        "e = LanguageModelEncoder(sys.argv[1]); print(e.id, e.encode([LEVELS['L4']]).vectors.numpy().tobytes().hex())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, llm],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0][0] == LanguageModelEncoder(llm).id


def test_the_result_takes_part_in_training(llm):
    layer = torch.nn.Linear(64, 2)
    layer(LanguageModelEncoder(llm).encode(SIX[:1]).vectors).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def prompts(encoder: LanguageModelEncoder, profile: UserProfile, monkeypatch) -> list[list[dict]]:
    """The messages that the encoder puts through the chat template."""
    from transformers import PreTrainedTokenizerBase

    seen, original = [], PreTrainedTokenizerBase.apply_chat_template

    def record(self, messages, **options):
        seen.append(messages)
        return original(self, messages, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", record)
    encoder.encode([profile])
    return seen


def test_what_the_model_reads(llm, templates, monkeypatch):
    (templates / "get_embeds.txt").write_text(
        "<<AGE>>|<<AGE_GROUP>>|<<GENDER>>|<<RELIGION>>|<<MENTAL>>|<<PHYSICAL>>|<<BANNED>>|<<ALLOWED>>|<<AGE>>"
    )
    profile = replace(LEVELS["L1"], banned_categories=("Violence", "Hate", "Self-Harm"))
    ((message,),) = prompts(LanguageModelEncoder(llm, templates), profile, monkeypatch)
    assert message == {
        "role": "user",
        "content": "35|middle-aged|male|None|major accidents|hearing impairment|['Hate', 'Self-Harm', 'Violence']|"
        "['Harassment', 'Propaganda', 'Sexuality', 'Shocking']|35",
    }


def test_what_the_model_is_asked_about_bans(teller, templates, monkeypatch):
    (templates / "get_banned.txt").write_text("Who? <<USER_DATA>>")
    encoder = LanguageModelEncoder(teller, templates, banned_by="language model")
    (system, user), _ = prompts(encoder, SECRET, monkeypatch)
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    assert user["role"] == "user"
    assert json.loads(user["content"].removeprefix("Who? ")) == {
        "Age": 47,
        "Age_Group": "middle-aged",
        "Gender": "female",
        "Religion": "Buddhism",
        "Physical_Condition": "hearing impairment",
        "Mental_Condition": "sexual assault",
    }


def test_the_language_models_word_on_bans_replaces_the_profiles(teller):
    asked = LanguageModelEncoder(teller, banned_by="language model")
    told = LanguageModelEncoder(teller)
    for profile in (SIX[0], SIX[5]):
        word = replace(profile, banned_categories=("Hate", "Violence"))
        assert torch.equal(asked.encode([profile]).vectors, told.encode([word]).vectors)
        assert not torch.equal(asked.encode([profile]).vectors, told.encode([profile]).vectors)


def test_replies_are_greedy_whatever_the_folder_says_about_sampling(llm):
    first, second = (LanguageModelEncoder(llm, banned_by="language model").encode(SIX[:1]).vectors for _ in range(2))
    assert torch.equal(first, second)


def test_published_templates_are_read(llm, published):
    encoder = LanguageModelEncoder(llm, published)
    template = (published / "get_embeds.txt").read_text(encoding="utf-8")
    torch.testing.assert_close(
        encoder.encode([SIX[3]]).vectors[0], by_hand(llm, SIX[3], template), rtol=1e-5, atol=1e-6
    )
    assert encoder.id != LanguageModelEncoder(llm).id
    assert LanguageModelEncoder(llm, published, banned_by="language model").encode([SIX[0]]).dim == 64


@pytest.mark.parametrize("name, placeholder", [("get_embeds.txt", "<<RELIGION>>"), ("get_banned.txt", "<<USER_DATA>>")])
def test_templates_must_have_every_placeholder_and_no_other(llm, templates, name, placeholder):
    path = templates / name
    text = path.read_text()
    path.write_text(text.replace(placeholder, "nothing"))
    with pytest.raises(PSAError, match=f"{name} lacks {placeholder}"):
        LanguageModelEncoder(llm, templates)
    path.write_text(text + "<<Age>> <<NAME>>")
    with pytest.raises(PSAError, match=f"{name} has the unknown <<Age>>, <<NAME>>"):
        LanguageModelEncoder(llm, templates)
    path.write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    with pytest.raises(PSAError, match="UTF-8"):
        LanguageModelEncoder(llm, templates)
    path.unlink()
    with pytest.raises(PSAError, match=name):
        LanguageModelEncoder(llm, templates)


def test_the_id_says_what_an_embedding_depends_on_and_nothing_else(llm, copy, templates):
    first = LanguageModelEncoder(llm)
    assert re.fullmatch(r"language-model:qwen2-64:[0-9a-f]{12}", first.id)
    assert first.dim == 64
    os.utime(copy / "model.safetensors", (0, 0))
    (copy / "README.md").write_text("about")
    assert LanguageModelEncoder(copy, templates).id == first.id  # another folder, another time, the same content
    ids = {first.id}
    for path in (copy / "tokenizer.json", copy / "tokenizer_config.json", copy / "generation_config.json"):
        path.write_text(path.read_text() + "\n")
        ids.add(LanguageModelEncoder(copy).id)
    for path in sorted(templates.iterdir()):
        path.write_text(path.read_text() + "\n")
        ids.add(LanguageModelEncoder(llm, templates).id)
    assert len(ids) == 6


@pytest.mark.parametrize("key", ["model.norm.weight", "model.layers.0.self_attn.v_proj.weight", "lm_head.weight"])
def test_a_fine_tune_has_another_id(llm, copy, key):
    weights = load_file(copy / "model.safetensors")
    weights[key] += 0.01
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert LanguageModelEncoder(copy).id != LanguageModelEncoder(llm).id


def test_a_fine_tune_of_a_large_file_is_told_from_its_middle(copy):
    """Large enough that the first and last MiB do not cover it, as in every real model."""
    path = copy / "model.safetensors"
    save_file({"a": torch.zeros(1 << 20), "b": torch.zeros(1 << 20), "c": torch.zeros(1 << 20)}, path)
    before = LanguageModelEncoder(copy).id
    save_file({"a": torch.zeros(1 << 20), "b": torch.ones(1 << 20), "c": torch.zeros(1 << 20)}, path)
    assert LanguageModelEncoder(copy).id != before


def test_the_model_is_read_late_used_in_place_and_dropped(llm):
    spy = Spy()
    encoder = LanguageModelEncoder(llm, placement=spy)
    assert (encoder.dim, spy.calls) == (64, 0)
    first = encoder.encode(SIX[:2]).vectors
    model = spy.model
    assert (spy.calls, spy.releases) == (2, 0)
    encoder.encode(SIX[:1])
    assert spy.model() is model() is not None  # kept
    encoder.release()
    encoder.release()
    gc.collect()
    assert (model(), spy.releases) == (None, 1)
    assert torch.equal(encoder.encode(SIX[:2]).vectors, first)


def test_a_model_that_is_not_kept_is_released_even_after_a_failure(llm, monkeypatch):
    spy = Spy()
    encoder = LanguageModelEncoder(llm, placement=spy, keep_loaded=False)
    encoder.encode(SIX)
    gc.collect()
    assert (spy.model(), spy.calls, spy.releases) == (None, 6, 1)

    def fails(model):
        raise RuntimeError("no room")

    failing = Spy()
    monkeypatch.setattr(Spy, "__call__", lambda self, model: fails(model))
    with pytest.raises(RuntimeError, match="no room"):
        LanguageModelEncoder(llm, placement=failing, keep_loaded=False).encode(SIX[:1])
    assert failing.releases == 1


def test_a_cached_profile_needs_no_weights(llm, copy, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    spies = [Spy() for _ in range(4)]
    first = LanguageModelEncoder(llm, cache=cache, placement=spies[0]).encode(SIX[:3])
    again = LanguageModelEncoder(copy, cache=cache, placement=spies[1]).encode([*SIX[2::-1], SIX[0]])
    assert torch.equal(again.vectors, first.vectors[[2, 1, 0, 0]])
    assert again.encoder_id == first.encoder_id
    LanguageModelEncoder(llm, cache=cache, placement=spies[2]).encode(SIX)
    LanguageModelEncoder(llm, cache=cache, placement=spies[3], banned_by="language model").encode(SIX[:1])
    assert [spy.calls for spy in spies] == [3, 0, 3, 2]


def test_a_damaged_cache_entry_is_computed_again(llm, tmp_path):
    cache, spy = EmbeddingCache(tmp_path / "cache"), Spy()
    encoder = LanguageModelEncoder(llm, cache=cache, placement=spy)
    first = encoder.encode(SIX[:1]).vectors
    (entry,) = cache.folder.glob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-4] + b"\0\0\0\0")
    assert torch.equal(encoder.encode(SIX[:1]).vectors, first)
    assert torch.equal(encoder.encode(SIX[:1]).vectors, first)
    assert spy.calls == 2


def test_nothing_of_a_profile_is_logged(llm, templates, tmp_path, caplog, capfd, recwarn):
    import transformers

    transformers.utils.logging.enable_propagation()
    before = transformers.utils.logging.get_verbosity()
    try:
        with caplog.at_level(logging.DEBUG):
            encoder = LanguageModelEncoder(
                llm, banned_by="language model", cache=EmbeddingCache(tmp_path / "cache"), placement=Spy()
            )
            encoder.encode([SECRET])
            said = [caplog.text, *capfd.readouterr(), repr(encoder), repr(vars(encoder)), *map(str, recwarn)]
        assert transformers.utils.logging.get_verbosity() == before
    finally:
        transformers.utils.logging.disable_propagation()
    names = [str(path) for path in tmp_path.rglob("*")]
    assert len(names) > 2
    for word in SECRET_WORDS:
        assert word not in "\n".join([*names, *said[:4], *said[5:]])
    assert "WARNING" not in caplog.text and not recwarn.list and not said[1] and not said[2]


def test_no_connection_is_tried(llm, monkeypatch):
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    LanguageModelEncoder(llm, banned_by="language model").encode(SIX[:1])
    assert tried == []


def test_a_missing_model_says_where_to_put_it(tmp_path):
    with pytest.raises(PSAError) as caught:
        LanguageModelEncoder(tmp_path / "models" / "LLM" / "Qwen2.5-7B-Instruct")
    for part in (str(tmp_path), "models/LLM", "hf download Qwen/Qwen2.5-7B-Instruct --local-dir"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name, words",
    [("config.json", "config.json"), ("tokenizer.json", "tokenizer"), ("model.safetensors", "safetensors")],
)
def test_a_missing_part_of_a_model_is_one_sentence(copy, name, words):
    (copy / name).unlink()
    with pytest.raises(PSAError, match=words):
        LanguageModelEncoder(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_part_of_a_model_is_one_sentence(copy, name, kept):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(PSAError) as caught:
        LanguageModelEncoder(copy).encode([SECRET])
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in SECRET_WORDS)


def test_pickled_weights_are_not_read(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(hostile_pickle(tmp_path / "ran"))
    with pytest.raises(PSAError, match=r"\.bin"):
        LanguageModelEncoder(copy).encode(SIX[:1])
    assert not (tmp_path / "ran").exists()


def test_code_in_the_folder_is_not_run(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config |= {
        "model_type": "new",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(PSAError):
        LanguageModelEncoder(copy).encode(SIX[:1])
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_a_tensor_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PSAError, match="up_proj"):
        LanguageModelEncoder(copy).encode(SIX[:1])


def test_weights_in_several_files(llm, copy):
    expected = LanguageModelEncoder(llm).encode(SIX[:1]).vectors
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    place = {key: names[number % 2] for number, key in enumerate(weights)}
    for name in names:
        save_file({key: weights[key] for key in weights if place[key] == name}, copy / name, metadata={"format": "pt"})
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    assert torch.equal(LanguageModelEncoder(copy).encode(SIX[:1]).vectors, expected)
    content = (copy / names[1]).read_bytes()
    (copy / names[1]).write_bytes(content[:-1])
    with pytest.raises(PSAError, match=names[1]):
        LanguageModelEncoder(copy).encode(SIX[:1])
    (copy / names[1]).unlink()
    with pytest.raises(PSAError, match=names[1]):
        LanguageModelEncoder(copy)
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(PSAError, match="elsewhere"):
        LanguageModelEncoder(copy)
    index.write_text("[]")
    with pytest.raises(PSAError, match="damaged"):
        LanguageModelEncoder(copy)


def test_a_model_without_a_chat_template_is_refused(copy):
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(PSAError, match="chat template"):
        LanguageModelEncoder(copy).encode(SIX[:1])


def test_a_chat_template_that_refuses_does_not_quote_the_prompt(copy):
    (copy / "chat_template.jinja").write_text("{{ raise_exception(messages[-1]['content']) }}")
    with pytest.raises(PSAError, match="chat template") as caught:
        LanguageModelEncoder(copy).encode([SECRET])
    assert caught.value.__suppress_context__
    assert not any(word in str(caught.value) for word in SECRET_WORDS)


def test_a_prompt_longer_than_the_context_is_refused_not_cut(tmp_path):
    short = make_tiny_llm(tmp_path / "short", context=64)
    with pytest.raises(PSAError, match="64 tokens") as caught:
        LanguageModelEncoder(short).encode([SECRET])
    assert not any(word in str(caught.value) for word in SECRET_WORDS)
    room_for_the_prompt_alone = make_tiny_llm(tmp_path / "shorter", context=500)
    assert LanguageModelEncoder(room_for_the_prompt_alone).encode([SECRET]).dim == 64
    with pytest.raises(PSAError, match="reply"):
        LanguageModelEncoder(room_for_the_prompt_alone, banned_by="language model").encode([SECRET])


@pytest.mark.parametrize("profiles", [[], SIX[0], [None], ["L0"], None])
def test_only_lists_of_profiles_are_encoded(llm, profiles):
    with pytest.raises(PSAError):
        LanguageModelEncoder(llm).encode(profiles)


def test_who_bans_is_one_of_two(llm):
    with pytest.raises(PSAError, match="language model"):
        LanguageModelEncoder(llm, banned_by="nobody")
